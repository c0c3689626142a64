import os
import re
import time
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

import fttune
from fttune.app.export import export
from fttune.app.results import rows_of
from fttune.app.train import train
from fttune.config import Study
from fttune.config.workspace import Workspace
from fttune.errors import BadInput
from fttune.training import events
from tests.recipes import tiny_experiment, tiny_study
from tests.stored import runs_of

FILES = {"best.json", "best.safetensors"}
REPEATING = {"freeze.unfrozen_stages": {"type": "int", "low": 0, "high": 2}}
REMOVED = re.compile(
    r"checkpoint/best\.json, checkpoint/best\.safetensors, [0-9]+ bytes "
    r"\(20\d\d-\d\d-\d\d \d\d:\d\d:\d\d\+00:00; retention\.keep: best_\d\)"
)


def best(keep: int, **dotted: object) -> dict[str, object]:
    return {"retention": {"keep": f"best_{keep}"}, **dotted}


def left(workspace: Workspace, study: str = "tiny") -> set[int]:
    """Return the trials of a study whose checkpoints are there, whole; a half one fails the test."""
    found = set()
    for _, run in runs_of(workspace.mlflow_uri).iterrows():
        if run["tags.fttune.kind"] == "trial" and run["tags.fttune.study"] == study:
            folder = workspace.artifacts / "tiny" / run["run_id"] / "artifacts" / "checkpoint"
            files = {file.name for file in folder.iterdir()} if folder.exists() else set()
            assert files in (set(), FILES)
            if files:
                found.add(int(run["tags.fttune.trial"]))
    return found


def best_that_trained(study: Study, workspace: Workspace, keep: int) -> set[int]:
    """Return the numbers of the best complete trials with a recipe of their own, by the order that the guide states."""
    stored = fttune.search(study, workspace=workspace)
    rows = [row for row in rows_of(stored) if row.state == "complete" and row.reused_from is None]
    rows.sort(key=lambda row: (-row.value, row.trainable_parameters, row.number))
    return {row.number for row in rows[:keep]}


@pytest.mark.parametrize("keep", [1, 3])
def test_only_the_best_keep_their_checkpoints_and_the_others_all_else(
    tmp_path: Path, workspace: Workspace, keep: int
) -> None:
    study = tiny_study(tmp_path, **best(keep, budget__n_trials=6))
    stored = fttune.search(study, workspace=workspace)
    kept = best_that_trained(study, workspace, keep)
    assert left(workspace) == kept
    runs = runs_of(workspace.mlflow_uri)
    trials = runs[runs["tags.fttune.kind"] == "trial"].set_index("tags.fttune.trial")
    tags = trials["tags.fttune.removed"].dropna()
    assert {int(number) for number in tags.index} == set(range(6)) - kept
    assert all(map(REMOVED.fullmatch, tags))
    assert trials["metrics.value"].to_dict() == {str(t.number): t.value for t in stored.trials}
    assert trials["metrics.train/loss"].notna().all()
    assert trials["params.optimizer.lr"].notna().all()
    parent = runs[runs["tags.fttune.kind"] == "study"]
    assert parent["tags.fttune.best_trial"].item() == str(rows_of(stored)[0].number)


def test_repeats_have_no_checkpoint_and_take_no_place(tmp_path: Path, workspace: Workspace) -> None:
    study = tiny_study(tmp_path, **best(2, budget__n_trials=8, space=REPEATING))
    rows = rows_of(fttune.search(study, workspace=workspace))
    assert sum(row.reused_from is not None for row in rows) >= 3
    assert left(workspace) == best_that_trained(study, workspace, 2)
    assert len(left(workspace)) == 2
    best_row = next(row for row in rows if row.state == "complete")
    assert best_row.number in left(workspace)


def test_checkpoints_of_pruned_trials_go(tmp_path: Path, workspace: Workspace) -> None:
    pruner = {"type": "median", "startup_trials": 1}
    tiny_experiment(tmp_path, training__epochs=3)
    study = tiny_study(tmp_path, **best(5, budget__n_trials=8, pruner=pruner))
    rows = rows_of(fttune.search(study, workspace=workspace))
    assert {"pruned", "complete"} <= {row.state for row in rows}
    assert left(workspace) == best_that_trained(study, workspace, 5)


def test_a_pinned_trial_a_training_and_another_study_lose_nothing(tmp_path: Path, workspace: Workspace) -> None:
    train(tiny_experiment(tmp_path), workspace=workspace)
    fttune.search(tiny_study(tmp_path), workspace=workspace)
    fttune.search(tiny_study(tmp_path), workspace=workspace, new=True)
    assert left(workspace) == {0, 1, 2, 3}
    runs = runs_of(workspace.mlflow_uri)
    second = runs[(runs["tags.fttune.study"] == "tiny@2") & (runs["tags.fttune.kind"] == "trial")]
    winner = second.sort_values("metrics.value", ascending=False)["tags.fttune.trial"].iloc[0]
    pinned = next(row for _, row in second.iterrows() if row["tags.fttune.trial"] != winner)
    MlflowClient(workspace.mlflow_uri).set_tag(pinned["run_id"], "fttune.keep", "")

    study = tiny_study(tmp_path, **best(1))
    assert left(workspace, "tiny@2") == {0, 1, 2, 3}
    fttune.search(study, workspace=workspace)  # finished, with another rule now
    assert left(workspace, "tiny@2") == best_that_trained(study, workspace, 1) | {int(pinned["tags.fttune.trial"])}
    assert left(workspace) == {0, 1, 2, 3}
    (trained,) = runs[runs["tags.fttune.kind"] == "train"]["run_id"]
    checkpoint = workspace.artifacts / "tiny" / trained / "artifacts" / "checkpoint"
    assert {file.name for file in checkpoint.iterdir()} == {*FILES, "last.json", "last.safetensors"}


def test_the_disk_stays_bounded_while_the_search_runs_and_space_is_freed(tmp_path: Path, workspace: Workspace) -> None:
    study = tiny_study(tmp_path, **best(1, budget__n_trials=8))
    opened: dict[str, int] = {}
    counts: list[int] = []

    def look(entry: events.Entry) -> None:
        if isinstance(entry.event, events.RunClosed):
            time.sleep(0.5)  # MLflow takes what was logged in the background
            files = [*workspace.artifacts.rglob("checkpoint/best.safetensors")]
            counts.append(len(files))
            for file in files:
                if file.parts[-4] not in opened:
                    opened[file.parts[-4]] = os.open(file, os.O_RDONLY)

    try:
        fttune.search(study, workspace=workspace, display=look)
        names = [os.fstat(descriptor).st_nlink for descriptor in opened.values()]
    finally:
        for descriptor in opened.values():
            os.close(descriptor)
    assert len(names) >= 4, "MLflow keeps up"
    assert sum(count > 0 for count in names) <= 1, "of files that were there before, at most the best one's is left"
    assert max(counts) <= 1 + 2 * study.batch
    assert len(left(workspace)) == 1
    assert not [*(workspace.cache / "runs").rglob("*.safetensors")]


@pytest.mark.parametrize("at", [1, 3, 4])
def test_a_study_that_was_cut_off_keeps_what_an_uninterrupted_one_does(
    tmp_path: Path, workspace: Workspace, at: int
) -> None:
    study = tiny_study(tmp_path, **best(2, budget__n_trials=6))

    def interrupt(entry: events.Entry) -> None:
        if entry.run == f"tiny/{at}" and isinstance(entry.event, events.EpochEnded):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fttune.search(study, workspace=workspace, display=interrupt)
    fttune.search(study, workspace=workspace)
    assert left(workspace) == best_that_trained(study, workspace, 2)


def test_what_is_settled_is_not_looked_at_again(tmp_path: Path, workspace: Workspace) -> None:
    study = tiny_study(tmp_path, **best(1, budget__n_trials=4))
    fttune.search(study, workspace=workspace)
    said: list[events.Entry] = []
    fttune.search(study, workspace=workspace, display=said.append)
    assert not [entry for entry in said if isinstance(entry.event, events.CheckpointExpired)]


def test_a_removed_checkpoint_is_told_with_its_remedy(tmp_path: Path, workspace: Workspace) -> None:
    study = tiny_study(tmp_path, **best(1))
    fttune.search(study, workspace=workspace)
    gone = min({0, 1, 2, 3} - left(workspace))
    remedy = f"`fttune export STUDY --as experiment --trial {gone}`"
    said = rf"trial {gone} was deleted, as the study asks: .*best_1\); {remedy}"
    with pytest.raises(BadInput, match=said):
        export(study, "safetensors", trial=gone, workspace=workspace)
    assert export(study, "experiment", trial=gone, workspace=workspace).is_file()
    assert export(study, "safetensors", workspace=workspace).is_file()


def test_the_rule_is_no_part_of_a_studys_identity(tmp_path: Path, workspace: Workspace) -> None:
    fttune.search(tiny_study(tmp_path, budget__n_trials=2), workspace=workspace)
    assert left(workspace) == {0, 1}
    study = tiny_study(tmp_path, **best(1, budget__n_trials=4))
    fttune.search(study, workspace=workspace)
    assert left(workspace) == best_that_trained(study, workspace, 1)
