"""Spools, drained into MLflow in order: those that sessions left behind, then this session's own.

A request whose answer was lost may have been carried out. So what is tried again, and all that another process may have
begun, is looked for first: each point is stored once.
"""

import shutil
import sqlite3
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from fttune.errors import FttuneError
from fttune.tracking.redaction import redacted_text
from fttune.tracking.spool import Group, Spool, Target, entries_of, refuse, spool_files
from fttune.training.events import CheckpointExpired, Entry, Event, RunClosed, RunOpened

if TYPE_CHECKING:
    from fttune.tracking.store import MlflowStore

MAX_REASON = 300  # characters
LOCK_SECONDS = 10.0  # what an earlier command left is mostly a matter of seconds


class Unreachable(Exception):
    """MLflow did not take something that it may take at another time, `late_seconds` from now at the earliest.

    `__cause__` says why.
    """

    def __init__(self, late_seconds: float = 0.0) -> None:
        self.late_seconds = late_seconds
        super().__init__(late_seconds)


def why(error: BaseException) -> str:
    """Return why something did not go, on one line and without secrets: the cause where that is the system's or the
    database's, for clients wrap it in a page of text."""
    root = error
    while (deeper := root.__cause__ or root.__context__) is not None:
        root = deeper
    said = root if isinstance(root, OSError | sqlite3.Error) else error
    text = " ".join(str(said).split()) or type(said).__name__
    return redacted_text(text[:MAX_REASON])


@dataclass
class _Part:
    """Events of a group that are written together; `again` says that an attempt may have stored some of them."""

    events: Sequence[Event]
    again: bool


def no_fence() -> None:
    """Let everything pass."""


@dataclass
class Delivery:
    """One spool on its way to MLflow, and the files that its runs left.

    `foreign` says that its session is dead, and nobody knows what it began to deliver; `keeps` of which runs the files
    stay: those that are under way. `fence` is called before each group of events, and what it raises ends the delivery.
    """

    spool: Spool
    target: Target
    keeps: Callable[[str], bool]
    say: Callable[[str], None]
    foreign: bool = False
    fence: Callable[[], None] = no_fence
    events: int = 0
    refused: int = 0
    _groups: deque[Group] = field(default_factory=deque)
    _parts: deque[_Part] = field(default_factory=deque)
    _read: int = 0
    _opened: dict[str, RunOpened] = field(default_factory=dict)
    _ended: set[str] = field(default_factory=set)
    _incomplete: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        if self.foreign:
            self.spool.close_open_runs()
            self._opened = {e.run: e.event for e in self.spool.before() if isinstance(e.event, RunOpened)}

    def go_on(self, store: "MlflowStore") -> None:
        """Deliver what is left. Raises Unreachable, after which the same call goes on."""
        while self._groups or self._read_on():
            while self._groups:
                self._require_own()
                self._deliver(store, self._groups[0])
                self.events += len(self._groups[0].events)
                self._note(self._groups.popleft())
                self.spool.record(self.spool.done + 1, self._read)
            self._drop_files()

    def _require_own(self) -> None:
        try:
            self.fence()
        except FttuneError as error:
            raise Unreachable from error

    def _read_on(self) -> bool:
        """Take the next groups of the spool, without those that its session delivered."""
        groups = self.spool.read()
        self._read = len(groups)
        for group in groups[: self.spool.done]:
            self._note(group)
        self._groups.extend(groups[self.spool.done :])
        return bool(groups)

    def _deliver(self, store: "MlflowStore", group: Group) -> None:
        """Write a group; of one that is refused, what is to blame is kept elsewhere, and the rest is written."""
        from fttune.tracking.replies import is_refusal, late_seconds

        if not self._parts:
            for line in group.damaged:
                self._refuse(line, "damaged, or written by another version of fttune")
            self._parts.append(_Part(group.events, self.foreign))
        while self._parts:
            part = self._parts[0]
            again, part.again = part.again, True
            try:
                self._attach(store, group.run, part.events)
                store.write(group.run, *part.events, again=again)
            except Exception as error:
                if not is_refusal(error):
                    raise Unreachable(late_seconds(error)) from error
                if len(part.events) > 1:
                    self._parts[0] = _Part(part.events[:1], True)
                    self._parts.insert(1, _Part(part.events[1:], True))
                    continue
                self._incomplete.add(group.run)
                self._refuse(Entry(group.run, part.events[0]), str(error))
            self._parts.popleft()

    def _attach(self, store: "MlflowStore", run: str, events: Iterable[Event]) -> None:
        """Let the store know a run, and its parent, that another process opened. Raises Refused when it is gone."""
        from fttune.tracking.artifacts import Refused

        opening = next((event for event in events if isinstance(event, RunOpened)), None)
        opened = opening or self._opened.get(run)
        if opened is None:
            return
        if opened.parent in self._opened:
            store.attach(opened.parent, self._opened[opened.parent])
        if opening is None and not store.attach(run, opened):
            raise Refused("the run is not in MLflow")

    def _refuse(self, line: Entry | bytes, reason: str) -> None:
        self.refused += 1
        file = refuse(self.target, self.spool, line, reason)
        what = f"a part of run {line.run}" if isinstance(line, Entry) else "a line of a spool"
        self.say(f"MLflow did not take {what}, which is kept in {file}: {reason}")

    def _note(self, group: Group) -> None:
        for event in group.events:
            if isinstance(event, RunOpened):
                self._opened[group.run] = event
            if isinstance(event, CheckpointExpired) or (isinstance(event, RunClosed) and event.state != "interrupted"):
                self._ended.add(group.run)
            elif isinstance(event, RunOpened | RunClosed):
                self._ended.discard(group.run)

    def _drop_files(self) -> None:
        """Drop the files of runs that ended; those of which MLflow refused something stay."""
        for run in self._ended - self._incomplete:
            if not self.keeps(run):
                shutil.rmtree(self.target.folder(run), ignore_errors=True)
        self._ended.clear()


class Deliveries:
    """All that is to be delivered to one MLflow: what dead sessions left, then `own`, this session's spool."""

    def __init__(self, target: Target, say: Callable[[str], None]) -> None:
        self.own: Delivery | None = None
        self._done: list[Delivery] = []
        self._target, self._say = target, say
        self._store: MlflowStore | None = None
        self._left: deque[tuple[Delivery, MlflowStore]] = deque()
        self._lock = FileLock(target.locks / f"spool-{zlib.crc32(target.label.encode()):08x}.lock")

    def opened(self) -> "MlflowStore":
        """Return the store, opened at the first use: bad input that is found before then leaves nothing behind."""
        if self._store is None:
            from fttune.tracking.store import MlflowStore

            target = self._target
            self._store = MlflowStore(target.uri, artifacts=target.artifacts, locks=target.locks)
        return self._store

    def go_on(self) -> None:
        """Deliver all that there is. Raises Unreachable, after which the same call goes on."""
        try:
            store = self.opened()
            self._take_over(store)
        except Exception as error:
            raise Unreachable from error
        while self._left:
            delivery, apart = self._left[0]
            delivery.go_on(apart)
            delivery.spool.remove()
            self._done.append(delivery)
            self._left.popleft()
        self._lock.release()
        if self.own is not None:
            self.own.go_on(store)

    @property
    def events(self) -> int:
        """How many events of dead sessions were dealt with."""
        return sum(delivery.events for delivery in self._foreigners())

    def counted(self, spool: str) -> tuple[int, int]:
        """Return how many events of a spool were delivered, and how many refused."""
        own = [one for one in self._foreigners() if one.spool.file.stem == spool]
        return sum(one.events - one.refused for one in own), sum(one.refused for one in own)

    def close(self) -> None:
        """Let go of all spools; this session's own is removed when nothing is left of it."""
        for delivery, _ in self._left:
            delivery.spool.release()
        if self._store is not None:
            self._store.close()
        if self.own is not None and self.own.spool.is_delivered:
            self.own.spool.remove()
        elif self.own is not None:
            self.own.spool.release()
        self._lock.release(force=True)

    def _foreigners(self) -> list[Delivery]:
        return self._done + [delivery for delivery, _ in self._left]

    def _take_over(self, store: "MlflowStore") -> None:
        """Take the spools whose sessions are dead, oldest first, one command at a time.

        While another command does, nothing is written here: its events come before this session's.
        """
        own = None if self.own is None else self.own.spool.file
        held = {delivery.spool.file for delivery, _ in self._left}
        others = [file for file in spool_files(self._target.spools) if file != own and file not in held]
        if not others:
            return
        if not self._lock.is_locked:
            try:
                self._lock.acquire(timeout=LOCK_SECONDS)
            except Timeout as error:
                raise TimeoutError("another command delivers what an earlier one left, which comes first") from error
        for file in others:
            spool = Spool.take(file)
            if spool is None:
                continue
            if spool.uri != self._target.label:
                spool.release()
                continue
            self._left.append((self._foreign(spool), store.apart()))

    def _foreign(self, spool: Spool) -> Delivery:
        def is_used(run: str) -> bool:
            files = (file for file in spool_files(self._target.spools) if file != spool.file)
            return any(entry.run == run for file in files for entry in entries_of(file))

        try:
            return Delivery(spool, self._target, keeps=is_used, say=self._say, foreign=True)
        except BaseException:
            spool.release()
            raise
