"""A study whose trials train in workers stores what it stores without; workers, driver or both may die meanwhile."""

import os
import signal
import time
from pathlib import Path

import pytest

from tests import processes
from tests.faults import oracle
from tests.recipes import write_experiment, write_study

LR = {"type": "float", "low": 1.0e-3, "high": 0.1, "log": True}
DEPTH = {"type": "int", "low": 0, "high": 2}
SPACE = {"optimizer.lr": LR, "freeze.unfrozen_stages": DEPTH}
STUDIES = {
    "none": {"budget": {"n_trials": 24, "max_failed": 3}, "batch": 8, "pruner": {"type": "none"}},
    "rungs": {
        "budget": {"n_trials": 8, "max_failed": 3},
        "batch": 8,
        "sampler": {"type": "tpe", "seed": 0},
        "pruner": {"type": "successive_halving", "min_epochs": 1, "reduction_factor": 2},
    },
}
MAIN = b"fttune.app.worker"


def write(root: Path, name: str, epochs: int = 2) -> Path:
    root.mkdir()
    write_experiment(root, training__epochs=epochs)
    write_study(root, space=SPACE, **STUDIES[name])
    return root


def searched(root: Path, *more: str) -> oracle.Stored:
    code, _, err = processes.run("search", "studies/tiny.yaml", *more, cwd=root)
    assert code == 0, err
    return oracle.read(root / "mlruns")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> oracle.Stored:
    """What the study of 24 trials stores without workers."""
    return searched(write(tmp_path_factory.mktemp("alone") / "study", "none"))


def workers_of(root: Path) -> list[int]:
    """Return the processes that train for a search in a folder."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if MAIN in (place / "cmdline").read_bytes() and (place / "cwd").samefile(root):
                found.append(int(place.name))
        except OSError:  # it has ended
            continue
    return found


def memory_bytes(process: int) -> int:
    """Return what a process holds resident."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def none_left(root: Path) -> bool:
    end = time.monotonic() + 30
    while workers_of(root) and time.monotonic() < end:
        time.sleep(0.05)
    return not workers_of(root)


def test_trials_in_two_workers_are_those_of_one_process_to_the_last_bit(alone, tmp_path) -> None:
    root = write(tmp_path / "study", "none")
    command = processes.start("search", "studies/tiny.yaml", "--workers", "2", cwd=root)
    command.wait_for("trial-0000: trainable")
    code, _, err = processes.run("search", "studies/tiny.yaml", "--workers", "2", cwd=root)
    assert (code, "study tiny is being searched by process" in err) == (1, True), err
    assert command.wait() == 0, command.err.read_text()
    stored = oracle.read(root / "mlruns")
    assert oracle.problems(stored, trials=24) == []
    assert oracle.differences(stored, alone) == []
    assert none_left(root)


def test_workers_train_from_the_weights_of_an_experiment(tmp_path) -> None:
    root = tmp_path / "study"
    root.mkdir()
    write_experiment(root, "source", training__epochs=1)
    code, _, err = processes.run("train", "experiments/source.yaml", cwd=root)
    assert code == 0, err
    write_experiment(root, training__epochs=1, backbone__weights="experiment:source")
    write_study(root, space=SPACE, batch=4)
    assert [trial.state for _, trial in searched(root, "--workers", "2").trials] == ["COMPLETE"] * 4


def test_workers_for_whom_a_block_has_no_trial_are_told(tmp_path) -> None:
    (root := tmp_path / "study").mkdir()
    write_study(root, batch=1, budget__n_trials=1)
    code, _, err = processes.run("search", "studies/tiny.yaml", "--workers", "2", cwd=root)
    assert code == 0, err
    assert "batch is 1, so 1 of 2 workers have nothing to do; a study with `batch: 4` keeps them at work" in err


@pytest.mark.slow
def test_workers_give_memory_back_between_trials(tmp_path) -> None:
    root = tmp_path / "study"
    root.mkdir()
    write_experiment(root, training__epochs=1)
    write_study(root, space=SPACE, budget={"n_trials": 130}, batch=8, pruner={"type": "none"})
    command = processes.start("search", "studies/tiny.yaml", "--workers", "2", cwd=root)
    held = []
    for number in (20, 120):
        command.wait_for(f"trial-{number:04d}: complete", timeout_seconds=300)
        held.append(sum(memory_bytes(worker) for worker in workers_of(root)))
    assert command.wait() == 0, command.err.read_text()
    assert held[1] <= 1.05 * held[0], [f"{size / 1e6:.0f} MB" for size in held]


def test_halving_in_two_workers_prunes_what_it_prunes_in_one_process(tmp_path) -> None:
    expected = searched(write(tmp_path / "alone", "rungs", epochs=4))
    stored = searched(write(tmp_path / "study", "rungs", epochs=4), "--workers", "2")
    assert {trial.state for _, trial in stored.trials} == {"COMPLETE", "PRUNED"}
    assert oracle.differences(stored, expected) == []


def test_killed_workers_cost_an_attempt_and_a_killed_driver_leaves_none(alone, tmp_path) -> None:
    root = write(tmp_path / "study", "none")
    command = processes.start("search", "studies/tiny.yaml", "--workers", "2", cwd=root)
    command.wait_for("trial-0001: trainable")
    for pid in workers_of(root):  # one may still be preparing itself: its death costs no trial
        os.kill(pid, signal.SIGKILL)
    command.wait_for("was lost (killed by SIGKILL (out of memory, or kill -9)): it is tried again")
    command.wait_for("trial-0010: trainable")
    command.kill()
    assert none_left(root)
    stored = searched(root, "--workers", "2")
    assert oracle.problems(stored, trials=24) == []
    assert oracle.differences(stored, alone) == []


def test_ctrl_c_ends_workers_in_order_and_the_same_command_goes_on_even_without_them(alone, tmp_path) -> None:
    root = write(tmp_path / "study", "none")
    command = processes.start("search", "studies/tiny.yaml", "--workers", "2", cwd=root)
    command.wait_for("trial-0003: trainable")
    command.send(signal.SIGINT, group=True)
    assert command.wait() == 130
    assert none_left(root)
    assert "Traceback" not in command.err.read_text()
    assert {run.status for _, run in oracle.read(root / "mlruns").runs} <= {"FINISHED", "KILLED"}
    assert oracle.differences(searched(root), alone) == []
