"""Who is champion: the test split stays closed until validation is won, and openings are numbered once."""

import json
from datetime import date

import mlflow
import pytest
from mlflow.tracking import MlflowClient

import fttune
from fttune.app import champion as module
from fttune.app.champion import contest, reevaluate
from fttune.config import Study, load_study
from fttune.config.workspace import Workspace
from fttune.report.takeover import level_of
from fttune.training.events import KEEP
from tests.nightly.digits import write_digits, write_night_study
from tests.stored import plain_mlflow, runs_of

TONIGHT = date(2026, 12, 1)


@pytest.fixture
def study(workspace: Workspace) -> Study:
    write_digits(workspace.root / "digits", each=40)
    return load_study(write_night_study(workspace.root, budget__n_trials=1, confirm={"top_k": 1, "seeds": 5}))


def searched(study: Study, workspace: Workspace, trials: int) -> Study:
    more = study.until(trials)
    fttune.search(more, workspace=workspace)
    return more


def openings(workspace: Workspace) -> list[dict[str, object]]:
    tags = MlflowClient(workspace.mlflow_uri).get_registered_model("digits").tags
    return [json.loads(tags[key]) for key in sorted(tags) if key.startswith("fttune.opening.")]


def test_the_first_winner_is_champion_and_its_model_loads(study: Study, workspace: Workspace) -> None:
    found = contest(searched(study, workspace, 1), workspace=workspace)
    assert (found.takeover.changed, found.takeover.version) == (True, "1")
    version = MlflowClient(workspace.mlflow_uri).get_model_version_by_alias("digits", "champion")
    values = dict(zip(found.confirmation.seeds, found.confirmation.candidates[0].val, strict=True))
    assert values[int(version.tags["fttune.seed"])] == max(values.values()), "the model that validates best"
    assert openings(workspace) == [], "nobody challenged"
    with plain_mlflow(workspace.mlflow_uri):
        assert mlflow.pyfunc.load_model("models:/digits@champion").metadata.signature is not None
    runs = runs_of(workspace.mlflow_uri)
    confirmed = runs[runs["tags.fttune.kind"] == "confirm"]
    assert set(confirmed[f"tags.{KEEP}"]) == {"champion of digits"}


def test_nobody_opens_the_test_split_who_does_not_beat_the_champion_on_validation(
    study: Study, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    contest(searched(study, workspace, 1), workspace=workspace)
    worse = load_study(workspace.root / "studies" / "digits.yaml", ["confirm.top_k=1"])
    monkeypatch.setattr("fttune.app.confirm.open_test", lambda *_, **__: pytest.fail("the test split was opened"))
    again = contest(searched(worse, workspace, 1), workspace=workspace)
    assert "still leads on validation" in again.takeover.why
    equal = contest(searched(worse, workspace, 2), workspace=workspace)
    assert not equal.takeover.changed
    assert openings(workspace) == []


def test_a_better_one_takes_over_with_its_figures_on_record(study: Study, workspace: Workspace) -> None:
    contest(searched(study, workspace, 1), workspace=workspace)
    found = contest(searched(study, workspace, 4), workspace=workspace)
    assert found.takeover.changed and "takes over from trial 0" in found.takeover.why
    (opening,) = openings(workspace)
    judgement = opening["judgement"]
    assert isinstance(judgement, dict)
    assert judgement["challenger"] > judgement["champion"]
    assert judgement["level"] == pytest.approx(level_of(1))
    version = MlflowClient(workspace.mlflow_uri).get_model_version_by_alias("digits", "champion")
    assert (str(version.version), version.tags["fttune.openings"]) == ("2", "1")
    assert version.tags["fttune.rule"].startswith("better on the same test samples")
    runs = runs_of(workspace.mlflow_uri)
    (tested,) = runs["tags.fttune.judgement"].dropna()
    assert tested == version.tags["fttune.judgement"]


def test_an_opening_that_was_cut_off_keeps_its_number_and_one_that_was_judged_is_not_judged_again(
    study: Study, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    contest(searched(study, workspace, 1), workspace=workspace)
    better = searched(study, workspace, 4)
    with monkeypatch.context() as cut_off:
        cut_off.setattr(module, "judge", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            contest(better, workspace=workspace)
    assert [one["opening"] for one in openings(workspace)] == [1]
    with monkeypatch.context() as cut_off:
        cut_off.setattr(module, "checkpoint_of", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            contest(better, workspace=workspace)  # judged, and not crowned
    monkeypatch.setattr(module, "judge", lambda *_: pytest.fail("judged twice"))
    assert contest(better, workspace=workspace).takeover.changed
    assert [one["opening"] for one in openings(workspace)] == [1]


def test_an_alarm_is_told_again_in_the_same_night_and_judged_once(
    study: Study, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    contest(searched(study, workspace, 4), workspace=workspace)
    assert reevaluate(study, TONIGHT, workspace=workspace) is None, "the data are the same"
    (workspace.root / "digits" / "3").rename(workspace.root / "digits" / "9")
    alarm = reevaluate(study, TONIGHT, workspace=workspace)
    assert alarm is not None and "0 gained" in alarm
    monkeypatch.setattr(module, "drop", lambda *_: pytest.fail("judged twice"))
    assert reevaluate(study, TONIGHT, workspace=workspace) == alarm
    assert reevaluate(study, date(2026, 12, 2), workspace=workspace) is None


def checkpoints(workspace: Workspace) -> set[str]:
    """Return the keys of the runs of a confirmation that have a checkpoint."""
    runs = runs_of(workspace.mlflow_uri).set_index("run_id")["tags.fttune.run"]
    files = workspace.artifacts.rglob("checkpoint/best.safetensors")
    return {key for file in files if "/confirm/" in (key := runs.get(file.parents[2].name, "deleted/confirm/"))}


@pytest.mark.usefixtures("study")
def test_retention_takes_old_confirmations_and_deleted_runs_and_never_a_champion_or_a_pinned_run(
    workspace: Workspace,
) -> None:
    client, file = MlflowClient(workspace.mlflow_uri), workspace.root / "studies" / "digits.yaml"
    two = load_study(file, ["retention.keep=best_1", "confirm.top_k=2", "confirm.seeds=3"])
    found = contest(searched(two, workspace, 2), workspace=workspace)
    champion, loser = (one.trial for one in found.confirmation.candidates)
    every = {f"digits/confirm/{trial}/{seed}" for trial in (champion, loser) for seed in (1, 2, 3)}
    assert checkpoints(workspace) == every, "candidates of now"
    runs = runs_of(workspace.mlflow_uri).set_index("tags.fttune.run")["run_id"]
    client.set_tag(runs[f"digits/confirm/{loser}/2"], KEEP, "wanted")
    client.delete_run(runs[f"digits/confirm/{loser}/3"])
    one = load_study(file, ["retention.keep=best_1", "confirm.seeds=3"])
    contest(searched(one, workspace, 4), workspace=workspace)
    kept = checkpoints(workspace)
    assert {key for key in kept if f"/{loser}/" in key} == {f"digits/confirm/{loser}/2"}, "pinned"
    assert "deleted/confirm/" not in kept
    assert {f"digits/confirm/{champion}/{seed}" for seed in (1, 2, 3)} <= kept
