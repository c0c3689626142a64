"""Whatever a tracking server does, each point reaches it once, and nothing that trains waits for it."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.request import urlopen

import pytest
from mlflow.tracking import MlflowClient

import fttune
from fttune.app.session import target_of
from fttune.app.sync import sync
from fttune.config.workspace import Workspace
from fttune.tracking import Uploader
from fttune.training.events import (
    STUDY_ID,
    Described,
    EpochEnded,
    Event,
    EventLog,
    FileSaved,
    RunClosed,
    RunOpened,
)
from tests.faults.stand_in import FAULTS, Schedule, StandIn, free_port, serving
from tests.recipes import tiny_study

TRIALS, EPOCHS = 8, 5
Content = dict[str, object]


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that gives up after a second, and tries again at once."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setattr("fttune.tracking.uploader.CLOSE_SECONDS", 0.0)
    for name in ("FIRST", "LAST"):
        monkeypatch.setattr(f"fttune.tracking.uploader.{name}_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr("fttune.tracking.uploader.GATHER_SECONDS", 0.02)
    monkeypatch.setattr("fttune.app.sync.PAUSES_SECONDS", (0.01,) * 40)


def content(server: StandIn) -> dict[str, Content]:
    """Return what a server has of each run, points counted as they were sent, whatever differs from study to study."""
    names = {run_id: run.tags["fttune.run"] for run_id, run in server.runs.items()}
    assert len(set(names.values())) == len(names), f"a run was made twice: {Counter(names.values()).most_common(1)}"
    found: dict[str, Content] = {}
    for run_id, run in server.runs.items():
        files = {path.partition("artifacts/")[2]: data for path, data in server.files.items() if run_id in path}
        parent = run.tags.get("mlflow.parentRunId")
        found[names[run_id]] = {
            "points": Counter((name, step, None if "second" in name else value) for name, step, value, _ in run.points),
            "params": run.params,
            "tags": {key: value for key, value in run.tags.items() if key.startswith("fttune.") and key != STUDY_ID},
            "status": run.info["status"],
            "parent": None if parent is None else names[parent],
            "files": {name: "timed" if name.endswith(".json") else data for name, data in files.items()},
            "models": len(run.outputs),
        }
    return found


def events_of_a_study(folder: Path) -> Iterator[tuple[str, Event]]:
    """What a study of some trials logs, a part of them interrupted and reopened."""
    study = {STUDY_ID: "5" * 32}
    folder.mkdir(parents=True, exist_ok=True)
    yield (
        "s",
        RunOpened("s", "pets", params={"metric": "val/loss"}, tags={"fttune.kind": "study", **study}, reopen=True),
    )
    for number in range(TRIALS):
        run, resumes = f"s/{number}", number % 3 == 2
        for attempt in range(1 + resumes):
            params = {f"p{i}": i * number for i in range(30)}
            yield run, RunOpened(f"t{number}", "pets", "s", params, {"fttune.kind": "trial", **study}, attempt > 0)
            yield run, Described({"fttune.device": "cpu"})
            for epoch in range(1, EPOCHS + 1 if attempt == resumes else 3):
                yield run, EpochEnded(epoch, {"train/loss": 1 / epoch, "val/loss": number / epoch, "lr": 0.1}, epoch)
            if attempt == resumes:
                file = folder / f"{number}.csv"
                file.write_text(f"checkpoint {number}")
                yield run, FileSaved(file, "checkpoint")
                yield run, RunClosed("complete", {}, {"value": number / EPOCHS, "best_epoch": float(EPOCHS)})
            else:
                yield run, RunClosed("interrupted", {"fttune.cause": "Ctrl-C"})
    yield "s", RunClosed("complete", {"fttune.best_trial": "0"}, {"best_value": 0.0})


def delivered(workspace: Workspace, server: StandIn) -> None:
    """Log the study in one command, and sync until nothing is left."""
    with serving(server) as uri:
        uploader = Uploader(target_of(workspace, uri))
        log = EventLog(uploader)
        for run, event in events_of_a_study(workspace.root / "files"):
            log.append(run, event)
            time.sleep(0.002)  # an epoch takes longer
        uploader.close()
        for _ in range(20):
            lines = sync(workspace)
            if not any(line.left for line in lines):
                break
        assert not any(line.left or line.refused for line in lines)
        assert not list(workspace.spools.iterdir())


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 6))])
def test_a_server_that_fails_in_every_way_has_each_point_once_in_the_end(
    seed: int, tmp_path: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Odd seeds: within the session, which is patient; even ones: it gives up at once, and `sync` does most of it."""
    monkeypatch.setattr("fttune.tracking.uploader.CLOSE_SECONDS", 60.0 * (seed % 2))
    quiet, wild = StandIn(Schedule()), StandIn(Schedule(seed, probability=0.25))
    delivered(Workspace.at(tmp_path / "quiet"), quiet)
    delivered(workspace, wild)
    require_equal(wild, quiet)
    assert wild.schedule.seen.keys() == {*FAULTS, "plain"}


def test_a_study_on_a_server_that_fails_ends_as_on_one_that_does_not(
    tmp_path: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fttune.tracking.uploader.CLOSE_SECONDS", 60.0)
    quiet, wild = StandIn(Schedule()), StandIn(Schedule(7, probability=0.25))
    for server, folder in ((quiet, tmp_path / "quiet"), (wild, tmp_path / "wild")):
        folder.mkdir()
        shutil.copytree(workspace.mlruns, folder / "mlruns")
        with serving(server) as uri:
            study = tiny_study(folder, tracking={"uri": uri}, budget__n_trials=3)
            fttune.search(study, workspace=Workspace.at(folder))
            assert not any(line.left for line in sync(Workspace.at(folder)))
    require_equal(wild, quiet)
    assert [model["info"]["status"] for model in wild.models.values()] == ["LOGGED_MODEL_READY"]
    assert sum(wild.schedule.seen[fault] for fault in FAULTS) >= 10


def require_equal(wild: StandIn, quiet: StandIn) -> None:
    sent, wanted = content(wild), content(quiet)
    assert sent.keys() == wanted.keys()
    for run, stored in wanted.items():
        for part, value in stored.items():
            assert sent[run][part] == value, (run, part)


@pytest.mark.slow
def test_a_real_server_that_is_killed_three_times_has_each_point_once_in_the_end(
    tmp_path: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    port, store = free_port(), f"sqlite:///{tmp_path / 'server.db'}"
    target = target_of(workspace, f"http://127.0.0.1:{port}")
    server = real_server(store, tmp_path / "kept", port)
    uploader = Uploader(target)
    log = EventLog(uploader)
    try:
        for number, (run, event) in enumerate(events := list(events_of_a_study(tmp_path / "files"))):
            log.append(run, event)
            time.sleep(0.05)
            if number in (len(events) // 4, len(events) // 2, 3 * len(events) // 4):
                os.killpg(server.pid, signal.SIGKILL)
                server.wait()
                server = real_server(store, tmp_path / "kept", port)
        uploader.close()
        assert not any(line.left or line.refused for line in sync(workspace))
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
    quiet = StandIn(Schedule())
    delivered(Workspace.at(tmp_path / "quiet"), quiet)
    wanted = content(quiet)
    client = MlflowClient(store)
    found = client.search_runs([client.get_experiment_by_name("pets").experiment_id])
    assert sorted(run.data.tags["fttune.run"] for run in found) == sorted(wanted)
    for run in found:
        stored = wanted[run.data.tags["fttune.run"]]
        points = [p for name in run.data.metrics for p in client.get_metric_history(run.info.run_id, name)]
        assert Counter((p.key, p.step, p.value) for p in points) == stored["points"]
        assert (run.info.status, run.data.params) == (stored["status"], stored["params"])


def real_server(store: str, artifacts: Path, port: int) -> "subprocess.Popen[bytes]":
    """Start `mlflow server` in a process group of its own, and wait until it answers."""
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store, "--workers", "1"]
    command += ["--artifacts-destination", str(artifacts), "--host", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    end = time.monotonic() + 180
    while time.monotonic() < end:
        with suppress(OSError), urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
            if answer.status == 200:
                return server
        time.sleep(0.2)
    raise AssertionError("mlflow server does not answer")
