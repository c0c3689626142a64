"""Trials that fail inside Python: what is tried again, how often, and what is left to read."""

from pathlib import Path

import pytest

import fttune
from fttune.config.workspace import Workspace
from tests.faults.test_deaths import write
from tests.stored import history_of, runs_of

SPACE = {"training.batch_size": {"type": "categorical", "choices": [8, 12]}}
AGAIN = "raise OSError('the disk went away')"


def searched(workspace: Workspace, deaths: dict[int, str], *, once: bool = False, **fields):
    root = workspace.root
    write(root, deaths=deaths, once=once, **{"space": SPACE, "sampler": {"type": "grid"}, **fields})
    study = fttune.load_study(root / "studies" / "tiny.yaml")
    stored = fttune.search(study, workspace=Workspace.at(root, plugins=[root / "net.py"]))
    return stored, runs_of(workspace.mlflow_uri).set_index("tags.fttune.run")


PASSING = {
    12: AGAIN,
    9: "import sqlalchemy.exc as e; raise e.OperationalError('x', {}, ValueError('locked'))",
}
LASTING = {7: "raise TypeError('foreign code')", 6: "sys.exit('enough')"}


def test_a_passing_failure_is_tried_again_and_others_are_not(workspace):
    root, errors = workspace.root, PASSING | LASTING
    counted = {n: f"with open({str(root)!r} + '/{n}', 'a') as f: f.write('x')\n{code}" for n, code in errors.items()}
    space = {"training.batch_size": {"type": "categorical", "choices": [4, *errors]}}
    fields = {"baselines": [{"training.batch_size": size} for size in (*errors, 4)], "sampler": {"type": "random"}}
    stored, runs = searched(workspace, counted, space=space, budget={"n_trials": 1, "max_failed": 5}, **fields)
    assert [t.state.name for t in stored.trials[:5]] == ["FAIL"] * 4 + ["COMPLETE"]
    assert {size: len((root / str(size)).read_text()) for size in errors} == {**dict.fromkeys(PASSING, 3), 7: 1, 6: 1}
    assert [t.user_attrs.get("fttune.attempts") for t in stored.trials[:5]] == [4] * 2 + [None] * 3
    for number in range(4):
        failed = runs.loc[f"tiny/{number}"]
        assert failed["status"] == "FAILED"
        text = (Path(failed["artifact_uri"].removeprefix("file://")) / "traceback.txt").read_text()
        assert text.startswith("Traceback") and "in forward" in text


def test_an_attempt_that_succeeds_leaves_one_point_for_each_epoch(workspace):
    stored, runs = searched(workspace, {12: f"if torch.rand(1) < 2: {AGAIN}"}, once=True, budget={"n_trials": 2})
    assert [t.state.name for t in stored.trials] == ["COMPLETE"] * 2
    run = runs[runs["params.training.batch_size"] == "12"].iloc[0]
    assert (run["status"], run["tags.fttune.attempts"]) == ("FINISHED", "2")
    assert run["tags.fttune.last_cause"] == "OSError: the disk went away"
    assert [p.step for p in history_of(workspace.mlflow_uri, run["run_id"], "train/loss")] == [1, 2]


@pytest.mark.parametrize("pruner", ["none", "median"])
def test_a_cohort_that_fails_goes_on_one_by_one(pruner, workspace):
    space = {"optimizer.lr": {"type": "float", "low": 0.001, "high": 0.1}, "seed": {"type": "int", "low": 0, "high": 0}}
    fields = {"space": space, "sampler": {"type": "random"}, "batch": 3, "budget": {"n_trials": 3}}
    deaths = {24: AGAIN}  # in the pass over the frozen stages
    root = workspace.root
    write(root, deaths=deaths, once=True, pruner={"type": pruner}, **fields)
    study = fttune.load_study(root / "studies" / "tiny.yaml", ["freeze.unfrozen_stages=0"])
    stored = fttune.search(study, workspace=Workspace.at(root, plugins=[root / "net.py"]))
    assert [t.state.name for t in stored.trials] == ["COMPLETE"] * 3
    assert "RUNNING" not in set(runs_of(workspace.mlflow_uri)["status"])
