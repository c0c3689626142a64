"""Events on disk until MLflow has them: one append-only file for each session, under `mlruns/spool/`.

Its owner holds a lock on the file, which the system drops when the process ends, however that happens. What is left
then is a spool that the next command takes over. Knows nothing of MLflow.
"""

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fttune.files import cannot_write, flush, private_folder
from fttune.tracking.records import as_line, as_record, of_line, of_record
from fttune.tracking.redaction import redacted_text
from fttune.training.events import Entry, Event, RunClosed, RunOpened

REFUSED = "refused.jsonl"
SCHEMA = 1
CHUNK_BYTES = 1 << 20  # read, and so delivered, at once
CAUSE = "its process ended without closing it"


@dataclass(frozen=True)
class Target:
    """Where events go: MLflow's URI, and artifacts of a local store; and where they, and files of runs, wait for that.

    `runs` holds a folder for each run.
    """

    uri: str
    artifacts: Path
    locks: Path
    spools: Path
    runs: Path

    @property
    def label(self) -> str:
        """The URI as it may be shown and written down: without a password."""
        return redacted_text(self.uri)

    def folder(self, run: str) -> Path:
        """Return the folder in which a run's files wait: its own, whatever runs it is the parent of."""
        return self.runs / run.replace("/", "+")


@dataclass
class Group:
    """Events of one run, from one of its openings to its end at most, which are written together.

    `damaged` are lines of no run that can be named: cut off, or of another version.
    """

    run: str
    events: list[Event] = field(default_factory=list)
    damaged: list[bytes] = field(default_factory=list)


class Spool:
    """One file of events, held by its lock, read in order.

    `delivered` bytes of it need not be read again, nor what the first `done` groups behind it say, up to byte `end`.
    """

    def __init__(self, file: Path, descriptor: int) -> None:
        self.file, self._descriptor = file, descriptor
        self._ends_whole = False
        self._synced = 0
        head = self._head()
        self.first = len(head)
        header: dict[str, Any] = of_line(head) or {}
        self.uri, self.artifacts = header.get("uri", ""), Path(header.get("artifacts", ""))
        delivered, self.end, self.done = self._recorded()
        self.delivered = max(self.first, delivered)

    @classmethod
    def create(cls, target: Target) -> "Spool":
        """Begin a spool. Raises CannotWrite when the disk is full or fails."""
        private_folder(target.spools)
        name = f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}-{secrets.token_hex(3)}.jsonl"
        file = target.spools / name
        header = {"schema": SCHEMA, "uri": target.label, "artifacts": target.artifacts}
        try:
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.fstat(descriptor).st_nlink == 0:  # one who looks for what died removed it before it was locked
                os.close(descriptor)
                return cls.create(target)
            os.write(descriptor, as_line(header))
        except OSError as error:
            raise cannot_write(file, error) from error
        return cls(file, descriptor)

    @classmethod
    def take(cls, file: Path) -> "Spool | None":
        """Take over the spool of a session that ended; None when its owner lives, or it is gone."""
        try:
            descriptor = os.open(file, os.O_RDWR | os.O_APPEND)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        if os.fstat(descriptor).st_nlink == 0:
            os.close(descriptor)
            return None
        found = cls(file, descriptor)
        if not found.uri:  # its owner died before the first event
            found.remove()
            return None
        return found

    @property
    def size(self) -> int:
        """Bytes, those of a line that is being written too."""
        return os.fstat(self._descriptor).st_size

    @property
    def is_delivered(self) -> bool:
        """Whether nothing is left."""
        return self.delivered >= self.size

    def append(self, entry: Entry) -> None:
        """Add an entry. Raises CannotWrite when the disk is full or fails."""
        line = as_line(as_record(entry))
        try:
            if not self._ends_whole and os.pread(self._descriptor, 1, self.size - 1) != b"\n":
                line = b"\n" + line  # the write before this one was cut off: what it left is a line of its own
            self._ends_whole = False
            while line:
                line = line[os.write(self._descriptor, line) :]
            self._ends_whole = True
        except OSError as error:
            raise cannot_write(self.file, error) from error

    def persist(self) -> None:
        """Let all that was appended reach the disk. Raises CannotWrite when it does not."""
        size = self.size
        if size == self._synced:
            return
        try:
            os.fsync(self._descriptor)
            if not self._synced:
                flush(self.file.parent)
        except OSError as error:
            raise cannot_write(self.file, error) from error
        self._synced = size

    def read(self) -> list[Group]:
        """Return the next groups, the first `done` of them delivered; none when all of the file is."""
        text = _whole_lines(self._descriptor, self.delivered, self.end if self.done else self.size)
        self.end = self.delivered + len(text)
        return _groups(text)

    def record(self, done: int, of: int) -> None:
        """Note that so many of the groups read last are delivered: who takes the spool over begins behind them."""
        self.done = done
        if done == of:
            self.delivered, self.end, self.done = self.end, 0, 0
        self._position_file.write_text(f"{self.delivered} {self.end} {self.done}\n", encoding="ascii")

    def before(self) -> Iterator[Entry]:
        """Yield the entries that are delivered, up to the groups that `read` returns."""
        yield from _entries(self._descriptor, self.first, self.delivered)

    def waiting(self) -> list[Group]:
        """Return the groups that are left, without reading on."""
        found, start = [], self.delivered
        end = self.end if self.done else self.size
        while text := _whole_lines(self._descriptor, start, end):
            end = self.size
            found += _groups(text)
            start += len(text)
        return found[self.done :]

    def close_open_runs(self) -> None:
        """Append the ends that a session which died owes its runs."""
        runs: dict[str, RunOpened] = {}
        for entry in _entries(self._descriptor, self.first, self.size):
            if isinstance(entry.event, RunOpened):
                runs[entry.run] = entry.event
            elif isinstance(entry.event, RunClosed):
                runs.pop(entry.run, None)
        last = int(self.file.stat().st_mtime * 1000)  # when the session was last heard of
        for run in reversed(runs):  # children before their parents
            self.append(Entry(run, RunClosed("interrupted", {"fttune.cause": CAUSE}, unix_ms=last)))

    def remove(self) -> None:
        """Remove the files: all is delivered. Where a disk refuses, the next start finds that, and tries again."""
        with suppress(OSError):
            self.file.unlink(missing_ok=True)
            self._position_file.unlink(missing_ok=True)
        self.release()

    def release(self) -> None:
        """Let go of the file."""
        os.close(self._descriptor)

    @property
    def _position_file(self) -> Path:
        return self.file.with_suffix(".position")

    def _recorded(self) -> tuple[int, int, int]:
        try:
            delivered, end, done = map(int, self._position_file.read_text(encoding="ascii").split())
        except (FileNotFoundError, ValueError):  # none yet, or cut off: all is looked for again
            return 0, 0, 0
        return delivered, end, done

    def _head(self) -> bytes:
        return os.pread(self._descriptor, CHUNK_BYTES, 0).partition(b"\n")[0] + b"\n"


@dataclass(frozen=True)
class Waiting:
    """What waits in a spool, and for which MLflow."""

    spool: str
    uri: str
    artifacts: Path
    runs: int
    events: int


def spool_files(folder: Path) -> list[Path]:
    """Return the spools of a folder, the oldest first."""
    return sorted(file for file in folder.glob("*.jsonl") if file.name != REFUSED)


def entries_of(file: Path) -> Iterator[Entry]:
    """Yield the entries of a spool, delivered or not, whoever holds it; none when it is gone."""
    try:
        descriptor = os.open(file, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        yield from _entries(descriptor, 0, os.fstat(descriptor).st_size)
    finally:
        os.close(descriptor)


def waiting_in(folder: Path) -> list[Waiting]:
    """Return what waits in each spool of a folder, the oldest first, without taking any."""
    found = []
    for file in spool_files(folder):
        try:
            descriptor = os.open(file, os.O_RDONLY)
        except FileNotFoundError:
            continue
        spool = Spool(file, descriptor)
        left = spool.waiting()
        runs, events = {group.run for group in left}, sum(len(group.events) for group in left)
        found.append(Waiting(file.stem, spool.uri, spool.artifacts, len(runs), events))
        spool.release()
    return found


def refuse(target: Target, spool: Spool, line: Entry | bytes, reason: str) -> Path:
    """Keep what MLflow will never take, with the reason; return the file that holds it."""
    record = as_record(line) if isinstance(line, Entry) else {"line": line.decode("ascii", "backslashreplace")}
    about = {"spool": spool.file.stem, "uri": target.label, "reason": redacted_text(reason)}
    with (target.spools / REFUSED).open("ab") as file:
        file.write(as_line({**about, **record}))
    return target.spools / REFUSED


def _entries(descriptor: int, start: int, end: int) -> Iterator[Entry]:
    while text := _whole_lines(descriptor, start, end):
        start += len(text)
        yield from (entry for line in text.splitlines(keepends=True) if (entry := _entry(line)) is not None)


def _whole_lines(descriptor: int, start: int, end: int) -> bytes:
    """Return about `CHUNK_BYTES` of whole lines that begin at `start`."""
    wanted = CHUNK_BYTES
    while start < end:
        text = os.pread(descriptor, min(wanted, end - start), start)
        if (whole := text.rfind(b"\n") + 1) or start + wanted >= end:
            return text[:whole]
        wanted *= 2
    return b""


def _groups(text: bytes) -> list[Group]:
    """Return the groups of some lines in the order of their first events: parents before children."""
    found: list[Group] = []
    last: dict[str, Group] = {}
    for line in text.splitlines(keepends=True):
        entry = _entry(line)
        run = "" if entry is None else entry.run
        if run not in last or (entry is not None and isinstance(entry.event, RunOpened)):
            found.append(Group(run))
            last[run] = found[-1]
        if entry is not None:
            last[run].events.append(entry.event)
        elif line.strip():
            last[run].damaged.append(line)
    return found


def _entry(line: bytes) -> Entry | None:
    content = of_line(line)
    return None if content is None else of_record(content)
