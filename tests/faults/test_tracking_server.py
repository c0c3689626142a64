"""Whatever a tracking server does, each point reaches it once, and nothing that trains waits for it."""

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

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
from tests.faults.stand_in import FAULTS, Schedule, StandIn, serving

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
            "points": Counter((name, step, value) for name, step, value, _ in run.points),
            "params": run.params,
            "tags": {key: value for key, value in run.tags.items() if key.startswith("fttune.")},
            "status": run.info["status"],
            "parent": None if parent is None else names[parent],
            "files": files,
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
                file = folder / f"{number}.json"
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


@pytest.mark.parametrize("seed", range(5))
def test_a_server_that_fails_in_every_way_has_each_point_once_in_the_end(
    seed: int, tmp_path: Path, workspace: Workspace
) -> None:
    quiet, wild = StandIn(Schedule()), StandIn(Schedule(seed, probability=0.25))
    delivered(Workspace.at(tmp_path / "quiet"), quiet)
    delivered(workspace, wild)
    sent, wanted = content(wild), content(quiet)
    assert sent.keys() == wanted.keys()
    for run, stored in wanted.items():
        for part, value in stored.items():
            assert sent[run][part] == value, (run, part)
    assert set(wild.schedule.seen) == {*FAULTS, "plain"}
