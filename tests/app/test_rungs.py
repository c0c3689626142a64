"""A search by successive halving with real trainings: trials pause at rungs and go on from memory."""

from pathlib import Path

import optuna
import pytest

import fttune
from fttune.config.workspace import Workspace
from fttune.training import fine_tune, prepare
from fttune.training.events import Entry, EpochEnded
from tests.recipes import tiny_study, write_experiment
from tests.stored import history_of, runs_of

FIELDS = {
    "budget": {"n_trials": 12},
    "batch": 6,
    "pruner": {"type": "successive_halving", "min_epochs": 1, "reduction_factor": 2},
    "metric": "val/loss",
    "direction": "minimize",
    "space": {
        "optimizer.lr": {"type": "float", "low": 0.001, "high": 0.3, "log": True},
        "freeze.unfrozen_stages": {"type": "int", "low": 0, "high": 2},
    },
}


def searched(root: Path, display=None) -> tuple[optuna.Study, Workspace]:
    write_experiment(root, training__epochs=4, training__precision="float64")
    workspace = Workspace.at(root)
    return fttune.search(tiny_study(root, **FIELDS), workspace=workspace, display=display), workspace


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[optuna.Study, Workspace, list[Entry]]:
    entries: list[Entry] = []
    return *searched(tmp_path_factory.mktemp("whole"), entries.append), entries


def test_trials_go_on_where_they_paused(whole):
    stored, workspace, entries = whole
    trained = [(e.run, e.event.epoch) for e in entries if isinstance(e.event, EpochEnded)]
    assert len(trained) == len(set(trained))
    states = {trial.number: trial.state.name for trial in stored.trials}
    assert {"COMPLETE", "PRUNED"} == set(states.values())
    assert trained[:6] == [(f"tiny/{number}", 1) for number in range(6)]
    for _, run in runs_of(workspace.mlflow_uri).query("`tags.fttune.kind` == 'trial'").iterrows():
        number = int(run["tags.fttune.trial"])
        points = history_of(workspace.mlflow_uri, run["run_id"], "train/loss")
        own = [epoch for name, epoch in trained if name == f"tiny/{number}"]
        assert [point.step for point in points] == own == list(range(1, len(own) + 1))
        assert run["tags.fttune.state"] == states[number].lower()


def test_a_trial_that_paused_has_the_value_of_one_that_did_not(whole):
    stored, workspace, _ = whole
    study = tiny_study(workspace.root, **FIELDS)
    inputs = prepare(study.experiment, workspace).plain()
    for trial in stored.get_trials(states=[optuna.trial.TrialState.COMPLETE]):
        alone = fine_tune(study.recipe(trial.params), inputs, monitor=study.metric)
        assert trial.value == pytest.approx(alone.value, rel=1e-9)


@pytest.mark.parametrize("at", [4, 8, 11])
def test_an_interruption_while_trials_wait_leaves_none_running(at, whole, tmp_path):
    seen: list[Entry] = []

    def interrupts(entry: Entry) -> None:
        if isinstance(entry.event, EpochEnded):
            seen.append(entry)
            if len(seen) == at:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        searched(tmp_path, interrupts)
    workspace = Workspace.at(tmp_path)
    runs = runs_of(workspace.mlflow_uri)
    assert "RUNNING" not in set(runs["status"])
    assert "interrupted" in set(runs["tags.fttune.state"])
    again, _ = searched(tmp_path)
    for trial, expected in zip(again.trials, whole[0].trials, strict=True):
        assert (trial.state, trial.params) == (expected.state, expected.params)
        assert trial.value == pytest.approx(expected.value, rel=1e-9)
        assert trial.intermediate_values == pytest.approx(expected.intermediate_values, rel=1e-9)
    assert "RUNNING" not in set(runs_of(workspace.mlflow_uri)["status"])
