"""A confirmation: fresh seeds for the best trials and the baselines, and a test split that is opened once, and last."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import fttune
from fttune.app import confirm as confirming
from fttune.app.confirm import candidates, confirm
from fttune.config import Study
from fttune.config.workspace import Workspace
from fttune.errors import BadInput, StudyChanged
from fttune.report.confirmation import Confirmation
from fttune.training import fine_tune, prepare
from fttune.training.events import Entry, EpochEnded
from tests import processes
from tests.app.test_using_winners import picture_folder
from tests.recipes import tiny_study, write_experiment
from tests.splitting import counts_below
from tests.stored import runs_of

FIELDS = {
    "budget": {"n_trials": 6},
    "confirm": {"top_k": 2, "seeds": 3},
    "baselines": [{"optimizer.lr": 0.001, "freeze.unfrozen_stages": 0}],
    "space": {
        "optimizer.lr": {"type": "float", "low": 0.001, "high": 0.1, "log": True},
        "freeze.unfrozen_stages": {"type": "int", "low": 0, "high": 2},
    },
}


def made(root: Path, **fields) -> tuple[Study, Workspace]:
    picture_folder(root / "pictures", each=20)
    data = {"source": "folder", "path": "pictures", "image_size": 8, "resize": 10}
    write_experiment(root, data={**data, "split": {"val": 0.3, "test": 0.3}}, training__epochs=3)
    return tiny_study(root, **{**FIELDS, **fields}), Workspace.at(root)


@pytest.fixture(scope="module")
def confirmed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Workspace, Confirmation]:
    study, workspace = made(tmp_path_factory.mktemp("confirmed"))
    fttune.search(study, workspace=workspace)
    return study, workspace, confirm(study, workspace=workspace)


def test_the_best_trials_and_the_baselines_are_trained_with_fresh_seeds(confirmed):
    study, workspace, found = confirmed
    stored = fttune.search(study, workspace=workspace)
    best = sorted(stored.trials, key=lambda t: -t.value)[0]
    assert best.number in [one.trial for one in found.candidates]
    assert [one.trial for one in found.candidates if one.baseline] == [0]
    assert found.seeds == (1, 2, 3)
    inputs = prepare(study.experiment, workspace).plain()
    for one in found.candidates:
        recipe = study.recipe(one.params)
        for seed, value in zip(found.seeds, one.val, strict=True):
            alone = fine_tune(recipe.replace({"seed": seed}), inputs, monitor=study.metric)
            assert value == pytest.approx(alone.value, abs=1e-6)
    means = [np.mean(one.val) for one in found.candidates]
    assert means == sorted(means, reverse=True)


def test_the_test_metric_is_what_the_logged_predictions_say(confirmed):
    _, workspace, found = confirmed
    runs = runs_of(workspace.mlflow_uri)
    kinds = runs["tags.fttune.kind"].value_counts().to_dict()
    assert kinds == {"trial": 6, "confirm": 3 * len(found.candidates), "study": 1}
    assert set(runs["status"]) == {"FINISHED"}
    (parent,) = runs[runs["tags.fttune.kind"] == "study"].to_dict("records")
    assert parent["tags.fttune.test_opened"] == found.opened[0]
    (file,) = workspace.artifacts.rglob("predictions.csv")
    frame = pd.read_csv(file)
    assert len(frame) == counts_below(workspace.root / "pictures", val=0.3, test=0.3)["test"]
    assert all(sample.startswith(kind) for sample, kind in zip(frame["sample"], frame["class"], strict=True))
    for one in found.candidates:
        for seed, value in zip(found.seeds, one.test, strict=True):
            assert (frame[f"{one.name} seed {seed}"] == frame["class"]).mean() == pytest.approx(value)


def test_a_second_call_changes_nothing_and_opens_nothing(confirmed, monkeypatch):
    study, workspace, found = confirmed
    monkeypatch.setattr(confirming, "open_test", lambda *_, **__: pytest.fail("the test split was opened again"))
    notices: list[Entry] = []
    assert confirm(study, workspace=workspace, display=notices.append) == found
    assert any("the test split stays closed" in getattr(entry.event, "text", "") for entry in notices)


def test_more_seeds_keep_what_is_there_and_the_second_opening_is_told(tmp_path):
    study, workspace = made(tmp_path)
    fttune.search(study, workspace=workspace)
    first = confirm(
        study.model_copy(update={"confirm": study.confirm.model_copy(update={"seeds": 2})}), workspace=workspace
    )
    trained: list[Entry] = []
    second = confirm(study, workspace=workspace, display=trained.append)
    assert {e.run.rpartition("/")[2] for e in trained if isinstance(e.event, EpochEnded)} == {"3"}
    assert len(first.opened) == 1
    assert len(second.opened) == 2
    assert "the test split was opened twice" in second.as_text()
    both = {one.trial: one for one in first.candidates}
    assert all(one.val[:2] == both[one.trial].val for one in second.candidates)


def test_an_interrupted_confirmation_goes_on_and_had_not_opened_the_test_split(tmp_path, monkeypatch, confirmed):
    study, workspace = made(tmp_path)
    fttune.search(study, workspace=workspace)
    seen: list[Entry] = []

    def interrupts(entry: Entry) -> None:
        if isinstance(entry.event, EpochEnded):
            seen.append(entry)
            if len(seen) == 13:
                raise KeyboardInterrupt

    with monkeypatch.context() as closed:
        closed.setattr(confirming, "open_test", lambda *_, **__: pytest.fail("opened before the winner was named"))
        with pytest.raises(KeyboardInterrupt):
            confirm(study, workspace=workspace, display=interrupts)
    assert "RUNNING" not in set(runs_of(workspace.mlflow_uri)["status"])
    found = confirm(study, workspace=workspace)
    assert [(one.trial, one.val, one.test) for one in found.candidates] == [
        (one.trial, one.val, one.test) for one in confirmed[2].candidates
    ]
    assert len(found.opened) == 1


def test_an_opening_is_on_record_even_if_nothing_comes_of_it(tmp_path, monkeypatch):
    study, workspace = made(tmp_path, confirm={"top_k": 1, "seeds": 1})
    fttune.search(study, workspace=workspace)
    with monkeypatch.context() as cut:
        cut.setattr(confirming, "compare", lambda *_, **__: [][0])
        with pytest.raises(IndexError):
            confirm(study, workspace=workspace)
    assert len(confirm(study, workspace=workspace).opened) == 2


def test_a_pruned_baseline_is_confirmed_too(tmp_path):
    study, workspace = made(tmp_path, pruner={"type": "successive_halving", "reduction_factor": 4}, batch=6)
    stored = fttune.search(study, workspace=workspace)
    assert stored.trials[0].state.name == "PRUNED"
    assert [t.number for t in candidates(study, stored) if t.number == 0] == [0]


def test_what_cannot_be_confirmed_is_refused(tmp_path):
    study, workspace = made(tmp_path)
    with pytest.raises(BadInput, match="has not been searched here"):
        confirm(study, workspace=workspace)
    fttune.search(study, workspace=workspace)
    more = study.model_copy(update={"budget": study.budget.model_copy(update={"n_trials": 7})})
    with pytest.raises(StudyChanged, match="batch: 2 -> 3"):
        confirm(more.model_copy(update={"batch": 3}), workspace=workspace)


def test_without_a_test_split_the_winner_is_named_all_the_same(tmp_path):
    picture_folder(tmp_path / "pictures")
    data = {"source": "folder", "path": "pictures", "image_size": 8, "resize": 10}
    write_experiment(tmp_path, data={**data, "split": {"val": 0.3, "test": 0.0}})
    study = tiny_study(tmp_path, **{**FIELDS, "budget": {"n_trials": 2}, "confirm": {"top_k": 1, "seeds": 1}})
    fttune.search(study, workspace=Workspace.at(tmp_path))
    code, out, err = processes.run("confirm", "studies/tiny.yaml", cwd=tmp_path)
    assert code == 0, err
    assert "the winner by val/accuracy is trial" in out
    assert "there is no test split" in out


def test_the_command_prints_the_table_or_all_of_it_as_json(confirmed):
    _, workspace, found = confirmed
    code, out, err = processes.run("confirm", "studies/tiny.yaml", cwd=workspace.root)
    assert code == 0, err
    assert f"the winner by val/accuracy is trial {found.candidates[0].trial}" in out
    assert "the test split was opened once" in out
    code, out, _ = processes.run("confirm", "studies/tiny.yaml", "--json", cwd=workspace.root)
    assert Confirmation.of_json(out) == found
    assert json.loads(out)["recommended"] == found.recommended
