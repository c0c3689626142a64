"""The decode store: every split is decoded once, into a .npy that is memory-mapped ever after.

A store is two files: `<key>.npy` with a row per image, readable ones first, and `<key>.json` with the images that
could not be decoded, so that a warm store complains like a cold one. What is derived from a whole store is one .npy.
Knows no labels.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from fttune.data.image_data import Geometry, Pixels
from fttune.data.images import Unreadable, decode, decoder_threads, in_order
from fttune.data.listing import ImageSource
from fttune.files import write_atomically

_FORMAT = "fttune-decoded-1"
_CHUNK_BYTES = 2**24


@dataclass(frozen=True)
class Decoded:
    """`images` (n, side, side, 3) uint8 of the readable sources in order; `unreadable` index -> reason of the rest."""

    images: Pixels
    unreadable: Mapping[int, str]
    repaired: Path | None = None


def decoded(
    sources: Sequence[ImageSource], hashes: Sequence[str], *, geometry: Geometry, side: int, folder: Path
) -> Decoded:
    """Return the pixels of `sources`, whose content hashes are `hashes`, decoding them only if no store has them.

    `repaired` is a store that was there but damaged, and has been written anew.
    """
    file = folder / f"{store_key(hashes, geometry, side)}.npy"
    shape = (len(sources), side, side, 3)
    found = _open(file, shape)
    if found is not None:
        return found
    damaged = file if file.exists() else None
    _write(file, sources, geometry, shape)
    written = _open(file, shape)
    if written is None:
        raise OSError(f"{file} changed while it was being written")
    return Decoded(written.images, written.unreadable, damaged)


def derived(images: Pixels, change: Callable[[Pixels], Pixels], *, file: Path) -> Pixels:
    """Return `change(images)`, memory-mapped from `file`; made a few rows at a time when the file is not there.

    `change` treats every image (H, W, 3) by itself and keeps its shape. The name of `file` must stand for all that
    decides the pixels; a damaged one is made anew.
    """
    found = _open_rows(file, images.shape)
    if found is not None:
        return found
    step = max(1, _CHUNK_BYTES // int(np.prod(images.shape[1:])))

    def fill(temporary: Path) -> None:
        with temporary.open("wb") as rows:
            npy.write_array_header_1_0(rows, {"descr": "|u1", "fortran_order": False, "shape": images.shape})
            for start in range(0, len(images), step):
                rows.write(change(images[start : start + step]).tobytes())

    write_atomically(file, fill)
    written = _open_rows(file, images.shape)
    if written is None:
        raise OSError(f"{file} changed while it was being written")
    return written


def store_key(hashes: Sequence[str], geometry: Geometry, side: int) -> str:
    """Return the sha256 of all that decides the pixels, in hex."""
    parts = [_FORMAT, geometry.resize, geometry.interpolation, side, list(hashes)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _open(file: Path, shape: tuple[int, ...]) -> Decoded | None:
    try:
        listed = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
        unreadable = {int(index): str(reason) for index, reason in listed.items()}
    except (OSError, ValueError, AttributeError):
        return None
    images = _open_rows(file, shape)
    if images is None or len(unreadable) > shape[0]:
        return None
    return Decoded(images[: shape[0] - len(unreadable)], unreadable)


def _open_rows(file: Path, shape: tuple[int, ...]) -> Pixels | None:
    try:
        images = npy.open_memmap(file, mode="r")
    except (OSError, ValueError):
        return None
    return images if images.shape == shape and images.dtype == np.uint8 else None


def _write(file: Path, sources: Sequence[ImageSource], geometry: Geometry, shape: tuple[int, ...]) -> None:
    """Decode into a temporary file and give it its name; the JSON comes first, since the .npy makes the store."""

    def fill(temporary: Path) -> None:
        unreadable: dict[int, str] = {}
        one = partial(decode, geometry=geometry, side=shape[1])
        with temporary.open("wb") as rows, decoder_threads() as pool:
            npy.write_array_header_1_0(rows, {"descr": "|u1", "fortran_order": False, "shape": shape})
            end = rows.tell() + int(np.prod(shape))
            for index, pixels in enumerate(in_order(pool, one, sources)):
                if isinstance(pixels, Unreadable):
                    unreadable[index] = pixels.reason
                else:
                    rows.write(pixels.tobytes())
            rows.truncate(end)
        write_atomically(file.with_suffix(".json"), lambda notes: notes.write_text(json.dumps(unreadable)))

    write_atomically(file, fill)
