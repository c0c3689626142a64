import threading
from pathlib import Path

import pytest

from fttune.config.workspace import Workspace
from fttune.errors import StoreError, TrackingFailed
from fttune.tracking import Uploader
from fttune.training.events import EpochEnded, EventLog, RunClosed, RunOpened
from tests.stored import runs_of


def uploader_of(workspace: Workspace, uri: str | None = None) -> Uploader:
    return Uploader(uri or workspace.mlflow_uri, artifacts=workspace.artifacts, locks=workspace.locks)


def test_what_was_logged_is_stored_in_order_after_a_flush(workspace: Workspace) -> None:
    uploader = uploader_of(workspace)
    log = EventLog(uploader)
    log.append("pets", RunOpened("pets", "pets"))
    for epoch in range(1, 21):
        log.append("pets", EpochEnded(epoch, {"val/loss": 1 / epoch}, unix_ms=epoch))
    uploader.flush()
    frame = runs_of(workspace.mlflow_uri, "pets")
    assert frame["metrics.val/loss"].tolist() == [1 / 20]
    assert frame["status"].tolist() == ["RUNNING"]
    log.append("pets", RunClosed("complete"))
    uploader.close()
    assert runs_of(workspace.mlflow_uri, "pets")["status"].tolist() == ["FINISHED"]


def test_all_calls_come_from_one_thread_that_is_not_the_callers(workspace: Workspace) -> None:
    uploader = uploader_of(workspace)
    names = {uploader.ask(lambda _: threading.current_thread().name) for _ in range(3)}
    uploader.close()
    assert len(names) == 1
    assert names != {threading.current_thread().name}


def test_opening_writes_nothing_before_the_first_event(tmp_path: Path) -> None:
    workspace = Workspace.at(tmp_path)
    uploader_of(workspace).close()
    assert not workspace.mlruns.exists()


def test_what_an_interrupted_flush_waited_for_is_stored_by_the_next(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploader = uploader_of(workspace)
    log = EventLog(uploader)
    log.append("pets", RunOpened("pets", "pets"))

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as interrupted:
        interrupted.setattr("fttune.tracking.uploader.wait", interrupt)
        with pytest.raises(KeyboardInterrupt):
            uploader.flush()
    log.append("pets", RunClosed("interrupted"))
    uploader.close(20)
    assert runs_of(workspace.mlflow_uri, "pets")["status"].tolist() == ["KILLED"]


def test_a_dead_server_is_named(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    uploader = uploader_of(workspace, "http://127.0.0.1:9")
    log = EventLog(uploader)
    log.append("pets", RunOpened("pets", "pets"))
    log.append("pets", RunClosed("complete"))
    with pytest.raises(TrackingFailed, match=r"MLflow at http://127\.0\.0\.1:9 did not take what was logged"):
        uploader.close()


def test_a_moved_folder_reaches_the_caller_as_it_is(workspace: Workspace, tmp_path: Path) -> None:
    first = uploader_of(workspace)
    EventLog(first).append("pets", RunOpened("pets", "pets"))
    first.close()
    workspace.mlruns.rename(tmp_path / "elsewhere")
    uploader = uploader_of(Workspace.at(tmp_path, tmp_path / "elsewhere"))
    with pytest.raises(StoreError, match="was moved"):
        uploader.ask(lambda store: store.uri)


def test_entries_that_wait_together_are_one_write_for_each_run(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fttune.tracking.store import MlflowStore

    writes: list[tuple[str, list[str]]] = []

    def watched(_: MlflowStore, run: str, *events: object) -> None:
        writes.append((run, [type(event).__name__ for event in events]))

    monkeypatch.setattr(MlflowStore, "write", watched)
    monkeypatch.setattr("fttune.tracking.uploader.GATHER_SECONDS", 600.0)  # until someone waits
    uploader = uploader_of(workspace)
    log = EventLog(uploader)
    log.append("pets", RunOpened("pets", "pets"))
    for event in (RunOpened("trial", "pets"), EpochEnded(1, {}), EpochEnded(2, {}), RunClosed("complete")):
        for number in (0, 1):
            log.append(f"pets/{number}", event)
    log.append("pets", RunClosed("complete"))
    uploader.close()
    trial = ["RunOpened", "EpochEnded", "EpochEnded", "RunClosed"]
    assert writes == [("pets", ["RunOpened", "RunClosed"]), ("pets/0", trial), ("pets/1", trial)]


def test_a_run_of_which_something_was_not_taken_is_closed_all_the_same(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploader = uploader_of(workspace)
    log = EventLog(uploader)
    log.append("pets", RunOpened("pets", "pets"))
    uploader.flush()

    def full(*_: object) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as failing:
        failing.setattr("fttune.tracking.store.MlflowStore._points", full)
        log.append("pets", EpochEnded(1, {"val/loss": 1.0}))
        log.append("pets", RunClosed("failed"))
        with pytest.raises(TrackingFailed, match="did not take what was logged: no space left on device"):
            uploader.close()
    assert runs_of(workspace.mlflow_uri, "pets")["status"].tolist() == ["FAILED"]
