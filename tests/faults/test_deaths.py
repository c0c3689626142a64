"""A trial that takes its process down takes only itself down: the command goes on and says what it died of."""

import json
import signal
import time
from pathlib import Path

import optuna
import pytest

from fttune.config.workspace import Workspace
from tests import processes
from tests.recipes import write_experiment, write_study
from tests.stored import runs_of

NET = """
import ctypes, os, pathlib, signal, sys
import torch
from torch import nn

DEATHS = {deaths}
ONCE = pathlib.Path({once!r})

class Guard(nn.Module):
    def forward(self, x):
        if len(x) in DEATHS and not ONCE.exists():
            {remember}
            exec(DEATHS[len(x)])
        return x

class Net(nn.Module):
    stages = {{"stem": ["conv", "act"], "body": ["block", "pool", "flat", "guard"]}}
    head = "last"

    def __init__(self):
        super().__init__()
        self.conv, self.act, self.guard = nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), Guard()
        self.block = nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU())
        self.pool, self.flat, self.last = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)

    def forward(self, x):
        return self.last(self.guard(self.flat(self.pool(self.block(self.act(self.conv(x)))))))

BACKBONES = {{"net": Net}}
"""
DEATHS = {
    12: "os._exit(3)",
    11: "os.abort()",
    10: "ctypes.string_at(0)",
    9: "os.kill(os.getpid(), signal.SIGKILL)",
    7: "sys.exit(5)",
    6: "raise ValueError('foreign code')",
}
CAUSES = {
    12: "ended amid its work with exit code 3 (attempt 2)",
    11: "killed by SIGABRT (attempt 2)",
    10: "killed by SIGSEGV (attempt 2)",
    9: "killed by SIGKILL (out of memory, or kill -9) (attempt 2)",
    7: "SystemExit: 5",
    6: "ValueError: foreign code",
}
SPACE = {
    "training.batch_size": {"type": "categorical", "choices": [2, 3, 4, 5, 8, 16, 24, *DEATHS]},
    "optimizer.lr": {"type": "float", "low": 1.0e-3, "high": 0.1, "log": True},
}


def write(root: Path, *, deaths: dict[int, str], once: bool = False, **fields) -> tuple[str, ...]:
    """Write a study whose trials die by their batch size, `once` only the first time; return its command."""
    marker = root / "died"
    remember = "ONCE.touch()" if once else "pass"
    net = NET.format(deaths=deaths, once=str(marker), remember=remember)
    (root / "net.py").write_text(net, encoding="utf-8")
    write_experiment(root, backbone__name="plugin:net")
    write_study(root, **fields)
    return "search", "studies/tiny.yaml", "--plugin", "net.py", "--json"


def trials_of(workspace: Workspace) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name="tiny", storage=workspace.optuna_uri).trials


def test_trials_that_kill_their_process_fail_with_their_cause_and_the_others_are_as_without(
    workspace: Workspace, tmp_path_factory: pytest.TempPathFactory
) -> None:
    lr = 0.01
    fields = {
        "baselines": [{"training.batch_size": size, "optimizer.lr": lr} for size in DEATHS],
        "budget": {"n_trials": 3, "max_failed": len(DEATHS) + 1},
        "retries": 1,
        "space": SPACE,
        "sampler": {"type": "random", "seed": 9},
    }
    root = workspace.root
    code, out, err = processes.run(*write(root, deaths=DEATHS, **fields), cwd=root)
    assert code == 0, err
    assert [t["state"] for t in json.loads(out)["trials"]].count("complete") == 3
    trials = trials_of(workspace)
    found = {t.params["training.batch_size"]: json.loads(t.user_attrs["fttune"])["cause"] for t in trials[:6]}
    assert found == CAUSES
    assert [t.state.name for t in trials] == ["FAIL"] * 6 + ["COMPLETE"] * 3
    for death in ("with exit code 3", "by SIGABRT", "by SIGSEGV", "by SIGKILL (out of memory, or kill -9)"):
        assert err.count(f"{death}; a new process continues it\n") == 2
    assert [t.user_attrs.get("fttune.attempts") for t in trials] == [3, 3, 3, 3, *[None] * 5]

    frame = runs_of(workspace.mlflow_uri).set_index("tags.fttune.run")
    assert "RUNNING" not in set(frame["status"])
    for number, size in enumerate(DEATHS):
        run = frame.loc[f"tiny/{number}"]
        assert (run["status"], run["tags.fttune.cause"]) == ("FAILED", CAUSES[size])
        assert (Path(run["artifact_uri"].removeprefix("file://")) / "traceback.txt").exists() == (size in (7, 6))
    assert frame.loc["tiny/2", "tags.fttune.last_cause"] == "killed by SIGSEGV"

    other = tmp_path_factory.mktemp("healthy")
    fields |= {"budget": {"n_trials": 9}}
    assert processes.run(*write(other, deaths={}, **fields), cwd=other)[0] == 0
    healthy = trials_of(Workspace.at(other))
    assert [(t.params, t.value) for t in trials[6:]] == [(t.params, t.value) for t in healthy[6:]]


def test_a_death_that_does_not_come_again_costs_an_attempt_and_nothing_else(workspace: Workspace) -> None:
    space = {"training.batch_size": {"type": "categorical", "choices": [12, 8, 4]}}
    fields = {"space": space, "sampler": {"type": "grid"}, "retries": 1}
    root = workspace.root
    code, _, err = processes.run(*write(root, deaths={12: "os.abort()"}, once=True, **fields), cwd=root)
    assert code == 0, err
    trials = trials_of(workspace)
    assert [t.state.name for t in trials] == ["COMPLETE"] * 3
    assert [t.user_attrs.get("fttune.attempts") for t in trials] == [2, None, None]
    frame = runs_of(workspace.mlflow_uri).set_index("tags.fttune.run")
    first = frame.loc["tiny/0"]
    facts = (first["status"], first["tags.fttune.attempts"], first["tags.fttune.last_cause"])
    assert facts == ("FINISHED", "2", "killed by SIGABRT")


def test_trials_that_died_together_run_alone_and_none_is_blamed_for_the_others(workspace: Workspace) -> None:
    fields = {"batch": 3, "budget": {"n_trials": 3}, "retries": 0, "space": {"optimizer.lr": SPACE["optimizer.lr"]}}
    root = workspace.root
    command = write(root, deaths={24: "os.abort()"}, once=True, **fields)  # the pass over the frozen stages
    code, _, err = processes.run(*command, "--set", "freeze.unfrozen_stages=0", cwd=root)
    assert code == 0, err
    assert err.count("killed by SIGABRT") == 1
    assert [t.user_attrs.get("fttune.attempts") for t in trials_of(workspace)] == [2, 2, 2]
    assert {t.state.name for t in trials_of(workspace)} == {"COMPLETE"}


@pytest.mark.slow
def test_deaths_before_any_trial_end_the_command_after_some(workspace: Workspace) -> None:
    command = write(workspace.root, deaths={2: "os.abort()"}, space={"optimizer.lr": SPACE["optimizer.lr"]})
    code, out, err = processes.run(*command, cwd=workspace.root)
    assert (code, out) == (1, "")
    assert err.count("a new process continues it") == 10
    assert err.endswith("the search was killed by SIGABRT, which is the death number 11 while no trial was at work\n")


def test_trials_that_all_die_end_the_search_as_failures_in_a_row_do(workspace: Workspace) -> None:
    space = {"optimizer.lr": SPACE["optimizer.lr"]}
    fields = {"space": space, "retries": 0, "budget": {"n_trials": 9, "max_failed": 3}}
    command = write(workspace.root, deaths={8: "os._exit(0)"}, **fields)
    code, _, err = processes.run(*command, cwd=workspace.root)
    assert code == 1
    assert "3 trials in a row failed (budget.max_failed), the last one, trial 2, because: ended amid its work" in err
    assert {t.state.name for t in trials_of(workspace)} == {"FAIL"}


@pytest.mark.parametrize("group", [False, True])
def test_ctrl_c_reaches_the_work_once_however_it_is_sent(group: bool, workspace: Workspace) -> None:
    write_study(workspace.root, budget__n_trials=50)
    command = processes.start("search", "studies/tiny.yaml", "--set", "training.epochs=20", cwd=workspace.root)
    command.wait_for("trial-0001: trainable")
    command.send(signal.SIGINT, group=group)
    assert command.wait(30) == 130, command.err.read_text()
    assert command.err.read_text().endswith("interrupted; run the same command again\n")
    assert not any("fttune.attempts" in trial.user_attrs for trial in trials_of(workspace))


def test_a_second_order_ends_work_that_does_not_hear_the_first(workspace: Workspace) -> None:
    deaf = "import time\nfor s in (2, 15, 10, 12): signal.signal(s, signal.SIG_IGN)\nONCE.touch()\ntime.sleep(60)"
    command = write(workspace.root, deaths={8: deaf}, space={"optimizer.lr": SPACE["optimizer.lr"]})
    started = processes.start(*command, cwd=workspace.root)
    wait_until(lambda: (workspace.root / "died").exists())
    started.send(signal.SIGTERM)
    time.sleep(0.1)
    assert started.process.is_alive()
    started.send(signal.SIGTERM)
    assert started.wait(10) == 143


def test_when_the_parent_is_killed_its_child_ends_in_order(workspace: Workspace) -> None:
    write_study(workspace.root, budget__n_trials=50)
    command = processes.start("search", "studies/tiny.yaml", "--set", "training.epochs=20", cwd=workspace.root)
    command.wait_for("trial-0001: trainable")
    command.send(signal.SIGKILL)
    command.wait_for_the_last()
    assert command.err.read_text().endswith("interrupted; run the same command again\n")
    assert "RUNNING" not in set(runs_of(workspace.mlflow_uri)["status"])


def wait_until(holds, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
