import json
import re
import shutil
from pathlib import Path

import mlflow
import optuna
import pytest
import torch
import torchvision
from safetensors.torch import load_file

import fttune
from fttune.app.results import rows_of
from fttune.app.search import comparison_path
from fttune.config import load_study
from fttune.config.workspace import Workspace
from fttune.errors import BadInput, StoreError, StudyChanged, TooManyFailures
from fttune.report import summary
from fttune.training import events, library_versions
from tests.recipes import tiny_study, write_experiment, write_study
from tests.stored import history_of, plain_mlflow, runs_of


def test_a_study_is_one_parent_and_one_child_for_each_trial(tmp_path: Path, workspace: Workspace) -> None:
    study = tiny_study(tmp_path)
    stored = fttune.search(study, workspace=workspace)
    frame = runs_of(workspace.mlflow_uri)
    parent = frame[frame["tags.fttune.kind"] == "study"]
    children = frame[frame["tags.fttune.kind"] == "trial"].sort_values("tags.fttune.trial")
    assert (len(parent), len(children)) == (1, 4)
    assert set(children["tags.mlflow.parentRunId"]) == set(parent["run_id"])
    assert set(frame["status"]) == {"FINISHED"}
    assert children["tags.mlflow.runName"].tolist() == [f"trial-{n:04d}" for n in range(4)]
    assert children["metrics.value"].tolist() == [trial.value for trial in stored.trials]
    assert [float(lr) for lr in children["params.optimizer.lr"]] == [t.params["optimizer.lr"] for t in stored.trials]


def test_a_trials_value_is_its_metric_at_its_best_epoch(tmp_path: Path, workspace: Workspace) -> None:
    stored = fttune.search(tiny_study(tmp_path, pruner__type="median"), workspace=workspace)
    for trial in stored.trials:
        values = trial.intermediate_values
        assert sorted(values) == [1, 2]
        assert trial.value == max(values.values())
        first_best = min(epoch for epoch, value in values.items() if value == trial.value)
        assert json.loads(trial.user_attrs["fttune"])["best_epoch"] == first_best


def test_a_finished_study_is_left_alone(tmp_path: Path, workspace: Workspace) -> None:
    study = tiny_study(tmp_path)
    fttune.search(study, workspace=workspace)
    before = {file: file.read_bytes() for file in workspace.mlruns.glob("*.db")}
    said: list[object] = []
    stored = fttune.search(study, workspace=workspace, display=lambda entry: said.append(entry.event))
    assert said == [events.Notice("study tiny is finished: nothing to do")]
    assert len(stored.trials) == 4
    assert {file: file.read_bytes() for file in workspace.mlruns.glob("*.db")} == before


def test_a_larger_budget_continues_the_same_study(tmp_path: Path, workspace: Workspace) -> None:
    fttune.search(tiny_study(tmp_path), workspace=workspace)
    stored = fttune.search(tiny_study(tmp_path, budget__n_trials=6), workspace=workspace)
    assert len(stored.trials) == 6
    frame = runs_of(workspace.mlflow_uri)
    assert (frame["tags.fttune.kind"] == "study").sum() == 1
    assert set(frame["status"]) == {"FINISHED"}


def test_a_study_whose_time_is_up_is_left_alone(tmp_path: Path, workspace: Workspace) -> None:
    study = tiny_study(tmp_path, budget={"n_trials": 9, "timeout_minutes": 1e-6})
    assert len(rows_of(fttune.search(study, workspace=workspace))) == 2
    said: list[object] = []
    fttune.search(study, workspace=workspace, display=lambda entry: said.append(entry.event))
    assert said == [events.Notice("study tiny is finished: nothing to do")]


def test_another_environment_is_told_once_and_not_refused(
    tmp_path: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    fttune.search(tiny_study(tmp_path, budget__n_trials=1), workspace=workspace)
    monkeypatch.setattr("fttune.app.search.library_versions", lambda: {**library_versions(), "torch": "9.9"})
    said: list[object] = []
    more = tiny_study(tmp_path, budget__n_trials=3)
    fttune.search(more, workspace=workspace, display=lambda entry: said.append(entry.event))
    torch_before = library_versions()["torch"]
    notice = f"begun in another environment, so results may differ: torch: {torch_before} -> 9.9"
    assert [event.text for event in said if isinstance(event, events.Notice)] == [notice]


def test_diverged_trials_are_failed_runs_with_their_cause(tmp_path: Path, workspace: Workspace) -> None:
    space = {"optimizer.lr": {"type": "categorical", "choices": [1.0e20]}}
    stored = fttune.search(tiny_study(tmp_path, space=space, budget__n_trials=2), workspace=workspace)
    assert [(t.state.name, t.value) for t in stored.trials] == [("PRUNED", None)] * 2
    frame = runs_of(workspace.mlflow_uri)
    children = frame[frame["tags.fttune.kind"] == "trial"]
    assert set(children["status"]) == {"FAILED"}
    assert set(children["tags.fttune.cause"]) == {"diverged"}
    assert comparison_path(stored) is None
    assert {row.state for row in rows_of(stored)} == {"diverged"}


def test_a_study_whose_every_trial_fails_stops_with_the_cause(
    tmp_path: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> object:
        raise OSError("no space left on device")

    monkeypatch.setattr("fttune.training.checkpoints.write_tensors", broken)
    with pytest.raises(TooManyFailures, match=r"3 trials in a row failed.*no space left on device"):
        fttune.search(tiny_study(tmp_path, budget__n_trials=9), workspace=workspace)
    frame = runs_of(workspace.mlflow_uri)
    assert set(frame["status"]) == {"FAILED"}
    causes = frame[frame["tags.fttune.kind"] == "trial"].set_index("tags.fttune.trial")["tags.fttune.cause"]
    ran = dict.fromkeys("012", "OSError: no space left on device")
    assert causes.to_dict() == {**ran, "3": "the search ended before this trial did"}
    stored = optuna.load_study(study_name="tiny", storage=workspace.optuna_uri)
    assert {t.state.name for t in stored.trials} == {"FAIL"}


def test_an_interrupted_search_closes_its_runs_and_continues_in_them(tmp_path: Path, workspace: Workspace) -> None:
    study = tiny_study(tmp_path)

    def interrupt(entry: events.Entry) -> None:
        if entry.run == "tiny/1" and isinstance(entry.event, events.EpochEnded):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fttune.search(study, workspace=workspace, display=interrupt)
    frame = runs_of(workspace.mlflow_uri).set_index("tags.fttune.run")
    assert frame["tags.fttune.state"].to_dict() == {
        "tiny": "interrupted",
        "tiny/0": "complete",
        "tiny/1": "interrupted",
    }
    assert "RUNNING" not in set(frame["status"])
    ids = frame["run_id"].to_dict()

    fttune.search(study, workspace=workspace)
    frame = runs_of(workspace.mlflow_uri).set_index("tags.fttune.run")
    assert frame["run_id"].to_dict().items() >= ids.items()
    assert set(frame["status"]) == {"FINISHED"}
    history = history_of(workspace.mlflow_uri, ids["tiny/1"], "val/accuracy")
    assert [point.step for point in history] == [1, 2]


@pytest.mark.parametrize("change", [{"batch": 4}, {"sampler__seed": 1}, {"pruner": {"type": "median"}}])
def test_a_changed_study_is_refused_and_new_starts_another_generation(
    change: dict[str, object], tmp_path: Path, workspace: Workspace
) -> None:
    fttune.search(tiny_study(tmp_path, budget__n_trials=1), workspace=workspace)
    changed = tiny_study(tmp_path, budget__n_trials=2, **change)
    with pytest.raises(StudyChanged):
        fttune.search(changed, workspace=workspace)
    stored = fttune.search(changed, workspace=workspace, new=True)
    assert (stored.study_name, len(stored.trials)) == ("tiny@2", 2)
    assert len(optuna.load_study(study_name="tiny", storage=workspace.optuna_uri).trials) == 1


def test_changed_data_is_refused(tmp_path: Path, workspace: Workspace) -> None:
    study = write_study(tmp_path, budget__n_trials=1)
    fttune.search(load_study(study), workspace=workspace)
    with pytest.raises(StudyChanged, match=r"experiment\.data\.content"):
        fttune.search(load_study(study, ["data.limit_per_class=9"]), workspace=workspace)


def test_a_search_without_validation_images_is_refused(tmp_path: Path, workspace: Workspace) -> None:
    study = load_study(write_study(tmp_path), ["data.split.val=0.0"])
    with pytest.raises(BadInput, match=r"data\.split\.val is 0"):
        fttune.search(study, workspace=workspace)


def test_the_winner_is_a_loadable_model_on_the_parent_run(tmp_path: Path, workspace: Workspace) -> None:
    stored = fttune.search(tiny_study(tmp_path), workspace=workspace)
    frame = runs_of(workspace.mlflow_uri)
    parent = frame[frame["tags.fttune.kind"] == "study"].iloc[0]
    best = rows_of(stored)[0]
    assert parent["tags.fttune.best_trial"] == str(best.number)
    assert parent["metrics.best_value"] == best.value
    with plain_mlflow(workspace.mlflow_uri):
        logged = mlflow.pytorch.load_model(f"runs:/{parent['run_id']}/model")
    child = frame[frame["tags.fttune.run"] == f"tiny/{best.number}"].iloc[0]
    checkpoint = Path(child["artifact_uri"].removeprefix("file://")) / "checkpoint" / "best.safetensors"
    from fttune.models import load_model

    images = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(logged(images), load_model(checkpoint)(images))


def test_a_checkpoint_of_a_trial_loads_into_torchvisions_own_model(tmp_path: Path, workspace: Workspace) -> None:
    write_experiment(tmp_path, backbone__name="resnet18", training__epochs=1)
    space = {"optimizer.lr": {"type": "categorical", "choices": [0.01]}}
    fttune.search(tiny_study(tmp_path, space=space, budget__n_trials=1), workspace=workspace)
    frame = runs_of(workspace.mlflow_uri)
    child = frame[frame["tags.fttune.kind"] == "trial"].iloc[0]
    file = Path(child["artifact_uri"].removeprefix("file://")) / "checkpoint" / "best.safetensors"
    torchvision.models.resnet18(num_classes=3).load_state_dict(load_file(file))


def test_a_search_leaves_the_processs_tracking_uri_alone(tmp_path: Path, workspace: Workspace) -> None:
    fttune.search(tiny_study(tmp_path, budget__n_trials=1), workspace=workspace)
    assert not mlflow.is_tracking_uri_set()


def test_nothing_of_a_run_stays_in_the_cache(tmp_path: Path, workspace: Workspace) -> None:
    fttune.search(tiny_study(tmp_path, budget__n_trials=1), workspace=workspace)
    assert not list((workspace.cache / "runs").rglob("*.safetensors"))


def test_a_search_over_the_backbone_runs_each_with_its_own_weights(tmp_path: Path, workspace: Workspace) -> None:
    space = {
        "backbone.name": {"type": "categorical", "choices": ["cifar_resnet8", "resnet18"]},
        "data.augment": {"type": "categorical", "choices": ["none", "flip"]},
    }
    stored = fttune.search(
        tiny_study(tmp_path, space=space, sampler__type="grid", budget__n_trials=9), workspace=workspace
    )
    sizes = {
        t.params["backbone.name"]: json.loads(t.user_attrs["fttune"])["trainable_parameters"] for t in stored.trials
    }
    assert len(stored.trials) == 4
    assert sizes["resnet18"] == sum(p.numel() for p in torchvision.models.resnet18(num_classes=3).parameters())


def test_a_winner_that_could_not_be_stored_is_stored_by_the_next_start(
    tmp_path: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tiny_study(tmp_path, budget__n_trials=2)

    def full_disk(*_: object) -> None:
        raise OSError("no space left on device")

    said: list[events.Entry] = []
    with monkeypatch.context() as broken:
        broken.setattr("fttune.tracking.store.MlflowStore._log_model", full_disk)
        broken.setattr("fttune.tracking.uploader.CLOSE_SECONDS", 0.0)
        fttune.search(study, workspace=workspace, display=said.append)
    first, *_, last = [entry.event.text for entry in said if isinstance(entry.event, events.Notice)]
    assert "no space left on device" in first
    assert re.match(r"2 events wait in .*/mlruns/spool; `fttune sync` delivers them", last)
    fttune.search(study, workspace=workspace)
    assert "RUNNING" not in set(runs_of(workspace.mlflow_uri)["status"])
    frame = runs_of(workspace.mlflow_uri)
    parent = frame[frame["tags.fttune.kind"] == "study"].iloc[0]
    with plain_mlflow(workspace.mlflow_uri):
        mlflow.pytorch.load_model(f"runs:/{parent['run_id']}/model")


def test_a_store_that_cannot_be_used_is_named_before_any_trial(tmp_path: Path, workspace: Workspace) -> None:
    fttune.search(tiny_study(tmp_path, budget__n_trials=1), workspace=workspace)
    workspace.mlruns.rename(tmp_path / "elsewhere")
    moved = Workspace.at(tmp_path, tmp_path / "elsewhere")
    said: list[object] = []
    with pytest.raises(StoreError, match="was moved"):
        fttune.search(tiny_study(tmp_path), workspace=moved, display=lambda entry: said.append(entry.event))
    assert said == []
    assert len(optuna.load_study(study_name="tiny", storage=moved.optuna_uri).trials) == 1


def test_trials_that_a_lowered_budget_leaves_no_room_for_are_closed(tmp_path: Path, workspace: Workspace) -> None:
    def interrupt(entry: events.Entry) -> None:
        if entry.run == "tiny/1" and isinstance(entry.event, events.EpochEnded):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fttune.search(tiny_study(tmp_path, batch=4), workspace=workspace, display=interrupt)
    stored = fttune.search(tiny_study(tmp_path, batch=4, budget__n_trials=1), workspace=workspace)
    assert [t.state.name for t in stored.trials] == ["COMPLETE", "FAIL", "FAIL", "FAIL"]
    frame = runs_of(workspace.mlflow_uri).set_index("tags.fttune.run")
    assert frame["status"].to_dict() == {
        "tiny": "FINISHED",
        "tiny/0": "FINISHED",
        **dict.fromkeys(("tiny/1", "tiny/2", "tiny/3"), "FAILED"),
    }


def test_a_search_stopped_inside_the_second_phase_of_a_trial_ends_as_if_it_had_not_been(
    tmp_path: Path, empty_stores: Path
) -> None:
    phases = [{"unfrozen_stages": 0, "epochs": 1}, {"train": "all", "epochs": 2, "lr_mult": 0.5}]
    write_experiment(tmp_path, freeze={"phases": phases}, training__epochs=3, training__schedule="cosine")
    space = {"optimizer.lr": {"type": "float", "low": 1.0e-3, "high": 0.1, "log": True}}
    study = tiny_study(tmp_path, space=space, budget__n_trials=3, pruner__type="median")

    def interrupt(entry: events.Entry) -> None:
        if entry.run == "tiny/1" and isinstance(entry.event, events.EpochEnded) and entry.event.epoch == 2:
            raise KeyboardInterrupt

    found = []
    for name, display in (("stopped", interrupt), ("whole", None)):
        workspace = Workspace.at(tmp_path, shutil.copytree(empty_stores, tmp_path / name))
        if display:
            with pytest.raises(KeyboardInterrupt):
                fttune.search(study, workspace=workspace, display=display)
        trials = fttune.search(study, workspace=workspace).trials
        found.append([(t.params, t.value, t.intermediate_values) for t in trials])
    assert found[0] == found[1]


def test_two_studies_of_one_name_do_not_share_runs_on_one_server(tmp_path: Path, workspace: Workspace) -> None:
    study = tiny_study(tmp_path, budget__n_trials=1, tracking={"uri": workspace.mlflow_uri})
    for owner in ("first", "second"):
        fttune.search(study, workspace=Workspace.at(tmp_path, tmp_path / owner / "mlruns"))
    frame = runs_of(workspace.mlflow_uri)
    assert frame["tags.fttune.kind"].value_counts().to_dict() == {"study": 2, "trial": 2}
    parents = frame[frame["tags.fttune.kind"] == "study"].set_index("run_id")["tags.fttune.study_id"]
    children = frame[frame["tags.fttune.kind"] == "trial"]
    assert [parents[run] for run in children["tags.mlflow.parentRunId"]] == children["tags.fttune.study_id"].tolist()


def test_the_best_experiment_finds_the_winners_value_again(tmp_path: Path, workspace: Workspace) -> None:
    study = tiny_study(tmp_path)
    stored = fttune.search(study, workspace=workspace)
    assert fttune.fine_tune(fttune.best_experiment(study, stored)).value == stored.best_value


def test_a_study_without_its_artifacts_still_finishes_and_says_so(tmp_path: Path, workspace: Workspace) -> None:
    fttune.search(tiny_study(tmp_path, budget__n_trials=2), workspace=workspace)
    best = rows_of(optuna.load_study(study_name="tiny", storage=workspace.optuna_uri))[0].value
    shutil.rmtree(workspace.artifacts)
    said: list[object] = []
    stored = fttune.search(
        tiny_study(tmp_path, budget__n_trials=3), workspace=workspace, display=lambda entry: said.append(entry.event)
    )
    assert len(stored.trials) == 3
    lost = rows_of(stored)[0].value == best
    assert any("is not in MLflow" in event.text for event in said if isinstance(event, events.Notice)) == lost


def test_a_deleted_mlflow_store_is_told(tmp_path: Path, workspace: Workspace, empty_stores: Path) -> None:
    study = tiny_study(tmp_path, budget__n_trials=2)
    fttune.search(study, workspace=workspace)
    shutil.copy(empty_stores / "mlflow.db", workspace.mlruns / "mlflow.db")
    said: list[object] = []
    fttune.search(study, workspace=workspace, display=lambda entry: said.append(entry.event))
    assert events.Notice("2 earlier trials are not in this MLflow; --new runs them anew") in said


def test_a_repeated_recipe_is_a_run_of_its_own_with_the_value_of_the_first(
    tmp_path: Path, workspace: Workspace
) -> None:
    space = {"freeze.unfrozen_stages": {"type": "categorical", "choices": [4, "all", 1.0]}}
    study = tiny_study(tmp_path, space=space, sampler__type="grid", budget__n_trials=9)
    stored = fttune.search(study, workspace=workspace)
    assert [t.value for t in stored.trials] == [stored.trials[0].value] * 3
    children = runs_of(workspace.mlflow_uri).query("`tags.fttune.kind` == 'trial'").set_index("tags.fttune.trial")
    assert children["tags.fttune.reused_from"].fillna("").to_dict() == {"0": "", "1": "0", "2": "0"}
    assert set(children["status"]) == {"FINISHED"}
    for metric in ("value", "best_epoch", "trainable_parameters"):
        assert len(set(children[f"metrics.{metric}"])) == 1
    assert children["params.freeze.unfrozen_stages"].to_dict() == {"0": "4", "1": "all", "2": "1.0"}
    assert summary(rows_of(stored)) == "3 complete (1 distinct recipes)"
    assert rows_of(stored)[0].number == 0


def test_an_effective_lr_and_a_selection_are_searched(tmp_path: Path, workspace: Workspace) -> None:
    space = {
        "optimizer.name": {"type": "categorical", "choices": ["sgd", "adamw"]},
        "optimizer.elr": {"type": "categorical", "choices": [0.5]},
        "optimizer.lr": {"type": "categorical", "choices": [0.01], "when": {"optimizer.name": "adamw"}},
        "freeze.train": {"type": "categorical", "choices": [{"first": 1}]},
    }
    study = tiny_study(tmp_path, space=space, sampler__type="grid", budget__n_trials=9)
    stored = fttune.search(study, workspace=workspace)
    train = '{"first": 1}'
    assert [t.params for t in stored.trials] == [
        {"optimizer.name": "sgd", "optimizer.elr": 0.5, "freeze.train": train},
        {"optimizer.name": "adamw", "optimizer.lr": 0.01, "freeze.train": train},
    ]
    children = runs_of(workspace.mlflow_uri).query("`tags.fttune.kind` == 'trial'").set_index("tags.fttune.trial")
    assert children["params.optimizer.lr"].to_dict() == {"0": "0.05", "1": "0.01"}  # momentum 0.9
    assert children["params.optimizer.elr"].fillna("").to_dict() == {"0": "0.5", "1": ""}
    assert set(children["params.freeze.train.first"]) == {"1"}
    assert fttune.best_experiment(study, stored).freeze.train.first == 1
