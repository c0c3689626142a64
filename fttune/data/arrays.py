"""Arrays on disk that can be made again: .npy files in a folder with a budget, memory-mapped ever after.

An array is two files: `<key>.npy`, and `<key>.json`, which is written last and without which it does not count: shape,
type, checksum, and notes of whoever made it. A key stands for the content, so an array is whole or not there, and
never changes. A key may begin with a folder: `decoded/0123abcd`. Knows nothing of images.
"""

import json
import os
import shutil
import time
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.lib import format as npy

from fttune.data.rows import Rows, RowsInMemory, Spec, Stored, rows_on_disk
from fttune.files import private_folder, write_text
from fttune.mirror import Mirror

_FORMAT = "fttune-array-1"
_BLOCK_BYTES = 2**24
SUFFIXES = (".npy", ".json")  # in the order in which they come and go


class NoRoom(Exception):
    """What is to be written fits neither the budget nor the disk, or that fails; `str()` is the cause.

    Nothing of it is left there.
    """


class ArrayCache:
    """The arrays below `folder`, which holds nothing else; `notices` are to be shown to the user, each once.

    `budget_bytes` bounds them all together, whoever wrote them. Those that were used longest ago are deleted to make
    room, which whoever has them open does not notice. None allows half of what is free or already theirs. What is
    missing here is taken from `elsewhere`, and what is made here is put there for other machines.
    """

    def __init__(self, folder: Path, budget_bytes: int | None = None, *, elsewhere: Mirror | None = None) -> None:
        self.folder, self.budget_bytes, self._elsewhere = folder, budget_bytes, elsewhere
        self.notices: list[str] = []
        self._has_lacked_room = False

    def get(self, key: str, spec: Spec) -> Stored | None:
        """Return an array, None when it is not there, damaged, or of another shape or type.

        The checksum is verified when a process first sees the file.
        """
        file = self._file(key)
        try:
            about = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
            status = file.stat()
            content = _checksum(_File(file, status.st_ino, status.st_mtime_ns, status.st_size))
            array = npy.open_memmap(file, mode="r")
        except (OSError, ValueError):
            return None
        notes = about.get("notes") if isinstance(about, dict) else None
        if about != _about(spec, content, notes):
            return None
        with suppress(OSError):  # a cache that cannot be written can be used all the same
            os.utime(file, ns=(time.time_ns(), status.st_mtime_ns))
        return Stored(array, notes)

    def obtain(self, specs: Mapping[str, Spec], fill: Callable[[Rows], None]) -> Mapping[str, Stored]:
        """Return arrays, of which `fill` makes the missing ones: on disk, or in memory with a notice.

        `fill` is called again for memory when a disk turns out to be full on the way.
        """
        found = {key: stored for key, spec in specs.items() if (stored := self.get(key, spec))}
        if len(found) == len(specs):
            return found
        try:
            with self.writing(specs) as rows:
                if rows.missing:
                    fill(rows)
            return rows.stored
        except NoRoom as cause:
            self._tell_of_room(cause)
        return in_memory(specs, fill, found=found)

    @property
    def room(self) -> int:
        """The bytes that may be written, if all that is there were deleted for them."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError:  # full, or read-only
            return 0
        return self._limit(sum(status.st_size for status in self._files().values()))

    @contextmanager
    def writing(self, specs: Mapping[str, Spec]) -> Iterator[Rows]:
        """Hand out the rows of arrays, to be filled in the block; all of them count at its end, or none.

        Another process that makes one of them is waited for, so only those in `missing` are still to be made.

        Raises:
            NoRoom: they fit neither the budget nor the disk, or that fails.
            ValueError: rows are missing, or too many, or of another shape or type.
            CannotWrite: what is elsewhere cannot be reached.
        """
        with _failing_disk_is_no_room(), ExitStack() as locks:
            for key in sorted(specs):  # in one order everywhere, so that no two processes wait for each other
                locks.enter_context(self._lock(key))
            stored = {key: found for key, spec in specs.items() if (found := self.get(key, spec))}
            missing = {key: spec for key, spec in specs.items() if key not in stored}
            if missing:
                self._drop_damaged(missing)
                self._make_room(sum(spec.nbytes for spec in missing.values()), keep=specs)
                stored |= self._taken_from_elsewhere(missing)
                missing = {key: spec for key, spec in missing.items() if key not in stored}
            with ExitStack() as undo:
                for key in missing:
                    undo.callback(self._discard, key)
                with ExitStack() as files:
                    sinks = {key: files.enter_context(rows_on_disk(self._file(key), missing[key])) for key in missing}
                    rows = Rows(missing, sinks, stored)
                    yield rows
                    rows.finish()
                for key, spec in missing.items():
                    self._let_count(key, _about(spec, sinks[key].content, rows.stored[key].notes))
                undo.pop_all()
            self._put_elsewhere(missing)

    def _taken_from_elsewhere(self, specs: Mapping[str, Spec]) -> dict[str, Stored]:
        """Get arrays that other machines have made; one that was damaged on its way is made here."""
        taken: dict[str, Stored] = {}
        if (there := self._elsewhere) is None:
            return taken
        for key, spec in specs.items():
            got = all(there.pull(key + suffix, self._file(key).with_suffix(suffix)) for suffix in SUFFIXES)
            if got and (stored := self.get(key, spec)):
                taken[key] = stored
            else:
                self._discard(key)
        return taken

    def _put_elsewhere(self, keys: Collection[str]) -> None:
        if self._elsewhere is not None:
            with suppress(FileNotFoundError):  # another process has made room
                for key, suffix in product(keys, SUFFIXES):
                    self._elsewhere.push(self._file(key).with_suffix(suffix), key + suffix)

    def _drop_damaged(self, keys: Collection[str]) -> None:
        """Delete what cannot be used, and say so; its writer holds the locks, so that nobody is still at it."""
        for key in keys:
            if self._file(key).exists():
                self.notices.append(f"{self._file(key)} was damaged and is made anew")
            self._discard(key)

    def _let_count(self, key: str, about: Mapping[str, Any]) -> None:
        text = json.dumps(about)
        write_text(self._file(key).with_suffix(".json"), text)

    def _make_room(self, wanted: int, *, keep: Collection[str]) -> None:
        """Delete arrays, those used longest ago first, until `wanted` bytes fit. Raises NoRoom."""
        self._remove_leftovers(keep)
        files = self._files()
        held = sum(status.st_size for status in files.values())
        limit = self._limit(held)
        if wanted > limit:
            raise NoRoom(f"{wanted / 1e9:.3g} GB are needed, {limit / 1e9:.3g} GB allowed")
        for file in sorted(files, key=lambda file: files[file].st_atime_ns):
            if held + wanted <= limit:
                return
            key = file.relative_to(self.folder).with_suffix("").as_posix()
            if key not in keep and not file.name.startswith("."):
                self._discard(key)
                held -= files[file].st_size
        if held + wanted > limit:
            raise NoRoom(f"{wanted / 1e9:.3g} GB are needed, and others are being written")

    def _files(self) -> dict[Path, os.stat_result]:
        return {file: status for file in self.folder.rglob("*.npy") if (status := _status(file))}

    def _limit(self, held: int) -> int:
        """Return how many bytes all arrays may have, of which `held` are there."""
        room = held + shutil.disk_usage(self.folder).free
        return room // 2 if self.budget_bytes is None else min(room, self.budget_bytes)

    def _remove_leftovers(self, locked: Collection[str]) -> None:
        """Delete the temporary files of processes that were killed: those whose key nobody else has locked."""
        for file in self.folder.rglob(".*.tmp.*"):
            stem = file.name[1:].rsplit(".", 3)[0]
            key = file.relative_to(self.folder).with_name(stem).as_posix()
            with suppress(Timeout), ExitStack() as lock:
                if key not in locked:
                    lock.enter_context(self._lock(key, timeout_seconds=0))
                file.unlink(missing_ok=True)

    def _tell_of_room(self, cause: NoRoom) -> None:
        if not self._has_lacked_room:
            self._has_lacked_room = True
            self.notices.append(
                f"{self.folder} has no room ({cause}): what does not fit is kept in memory, and made again next time; "
                "free some of the disk, or raise --cache-gb"
            )

    def _lock(self, key: str, *, timeout_seconds: float = -1) -> FileLock:
        file = self._file(key).with_suffix(".lock")
        private_folder(file.parent)
        return FileLock(file, timeout=timeout_seconds)

    def _discard(self, key: str) -> None:
        """Delete an array; the .npy goes first, since only a .npy that cannot be used is damage."""
        for suffix in SUFFIXES:
            self._file(key).with_suffix(suffix).unlink(missing_ok=True)

    def _file(self, key: str) -> Path:
        return self.folder / f"{key}.npy"


def in_memory(
    specs: Mapping[str, Spec], fill: Callable[[Rows], None], *, found: Mapping[str, Stored] = MappingProxyType({})
) -> Mapping[str, Stored]:
    """Return arrays that `fill` makes in memory, but for those that are `found` already."""
    missing = {key: spec for key, spec in specs.items() if key not in found}
    rows = Rows(missing, {key: RowsInMemory(spec) for key, spec in missing.items()}, found)
    fill(rows)
    rows.finish()
    return rows.stored


@contextmanager
def _failing_disk_is_no_room() -> Iterator[None]:
    """What can be made again can be made in memory, whatever the disk says; a file that cannot be read is told then."""
    try:
        yield
    except OSError as error:
        raise NoRoom(error.strerror or str(error)) from error


@dataclass(frozen=True)
class _File:
    """A file as it was at a moment; one that has changed since is another."""

    path: Path
    inode: int
    modified_ns: int
    size: int


@cache
def _checksum(file: _File) -> int:
    """Return the CRC-32 of a file: a guard against damage, not malice, at several GB/s."""
    checksum = 0
    with file.path.open("rb") as content:
        while block := content.read(_BLOCK_BYTES):
            checksum = zlib.crc32(block, checksum)
    return checksum


def _about(spec: Spec, content: int, notes: Any) -> Mapping[str, Any]:
    """Return what stands in the .json; its checksum is that of the file, continued over the notes."""
    return {
        "format": _FORMAT,
        "shape": list(spec.shape),
        "dtype": npy.dtype_to_descr(np.dtype(spec.dtype)),
        "crc32": zlib.crc32(json.dumps(notes).encode(), content),
        "notes": notes,
    }


def _status(file: Path) -> os.stat_result | None:
    try:
        return file.stat()
    except FileNotFoundError:  # another process has made room
        return None
