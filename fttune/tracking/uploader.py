"""One background thread writes events to MLflow, so that training does not wait for single writes.

The thread also imports mlflow, which takes seconds, while the main thread reads images.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fttune.errors import FttuneError, TrackingFailed
from fttune.training.events import Entry, RunClosed

if TYPE_CHECKING:
    from fttune.tracking.store import MlflowStore

Answer = TypeVar("Answer")


class Uploader:
    """A listener of an event log. Its thread is the only caller of mlflow; after a failed write it only closes runs."""

    def __init__(self, uri: str, *, artifacts: Path, locks: Path) -> None:
        self._uri, self._artifacts, self._locks = uri, artifacts, locks
        self._pool = ThreadPoolExecutor(1, "fttune-uploader")
        self._pool.submit(import_module, "fttune.tracking.store")
        self._store: MlflowStore | None = None
        self._pending: list[Future[None]] = []
        self._failed = False

    def __call__(self, entry: Entry) -> None:
        """Take an entry to write."""
        self._pending.append(self._pool.submit(self._write, entry))

    def ask(self, query: Callable[["MlflowStore"], Answer]) -> Answer:
        """Return what `query` finds in the store, once all entries so far are in it.

        Raises:
            StoreError: the store cannot be used as it stands.
            TrackingFailed: MLflow refused.
        """
        self.flush()
        answer: Answer = self._result(self._pool.submit(lambda: query(self._opened())))
        return answer

    def flush(self, timeout_seconds: float | None = None) -> None:
        """Wait until all entries so far are stored. Raises as `ask` does."""
        pending, self._pending = self._pending, []
        wait(pending, timeout_seconds)  # a run is closed after a failure too
        for future in pending:
            self._result(future, 0)

    def close(self, timeout_seconds: float | None = None) -> None:
        """Wait for the rest, at most so long, and end the thread. Raises as `ask` does."""
        try:
            self.flush(timeout_seconds)
        finally:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _write(self, entry: Entry) -> None:
        if self._failed and not isinstance(entry.event, RunClosed):
            return
        failed_before, self._failed = self._failed, True  # true, should the next line raise
        self._opened().write(entry.run, entry.event)
        self._failed = failed_before

    def _result(self, future: "Future[Any]", timeout_seconds: float | None = None) -> Any:
        error = future.exception(timeout_seconds)
        if error is None:
            return future.result()
        if isinstance(error, FttuneError):
            raise error
        raise TrackingFailed(f"MLflow at {self._uri} did not take what was logged: {error}") from error

    def _opened(self) -> "MlflowStore":
        """Return the store, opened at the first use: bad input that is found before then leaves nothing behind."""
        if self._store is None:
            from fttune.tracking.store import MlflowStore

            self._store = MlflowStore(self._uri, artifacts=self._artifacts, locks=self._locks)
        return self._store
