"""Work that was interrupted goes on where it stood: in the same trial, the same epoch, the same run of MLflow."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch

import fttune
from fttune.config.workspace import Workspace
from fttune.errors import Interrupted
from fttune.training import cohort, resume
from fttune.training.events import Entry, EpochEnded
from tests.recipes import tiny_experiment, tiny_study, write_experiment, write_study
from tests.stored import history_of, runs_of

ALL_STAGES = {"optimizer.lr": {"type": "float", "low": 0.001, "high": 0.1, "log": True}}
HEAD_ONLY = {**ALL_STAGES, "freeze.unfrozen_stages": {"type": "int", "low": 0, "high": 0}}


def cut_when(reached: Callable[[Entry], bool]) -> Callable[[Entry], None]:
    """Return a display that interrupts the work once something is told."""

    def display(entry: Entry) -> None:
        if reached(entry):
            raise Interrupted(15)

    return display


def is_epoch(number: int, of_run: str) -> Callable[[Entry], bool]:
    return lambda entry: isinstance(entry.event, EpochEnded) and (entry.run, entry.event.epoch) == (of_run, number)


def epochs_in(entries: list[Entry], run: str) -> list[EpochEnded]:
    return [entry.event for entry in entries if entry.run == run and isinstance(entry.event, EpochEnded)]


def states_below(workspace: Workspace) -> list[Path]:
    return list((workspace.cache / "states").rglob("resume-*"))


def test_an_interrupted_trial_goes_on_after_its_last_epoch_in_its_run(tmp_path: Path, workspace: Workspace) -> None:
    tiny_study(tmp_path)
    write_experiment(tmp_path, training__epochs=5)
    study = fttune.load_study(write_study(tmp_path, space=ALL_STAGES, budget__n_trials=2, batch=1))
    first: list[Entry] = []
    second: list[Entry] = []
    cut = cut_when(is_epoch(3, of_run="tiny/1"))
    with pytest.raises(Interrupted):
        fttune.search(study, workspace=workspace, display=lambda entry: (first.append(entry), cut(entry)))
    assert states_below(workspace)
    fttune.search(study, workspace=workspace, display=second.append)
    before, after = epochs_in(first, "tiny/1"), epochs_in(second, "tiny/1")
    assert [ended.epoch for ended in after] == [1, 2, 3, 4, 5]
    assert after[:3] == before, "told again, not trained again"
    run = runs_of(workspace.mlflow_uri).set_index("tags.fttune.trial").loc["1"]
    points = history_of(workspace.mlflow_uri, run["run_id"], "train/loss")
    assert [(point.step, point.timestamp) for point in points] == [(ended.epoch, ended.unix_ms) for ended in after]
    assert (run["status"], run["tags.fttune.resumed_after_epoch"]) == ("FINISHED", "3")
    assert not states_below(workspace)


def test_interrupted_training_goes_on_in_its_run_and_the_next_command_begins_a_new_one(
    tmp_path: Path, workspace: Workspace
) -> None:
    experiment = tiny_experiment(tmp_path, training__epochs=4)
    whole = fttune.fine_tune(experiment)
    with pytest.raises(Interrupted):
        fttune.train(experiment, workspace=workspace, display=cut_when(lambda entry: _epoch_of(entry) == 3))
    again: list[Entry] = []
    result = fttune.train(experiment, workspace=workspace, display=again.append)
    assert result.step_losses == whole.step_losses
    (run,) = runs_of(workspace.mlflow_uri).to_dict("records")
    assert (run["status"], run["tags.fttune.state"]) == ("FINISHED", "complete")
    assert [point.step for point in history_of(workspace.mlflow_uri, run["run_id"], "val/loss")] == [1, 2, 3, 4]
    fttune.train(experiment, workspace=workspace)
    assert len(runs_of(workspace.mlflow_uri)) == 2


def _epoch_of(entry: Entry) -> int | None:
    return entry.event.epoch if isinstance(entry.event, EpochEnded) else None


def test_folds_that_ended_are_not_trained_again(tmp_path: Path, workspace: Workspace, monkeypatch) -> None:
    monkeypatch.setattr(resume, "PAUSED_SECONDS", 0.0)
    study = tiny_study(tmp_path, space=ALL_STAGES, evaluation={"folds": 3}, budget__n_trials=1, pruner={"type": "none"})

    def of_fold(entries: list[Entry], fold: int) -> list[EpochEnded]:
        return [one for one in epochs_in(entries, "tiny/0") if f"fold-{fold}/val/loss" in one.metrics]

    first: list[Entry] = []
    second: list[Entry] = []

    def display(entry: Entry) -> None:
        first.append(entry)
        if of_fold([entry], 3):
            raise Interrupted(15)

    with pytest.raises(Interrupted):
        fttune.search(study, workspace=workspace, display=display)
    fttune.search(study, workspace=workspace, display=second.append)
    for fold in (1, 2):
        assert of_fold(second, fold) == of_fold(first, fold)
    assert of_fold(second, 3)[0] == of_fold(first, 3)[0]
    assert len(of_fold(second, 3)) == 2


def test_a_resumed_cohort_is_that_of_its_whole_block(tmp_path: Path, workspace: Workspace, monkeypatch) -> None:
    sizes: list[int] = []
    real = cohort.Cohort._train

    def train(self: cohort.Cohort) -> Any:
        sizes.append(len(self.experiments))
        return real(self)

    monkeypatch.setattr(cohort.Cohort, "_train", train)
    fields = {"space": HEAD_ONLY, "batch": 6, "budget__n_trials": 6, "pruner": {"type": "median", "startup_trials": 9}}
    study, told = tiny_study(tmp_path, **fields), Workspace.at(tmp_path, mlruns=tmp_path / "whole")
    fttune.search(study, workspace=told)
    with pytest.raises(Interrupted):
        fttune.search(study, workspace=workspace, display=cut_when(is_epoch(2, of_run="tiny/3")))
    fttune.search(study, workspace=workspace)
    assert sizes == [6, 6, 6]
    assert _tensors_of(workspace) == _tensors_of(told)


def _tensors_of(workspace: Workspace) -> dict[str, dict[str, bytes]]:
    found = {}
    for _, run in runs_of(workspace.mlflow_uri).query("`tags.fttune.kind` == 'trial'").iterrows():
        file = Path(run["artifact_uri"].removeprefix("file://")) / "checkpoint/best.safetensors"
        tensors = safetensors.torch.load_file(file)
        found[run["tags.fttune.trial"]] = {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}
    return found
