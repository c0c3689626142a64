"""Studies of a model whose deeper stages need more memory than there is: a layer of a plugin refuses, as cards do."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

import fttune
from fttune.app.results import rows_of
from fttune.config.workspace import Workspace
from fttune.errors import OutOfMemory
from fttune.report import summary
from fttune.training.events import Notice
from tests.recipes import tiny_experiment, tiny_study
from tests.stored import runs_of

PLUGIN = """
import torch
from torch import nn

class Room(nn.Module):
    def __init__(self, samples):
        super().__init__()
        self.samples = samples

    def forward(self, x):
        if self.training and len(x) > self.samples and not x.is_meta:  # a meta tensor takes no memory
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return x

class Net(nn.Module):
    stages = {"stem": ["conv", "none"], "body": ["norm", "few", "pool", "flat"]}
    head = "last"

    def __init__(self):
        super().__init__()
        self.conv, self.none, self.norm, self.few = nn.Conv2d(3, 8, 3), Room(0), nn.GroupNorm(2, 8), Room(3)
        self.pool, self.flat, self.last = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)

    def forward(self, x):
        return self.last(self.flat(self.pool(self.few(self.norm(self.none(self.conv(x)))))))

BACKBONES = {"net": Net}
"""
BACKBONE = {"name": "plugin:net", "weights": "none"}
SPACE = {"freeze.unfrozen_stages": {"type": "int", "low": 0, "high": 2}}


@pytest.fixture
def small(workspace: Workspace, tmp_path: Path) -> Workspace:
    """A workspace whose plugin has no room for a batch when its last stage trains, and for no image when both do."""
    file = tmp_path / "plugin.py"
    file.write_text(PLUGIN, encoding="utf-8")
    return dataclasses.replace(workspace, plugins=(file,))


def grid(root: Path, **fields: Any) -> fttune.Study:
    tiny_experiment(root, backbone=BACKBONE, freeze={"unfrozen_stages": 0})
    return tiny_study(root, sampler={"type": "grid"}, space=SPACE, budget__n_trials=3, **fields)


@pytest.mark.parametrize("pruner", ["none", "median"])
def test_each_depth_ends_as_its_memory_allows(pruner: str, tmp_path: Path, small: Workspace) -> None:
    said: list[object] = []
    study = grid(tmp_path, pruner={"type": pruner})
    stored = fttune.search(study, workspace=small, display=lambda entry: said.append(entry.event))
    frame = runs_of(small.mlflow_uri)
    runs = frame[frame["tags.fttune.kind"] == "trial"].sort_values("tags.fttune.trial")
    assert runs["status"].tolist() == ["FINISHED", "FINISHED", "FAILED"]
    assert runs["tags.fttune.state"].tolist() == ["complete", "complete", "out_of_memory"]
    assert runs["tags.fttune.cause"].fillna("").tolist() == ["", "", "out_of_memory"]
    assert runs["tags.fttune.micro_batches"].fillna("").tolist() == ["", "4", ""]
    assert [t.state for t in stored.trials] == [TrialState.COMPLETE, TrialState.COMPLETE, TrialState.PRUNED]
    text = "memory ran out: a batch of 8 is made of 4 micro-batches from now on, with the same effective batch"
    assert [e.text for e in said if isinstance(e, Notice) and "memory" in e.text] == [text]
    rows = rows_of(stored)
    assert summary(rows) == "2 complete, 1 out of memory"
    assert "not even one sample at a time fits (tried to allocate 2.00 GiB)" in str(rows[2].cause)


def test_a_study_of_which_nothing_fits_ends_at_its_budget(tmp_path: Path, small: Workspace) -> None:
    """It is no failure that is tried again, nor one that ends the search."""
    tiny_experiment(tmp_path, backbone=BACKBONE, freeze={"unfrozen_stages": 2})
    space = {"optimizer.lr": {"type": "float", "low": 0.01, "high": 0.1}}
    stored = fttune.search(tiny_study(tmp_path, space=space, budget={"n_trials": 5, "max_failed": 2}), workspace=small)
    assert [row.state for row in rows_of(stored)] == ["out_of_memory"] * 5


def test_folds_run_out_of_memory_as_one_trial(tmp_path: Path, small: Workspace) -> None:
    stored = fttune.search(grid(tmp_path, pruner={"type": "none"}, evaluation={"folds": 2}), workspace=small)
    assert [row.state for row in rows_of(stored)] == ["complete", "complete", "out_of_memory"]


def test_a_report_shows_what_did_not_fit(tmp_path: Path, small: Workspace) -> None:
    from fttune.app.report import report

    study = grid(tmp_path)
    fttune.search(study, workspace=small)
    report(study, workspace=small)
    page = (small.mlruns / "reports" / "tiny" / "index.html").read_text(encoding="utf-8")
    assert "1 out of memory" in page
    assert "not even one sample at a time fits" in page


def test_a_run_that_does_not_fit_is_a_failed_run_with_its_cause(tmp_path: Path, small: Workspace) -> None:
    experiment = tiny_experiment(tmp_path, backbone=BACKBONE, freeze={"unfrozen_stages": 2})
    with pytest.raises(OutOfMemory, match="unfreeze fewer stages"):
        fttune.train(experiment, workspace=small)
    run = runs_of(small.mlflow_uri).iloc[0]
    assert (run["status"], run["tags.fttune.state"]) == ("FAILED", "out_of_memory")
    assert "training.batch_size is 8" in run["tags.fttune.cause"]
