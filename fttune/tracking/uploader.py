"""One background thread writes events to MLflow, so that training does not wait for single writes.

Events that come within a moment are written together, those of a run at its end at the latest: what they say is one
request. The thread also imports mlflow, which takes seconds, while the main thread reads images.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from threading import Condition
from typing import TYPE_CHECKING, Any, TypeVar

from fttune.errors import FttuneError, TrackingFailed
from fttune.files import cannot_write, is_of_disk
from fttune.training.events import Entry, Event, Notice, RunClosed, StudyProgress

if TYPE_CHECKING:
    from fttune.tracking.store import MlflowStore

Answer = TypeVar("Answer")
GATHER_SECONDS = 5.0  # a write takes 10 ms or more, of a processor that trains as well


class Uploader:
    """A listener of an event log. Its thread is the only caller of mlflow; after a failed write it only closes runs."""

    def __init__(self, uri: str, *, artifacts: Path, locks: Path) -> None:
        self._uri, self._artifacts, self._locks = uri, artifacts, locks
        self._pool = ThreadPoolExecutor(1, "fttune-uploader")
        self._pool.submit(import_module, "fttune.tracking.store")
        self._store: MlflowStore | None = None
        self._waiting: list[Entry] = []
        self._lock = Condition()
        self._wanted = False
        self._pending: list[Future[Any]] = []
        self._failed = False

    def __call__(self, entry: Entry) -> None:
        """Take an entry to write, within `GATHER_SECONDS`, when its run ends or when someone waits for it."""
        if isinstance(entry.event, StudyProgress | Notice):
            return
        with self._lock:
            self._waiting.append(entry)
            if len(self._waiting) == 1:
                self._pending.append(self._pool.submit(self._gather))
            if isinstance(entry.event, RunClosed):
                self._lock.notify()

    def open(self) -> None:
        """Open the store; one whose file is not there yet is made in the background, which takes seconds.

        Raises:
            StoreError: the store cannot be used as it stands.
        """
        opening = self._pool.submit(self._opened)
        file = Path(self._uri.removeprefix("sqlite:///"))
        if self._uri.startswith("sqlite:///") and not file.exists():
            with self._lock:
                self._pending.append(opening)
        else:
            self._result(opening)

    def ask(self, query: Callable[["MlflowStore"], Answer]) -> Answer:
        """Return what `query` finds in the store, once all entries so far are in it.

        Raises:
            StoreError: the store cannot be used as it stands.
            TrackingFailed: MLflow refused.
            CannotWrite: the disk of a local store is full or fails.
        """
        self.flush()
        answer: Answer = self._result(self._pool.submit(lambda: query(self._opened())))
        return answer

    def flush(self, timeout_seconds: float | None = None) -> None:
        """Wait until all entries so far are stored. Raises as `ask` does."""
        with self._lock:
            self._wanted = True
            self._lock.notify()
        try:
            done: list[Future[Any]] = []
            pending: list[Future[Any]] = []
            end = None if timeout_seconds is None else time.monotonic() + timeout_seconds
            while pending := self._take_pending():  # gathering adds the writes
                # A run is closed after a failure too, so a failure does not end the wait.
                wait(pending, None if end is None else max(0.0, end - time.monotonic()))
                done += pending
        finally:
            with self._lock:
                self._wanted = False
                self._pending[:0] = pending  # after an interruption the next flush waits for these
        for future in done:
            self._result(future, 0)

    def close(self, timeout_seconds: float | None = None) -> None:
        """Wait for the rest, at most so long, and end the thread. Raises as `ask` does."""
        try:
            self.flush(timeout_seconds)
        finally:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _take_pending(self) -> "list[Future[Any]]":
        with self._lock:
            pending, self._pending = self._pending, []
        return pending

    def _gather(self) -> None:
        """Wait a moment for more entries, then write them all, those of one run together."""
        with self._lock:
            self._lock.wait_for(lambda: self._wanted or _a_run_ends(self._waiting), GATHER_SECONDS)
            entries, self._waiting = self._waiting, []
            for run, events in _by_run(entries).items():
                self._pending.append(self._pool.submit(self._write, run, events))
                if isinstance(events[-1], RunClosed):
                    self._pending.append(self._pool.submit(self._close_failed, run, events[-1]))

    def _write(self, run: str, events: Iterable[Event]) -> None:
        if self._failed:
            return
        self._failed = True  # should the next line raise
        self._opened().write(run, *events)
        self._failed = False

    def _close_failed(self, run: str, closed: RunClosed) -> None:
        """Close a run of which something could not be written; its last metrics may be there, and MLflow keeps both."""
        if self._failed:
            self._opened().write(run, replace(closed, metrics={}))

    def _result(self, future: "Future[Any]", timeout_seconds: float | None = None) -> Any:
        error = future.exception(timeout_seconds)
        if error is None:
            return future.result()
        if isinstance(error, FttuneError):
            raise error
        if self._uri.startswith("sqlite:") and is_of_disk(error):
            raise cannot_write(self._artifacts.parent, error) from error
        raise TrackingFailed(f"MLflow at {self._uri} did not take what was logged: {error}") from error

    def _opened(self) -> "MlflowStore":
        """Return the store, opened at the first use: bad input that is found before then leaves nothing behind."""
        if self._store is None:
            from fttune.tracking.store import MlflowStore

            self._store = MlflowStore(self._uri, artifacts=self._artifacts, locks=self._locks)
        return self._store


def _a_run_ends(entries: Sequence[Entry]) -> bool:
    return any(isinstance(entry.event, RunClosed) for entry in entries)


def _by_run(entries: Iterable[Entry]) -> dict[str, list[Event]]:
    """Return the events of each run in order; the runs in the order of their first events, parents before children."""
    found: dict[str, list[Event]] = {}
    for entry in entries:
        found.setdefault(entry.run, []).append(entry.event)
    return found
