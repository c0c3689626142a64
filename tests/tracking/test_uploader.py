import threading
from pathlib import Path

import pytest

from fttune.app.session import target_of
from fttune.config.workspace import Workspace
from fttune.errors import StoreError, TrackingFailed
from fttune.tracking import Uploader
from fttune.tracking.spool import spool_files
from fttune.training.events import EpochEnded, EventLog, FileSaved, RunClosed, RunOpened
from tests.stored import runs_of

DEAD = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fttune.tracking.uploader.CLOSE_SECONDS", 0.0)
    monkeypatch.setattr("fttune.tracking.uploader.FIRST_PAUSE_SECONDS", 0.01)


def uploader_of(workspace: Workspace, uri: str | None = None) -> Uploader:
    return Uploader(target_of(workspace, uri or workspace.mlflow_uri))


def test_what_was_logged_is_stored_in_order_after_a_flush(workspace: Workspace) -> None:
    uploader = uploader_of(workspace)
    log = EventLog(uploader)
    log.append("pets", RunOpened("pets", "pets"))
    for epoch in range(1, 21):
        log.append("pets", EpochEnded(epoch, {"val/loss": 1 / epoch}, unix_ms=epoch))
    assert uploader.flush()
    frame = runs_of(workspace.mlflow_uri, "pets")
    assert frame["metrics.val/loss"].tolist() == [1 / 20]
    assert frame["status"].tolist() == ["RUNNING"]
    log.append("pets", RunClosed("complete"))
    assert uploader.close() == 0
    assert runs_of(workspace.mlflow_uri, "pets")["status"].tolist() == ["FINISHED"]
    assert list(workspace.spools.iterdir()) == []


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
        interrupted.setattr(uploader._changed, "wait_for", interrupt)
        with pytest.raises(KeyboardInterrupt):
            uploader.flush()
    log.append("pets", RunClosed("interrupted"))
    assert uploader.close(20) == 0
    assert runs_of(workspace.mlflow_uri, "pets")["status"].tolist() == ["KILLED"]


def test_a_dead_server_is_told_once_and_what_was_logged_waits(workspace: Workspace) -> None:
    uploader = uploader_of(workspace, "http://anna:hunter2@127.0.0.1:9")
    uploader.open()
    log = EventLog(uploader)
    log.append("pets", RunOpened("pets", "pets"))
    log.append("pets", RunClosed("complete"))
    assert not uploader.flush()
    assert uploader.close() == 2
    notices = uploader.take_notices()
    assert {text.partition(" (")[0] for text in notices} == {
        "MLflow at http://anna:***@127.0.0.1:9 does not take what is logged"
    }
    assert "hunter2" not in "".join(notices) + spool_files(workspace.spools)[0].read_text()


def test_who_asks_a_dead_server_is_told_at_once(workspace: Workspace) -> None:
    uploader = uploader_of(workspace, DEAD)
    for _ in range(2):
        with pytest.raises(TrackingFailed, match=r"MLflow at http://127\.0\.0\.1:9 does not answer"):
            uploader.ask(lambda store: store.find_run("pets", {}))
    uploader.close()


@pytest.mark.parametrize("uri", ["ftp://127.0.0.1/x", "sqlite:///{file}"])
def test_a_store_that_cannot_be_used_is_refused_at_the_start(uri: str, workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "no.db").write_text("this is no database, but long enough to be looked at" * 100)
    uploader = uploader_of(workspace, uri.format(file=tmp_path / "no.db"))
    with pytest.raises(StoreError, match=r"MLflow cannot use|no SQLite database"):
        uploader.open()
    uploader.close()


def test_a_moved_folder_reaches_the_caller_as_it_is(workspace: Workspace, tmp_path: Path) -> None:
    first = uploader_of(workspace)
    EventLog(first).append("pets", RunOpened("pets", "pets"))
    first.close()
    workspace.mlruns.rename(tmp_path / "elsewhere")
    uploader = uploader_of(Workspace.at(tmp_path, tmp_path / "elsewhere"))
    with pytest.raises(StoreError, match="was moved"):
        uploader.open()
    with pytest.raises(StoreError, match="was moved"):
        uploader.ask(lambda store: store.uri)
    uploader.close()


def test_entries_that_wait_together_are_one_write_for_each_run(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fttune.tracking.store import MlflowStore

    writes: list[tuple[str, list[str], bool]] = []

    def watched(_: MlflowStore, run: str, *events: object, again: bool) -> None:
        writes.append((run, [type(event).__name__ for event in events], again))

    monkeypatch.setattr(MlflowStore, "write", watched)
    gate = threading.Event()
    uploader = uploader_of(workspace)
    asked = threading.Thread(target=lambda: uploader.ask(lambda _: gate.wait()))
    asked.start()
    log = EventLog(uploader)
    log.append("pets", RunOpened("pets", "pets"))
    for event in (RunOpened("trial", "pets"), EpochEnded(1, {}), EpochEnded(2, {}), RunClosed("complete")):
        for number in (0, 1):
            log.append(f"pets/{number}", event)
    log.append("pets", RunClosed("complete"))
    gate.set()
    asked.join()
    uploader.close()
    both = [
        (run, [name for one, names, _ in writes if one == run for name in names])
        for run in ("pets", "pets/0", "pets/1")
    ]
    trial = ["RunOpened", "EpochEnded", "EpochEnded", "RunClosed"]
    assert both == [("pets", ["RunOpened", "RunClosed"]), ("pets/0", trial), ("pets/1", trial)]
    assert len(writes) <= 6
    assert not any(again for *_, again in writes)


def test_what_a_full_disk_kept_from_mlflow_is_stored_by_the_next_command(
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
        assert uploader.close() == 2
    assert "no space left on device" in uploader.take_notices()[0]
    later = uploader_of(workspace)
    assert later.ask(lambda store: store.find_run("pets", {})).info.status == "FAILED"
    later.close()
    assert runs_of(workspace.mlflow_uri, "pets")["metrics.val/loss"].tolist() == [1.0]


def test_files_of_a_run_are_dropped_once_it_ended_and_was_stored_but_not_of_an_interrupted_one(
    workspace: Workspace,
) -> None:
    uploader = uploader_of(workspace)
    log = EventLog(uploader)
    target = target_of(workspace, workspace.mlflow_uri)
    for run, state in (("pets", "complete"), ("pets/0", "complete"), ("pets/1", "interrupted"), ("pets/2", None)):
        file = target.folder(run) / "best.json"
        file.parent.mkdir(parents=True)
        file.write_text(run)
        log.append(run, RunOpened(run, "pets"))
        log.append(run, FileSaved(file, "checkpoint"))
        if state:
            log.append(run, RunClosed(state))
    assert uploader.waiting_files("pets/0") == [target.folder("pets/0") / "best.json"] or uploader.flush()
    uploader.close()
    assert sorted(folder.name for folder in workspace.runs.iterdir()) == ["pets+1", "pets+2"]
    stored = [file.read_text() for file in sorted(workspace.artifacts.rglob("best.json"))]
    assert sorted(stored) == ["pets", "pets/0", "pets/1", "pets/2"]


def test_a_symlink_is_not_uploaded_and_what_comes_after_it_is(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("mine")
    (tmp_path / "folder").mkdir()
    for link in (tmp_path / "link", tmp_path / "folder" / "link"):
        link.symlink_to(tmp_path / "secret")
    uploader = uploader_of(workspace)
    log = EventLog(uploader)
    log.append("pets", RunOpened("pets", "pets"))
    log.append("pets", FileSaved(tmp_path / "link", "checkpoint"))
    log.append("pets", FileSaved(tmp_path / "folder", "checkpoint"))
    log.append("pets", EpochEnded(1, {"val/loss": 1.0}))
    log.append("pets", RunClosed("complete"))
    assert uploader.close() == 0
    notices = uploader.take_notices()
    assert len(notices) == 2
    assert all("is a symlink" in text and "refused.jsonl" in text for text in notices)
    assert not [file for file in workspace.artifacts.rglob("*") if file.is_file() or file.is_symlink()]
    frame = runs_of(workspace.mlflow_uri, "pets")
    assert (frame["status"].tolist(), frame["metrics.val/loss"].tolist()) == (["FINISHED"], [1.0])
