"""The rows of arrays on their way to disk or memory, several arrays in one pass. Knows neither budgets nor locks."""

import json
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

from fttune.files import replacing

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Spec:
    """Shape, rows first, and type of an array; the type is what `numpy.dtype` takes, and no object."""

    shape: tuple[int, ...]
    dtype: npt.DTypeLike

    @property
    def nbytes(self) -> int:
        """The size of the rows, in bytes."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Stored:
    """An array that cannot be written to, memory-mapped unless there was no room, and the notes of who made it."""

    array: Array
    notes: Any


class _Sink(Protocol):
    """Where the rows of one array go."""

    def write(self, piece: Array) -> None: ...

    def finish(self) -> Array: ...


class Rows:
    """The rows of several arrays on their way: pieces of any length, of each array in its own order.

    `missing` are the keys that are to be filled; `stored` holds the others, and in the end all.
    """

    def __init__(self, specs: Mapping[str, Spec], sinks: Mapping[str, _Sink], stored: Mapping[str, Stored]) -> None:
        self.missing = frozenset(specs)
        self.stored = dict(stored)
        self._specs, self._sinks = specs, sinks
        self._counts = dict.fromkeys(specs, 0)
        self._notes: dict[str, Any] = {}

    def append(self, key: str, piece: Array) -> None:
        """Add rows (n, ...) to an array; an array that is there already takes none.

        Raises:
            ValueError: they are of another shape or type than it was said, or too many.
            NoRoom: the disk is full.
        """
        if key in self.stored:
            return
        spec, count = self._specs[key], self._counts[key] + len(piece)
        if piece.dtype != spec.dtype or piece.shape[1:] != spec.shape[1:] or count > spec.shape[0]:
            raise ValueError(
                f"{key}: rows {piece.shape} of {piece.dtype} after {self._counts[key]} others, "
                f"but the array is {spec.shape} of {np.dtype(spec.dtype)}"
            )
        self._sinks[key].write(np.ascontiguousarray(piece))
        self._counts[key] = count

    def note(self, key: str, notes: Any) -> None:
        """Keep plain data, as JSON has it, with an array."""
        self._notes[key] = notes

    def finish(self) -> None:
        """Close the arrays, which are `stored` then. Raises ValueError when rows are missing."""
        for key, spec in self._specs.items():
            if self._counts[key] != spec.shape[0]:
                raise ValueError(f"{key}: {self._counts[key]} rows were written, but the array has {spec.shape[0]}")
        for key, sink in self._sinks.items():
            self.stored[key] = Stored(sink.finish(), json.loads(json.dumps(self._notes.get(key))))


class RowsInMemory:
    """Rows that have found no room on disk."""

    def __init__(self, spec: Spec) -> None:
        self._array, self._end = np.empty(spec.shape, spec.dtype), 0

    def write(self, piece: Array) -> None:
        self._array[self._end : self._end + len(piece)] = piece
        self._end += len(piece)

    def finish(self) -> Array:
        self._array.flags.writeable = False
        return self._array


class _RowsOnDisk:
    """Rows that are written to a file; `content` is the checksum of all that is in it so far."""

    def __init__(self, file: Path, spec: Spec) -> None:
        self._path, self.content = file, 0
        self._file = file.open("wb")
        header = BytesIO()
        descr = npy.dtype_to_descr(np.dtype(spec.dtype))
        npy.write_array_header_1_0(header, {"descr": descr, "fortran_order": False, "shape": spec.shape})
        self.write(np.frombuffer(header.getvalue(), np.uint8))

    def write(self, piece: Array) -> None:
        self._file.write(piece.data)
        self.content = zlib.crc32(piece.data, self.content)

    def finish(self) -> Array:
        self._file.close()
        # Opened before anybody else can see it, and delete it to make room.
        return npy.open_memmap(self._path, mode="r")

    def abandon(self) -> None:
        with suppress(OSError):  # what is still buffered meets the same full disk again
            self._file.close()


@contextmanager
def rows_on_disk(file: Path, spec: Spec) -> Iterator[_RowsOnDisk]:
    with replacing(file) as temporary:
        rows = _RowsOnDisk(temporary, spec)
        try:
            yield rows
        finally:
            rows.abandon()
