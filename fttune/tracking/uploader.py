"""The way of events: redacted, then onto disk by the thread that emits them, then by a background thread to MLflow.

Nothing that MLflow does, or fails to do, makes the emitting thread wait, unless it asks. Events that come within a
moment are written together, those of a run at its end at the latest: what they say is one request. The thread also
imports mlflow, which takes seconds, while the main thread reads images.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from threading import Condition
from typing import TYPE_CHECKING, Any, TypeVar

from fttune.errors import FttuneError, StoreError, StudyBusy, TrackingFailed
from fttune.files import cannot_write, is_of_disk
from fttune.tracking.delivery import Deliveries, Delivery, Unreachable, no_fence, why
from fttune.tracking.records import FOR_PEOPLE
from fttune.tracking.redaction import redacted, redacted_text
from fttune.tracking.spool import Spool, Target, entries_of, spool_files, waiting_in
from fttune.training.events import Entry, FileSaved, RunClosed, RunOpened

if TYPE_CHECKING:
    from fttune.tracking.store import MlflowStore

Answer = TypeVar("Answer")
GATHER_SECONDS = 5.0  # a write takes 10 ms or more, of a processor that trains as well
FIRST_PAUSE_SECONDS, LAST_PAUSE_SECONDS = 0.5, 30.0
OPEN_SECONDS = 5.0  # for a server to answer at the start
CLOSE_SECONDS = 5.0  # for a server that does not answer to come back at the end
LOCAL_CLOSE_SECONDS = 1.0  # for a local store: a disk that is full stays so
RECENT_SECONDS = 2.0  # a failure that long ago answers a question too


@dataclass
class _Outage:
    """MLflow does not take what is written: since when (monotonic seconds), why, and how long it is left alone.

    `late` are seconds in which the request that failed may still be carried out.
    """

    since: float
    failed: float
    pause: float
    late: float
    error: BaseException

    @property
    def due(self) -> float:
        return self.failed + max(self.pause, self.late)


class Uploader:
    """A listener of an event log, and its thread, which is the only caller of mlflow.

    Before an event is taken, and before some are sent, `fence` is called: nothing passes once it raises.
    """

    fence: Callable[[], None]

    def __init__(self, target: Target) -> None:
        self._target = target
        self.fence = no_fence
        self._spool: Spool | None = None
        self._open: set[str] = set()
        self._notices: list[str] = []
        self._questions: list[tuple[Callable[[MlflowStore], Any], Future[Any], bool]] = []
        self._changed = Condition()
        self._since: float | None = None  # when the first event came that no pass has seen
        self._hurries = self._gave_up = self._closing = self._closed = False
        self._wanted = self._delivered = self._failed = 0  # tickets: all that was emitted before they were drawn
        self._outage: _Outage | None = None
        self._deliveries = Deliveries(target, self._notices.append)
        self._thread = threading.Thread(target=self._work, name="fttune-uploader", daemon=True)
        self._thread.start()

    def __call__(self, entry: Entry) -> None:
        """Append an entry to the spool; it is sent within `GATHER_SECONDS`, when its run ends, or when someone waits.

        Raises:
            CannotWrite: the disk is full or fails.
            Exception: what `fence` raises.
        """
        if isinstance(entry.event, FOR_PEOPLE):
            return
        self.fence()
        entry = redacted(entry)
        with self._changed:
            if self._spool is None:
                self._spool = Spool.create(self._target)
                self._deliveries.own = Delivery(
                    self._spool, self._target, self._is_open, self._notices.append, fence=lambda: self.fence()
                )
            if isinstance(entry.event, RunOpened):
                self._open.add(entry.run)
            self._spool.append(entry)
            if isinstance(entry.event, RunClosed):
                self._open.discard(entry.run)
                self._hurries = True
            if self._hurries or self._since is None:  # each time, waking the thread would cost more than the rest
                self._since = self._since or time.monotonic()
                self._changed.notify_all()

    def open(self) -> None:
        """Look whether the store can be used. One whose file is not there yet is made in the background.

        A server that does not answer is told in a notice: what is emitted waits for it.

        Raises:
            StoreError: the store cannot be used as it stands.
            CannotWrite: the disk of a local store is full or fails.
        """
        if self._is_local and not Path(self._target.uri.removeprefix("sqlite:///")).exists():
            self._ask(lambda _: None, drains=False)
            return
        asked = self._ask(lambda store: store.answers(), drains=False)
        try:
            error = asked.exception(None if self._is_local else OPEN_SECONDS)
        except TimeoutError as timeout:
            error = timeout
        if error is None:
            return
        if isinstance(error, FttuneError) or (self._is_local and is_of_disk(error)):
            raise self._error(error) from error
        from fttune.tracking.replies import is_misconfiguration

        if self._is_local or (isinstance(error, Exception) and is_misconfiguration(error)):
            raise StoreError(f"MLflow cannot use {self._target.label}: {why(error)}") from error
        self._tell_outage(error)

    def ask(self, query: Callable[["MlflowStore"], Answer]) -> Answer:
        """Return what `query` finds in the store, once all entries so far are in it.

        Raises:
            StoreError: the store cannot be used as it stands.
            TrackingFailed: MLflow does not answer; at once when it did not a moment ago.
            CannotWrite: the disk of a local store is full or fails.
        """
        with self._changed:
            outage = self._outage
            if outage is not None and time.monotonic() - outage.failed < max(RECENT_SECONDS, outage.late):
                raise self._error(outage.error)
        asked = self._ask(query, drains=True)
        error = asked.exception()
        if error is not None:
            raise self._error(error)
        answer: Answer = asked.result()
        return answer

    def persist(self) -> None:
        """Let all entries so far reach the disk: they are not lost from here on. Raises CannotWrite."""
        if self._spool is not None:
            self._spool.persist()

    def flush(self, timeout_seconds: float | None = None, *, patience_seconds: float = 0.0) -> bool:
        """Wait until MLflow has all entries so far, and return whether it does.

        Gives up when it does not answer, `patience_seconds` after it did last, or the wait began.
        """
        with self._changed:
            if self._spool is None and not self._questions:
                return True
            self._wanted += 1
            ticket, begun = self._wanted, time.monotonic()
            self._hurries = True
            if self._outage is not None:
                self._outage.pause = 0.0
            self._changed.notify_all()

            def is_over() -> bool:
                if self._delivered >= ticket or self._closed:
                    return True
                if (outage := self._outage) is None or not (self._failed >= ticket or outage.late):
                    return False
                return outage.due - max(outage.since, begun) > patience_seconds  # the next attempt would be too late

            self._changed.wait_for(is_over, timeout_seconds)
            return self._delivered >= ticket

    def settle(self, timeout_seconds: float | None = None) -> None:
        """Wait while MLflow takes what is left, at most so long. Whoever closes the uploader then waits no more."""
        patience = LOCAL_CLOSE_SECONDS if self._is_local else CLOSE_SECONDS
        self._gave_up = not self.flush(timeout_seconds, patience_seconds=patience)

    def close(self, timeout_seconds: float | None = None) -> int:
        """Settle and end the thread; return how many events are left. Raises CannotWrite when the disk is full."""
        try:
            self.persist()
            if not self._gave_up:
                self.settle(timeout_seconds)
        finally:
            with self._changed:
                self._closing = True
                self._changed.notify_all()
        # A thread that waits for a server ends with its answer, or with the process; one that makes a store is awaited.
        self._thread.join(1.0 if self._gave_up or not self._is_local else timeout_seconds)
        if not self._gave_up:
            return 0
        label = self._target.label
        return sum(waiting.events for waiting in waiting_in(self._target.spools) if waiting.uri == label)

    def take_notices(self) -> list[str]:
        """Return what people should be told since the last call."""
        taken = [self._notices.pop(0) for _ in range(len(self._notices))]
        return [redacted_text(text) for text in taken]

    def waiting_files(self, run: str) -> list[Path]:
        """Return the files that were saved for a run and still lie where they wait, the newest last."""
        entries = (entry for file in spool_files(self._target.spools) for entry in entries_of(file))
        saved = [entry.event.path for entry in entries if entry.run == run and isinstance(entry.event, FileSaved)]
        return [path for path in dict.fromkeys(saved) if path.is_file()]

    def _ask(self, query: Callable[["MlflowStore"], Any], *, drains: bool) -> "Future[Any]":
        asked: Future[Any] = Future()
        with self._changed:
            if self._closing:
                raise TrackingFailed("MLflow is asked after its uploader was closed")
            self._questions.append((query, asked, drains))
            self._changed.notify_all()
        return asked

    @property
    def _is_local(self) -> bool:
        return self._target.uri.startswith("sqlite:")

    def _is_open(self, run: str) -> bool:
        with self._changed:
            return run in self._open

    def _work(self) -> None:
        """Write and answer until the uploader is closed, then let go of the spools."""
        with suppress(ImportError):  # whoever asks is told
            import_module("fttune.tracking.store")
        while self._next_pass():
            self._pass()
        self._deliveries.close()
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _next_pass(self) -> bool:
        """Wait until there is something to do; False when it is over."""
        with self._changed:
            while not self._closing:
                now = time.monotonic()
                if self._questions:
                    return True
                due = None
                if self._outage is not None:
                    due = self._outage.due
                elif self._hurries or self._wanted > self._delivered:
                    due = now
                elif self._since is not None:
                    due = self._since + GATHER_SECONDS
                if due is not None and due <= now:
                    return True
                self._changed.wait(None if due is None else due - now)
            return False

    def _pass(self) -> None:
        """Deliver all that there is, then answer questions; what is asked without that is answered first."""
        with self._changed:
            ticket, self._hurries, self._since = self._wanted, False, None
            questions, self._questions = self._questions, []
        for query, asked, drains in questions:
            if not drains:
                self._answer(query, asked)
        if self._spool is None and not any(drains for *_, drains in questions):
            return
        error, late = self._delivery_error()
        with self._changed:
            if error is None:
                self._delivered, self._outage = ticket, None
            else:
                self._note_outage(ticket, error, late)
            self._changed.notify_all()
        for query, asked, drains in questions:
            if drains and error is not None:
                asked.set_exception(error)
            elif drains:
                self._answer(query, asked)

    def _delivery_error(self) -> tuple[Exception | None, float]:
        """Deliver all that there is; return what came in between, and how long that may still go on (seconds)."""
        try:
            self.persist()
            self._deliveries.go_on()
        except Unreachable as unreachable:
            cause = unreachable.__cause__
            return cause if isinstance(cause, Exception) else unreachable, unreachable.late_seconds
        except Exception as error:  # noqa: BLE001 (the thread's boundary: it is told, and tried again)
            return error, 0.0
        return None, 0.0

    def _answer(self, query: Callable[["MlflowStore"], Any], asked: "Future[Any]") -> None:
        try:
            asked.set_result(query(self._deliveries.opened()))
        except Exception as error:  # noqa: BLE001 (it is raised where it was asked)
            asked.set_exception(error)

    def _note_outage(self, ticket: int, error: Exception, late: float) -> None:
        now = time.monotonic()
        if self._outage is None:
            self._outage = _Outage(now, now, FIRST_PAUSE_SECONDS, late, error)
            if self._spool is not None and not isinstance(error, StudyBusy):  # else who asks, or emits, is told
                self._tell_outage(error)
        else:
            pause = min(max(2 * self._outage.pause, FIRST_PAUSE_SECONDS), LAST_PAUSE_SECONDS)
            self._outage = _Outage(self._outage.since, now, pause, late, error)
        self._failed = ticket

    def _tell_outage(self, error: BaseException) -> None:
        self._notices.append(
            f"MLflow at {self._target.label} does not take what is logged ({why(error)}); the work goes on, and "
            f"that waits in {self._target.spools}"
        )

    def _error(self, error: BaseException) -> FttuneError:
        if isinstance(error, FttuneError):
            return error
        if self._is_local and is_of_disk(error):
            return cannot_write(self._target.artifacts.parent, error)
        failed = TrackingFailed(
            f"MLflow at {self._target.label} does not answer ({why(error)}); run the same command again when it does"
        )
        failed.__cause__ = error
        return failed
