"""The decode store: every split is decoded once, into an array that is memory-mapped ever after.

It has a row per image, readable ones first, and the reasons of the others as its notes, so that a warm store complains
like a cold one. Knows no labels.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import features

from fttune.data.arrays import ArrayCache
from fttune.data.image_data import Geometry, Pixels
from fttune.data.images import Unreadable, decode, decoder_threads, in_order
from fttune.data.listing import ImageSource
from fttune.data.rows import Rows, Spec

_FORMAT = "fttune-decoded-3"
# Pillow and the libraries that it decodes with: a lossy file has other pixels under another one.
_DECODERS = ("pil", "jpg", "libjpeg_turbo", "webp", "jpg_2000", "libtiff")
_CHUNK_BYTES = 2**24


@dataclass(frozen=True)
class Decoded:
    """`images` (n, side, side, 3) uint8 of the readable sources in order; `unreadable` index -> reason of the rest."""

    images: Pixels
    unreadable: Mapping[int, str]


def decoded(
    sources: Sequence[ImageSource], hashes: Sequence[str], *, geometry: Geometry, side: int, arrays: ArrayCache
) -> Decoded:
    """Return the pixels of `sources`, whose content hashes are `hashes`, decoding them only if `arrays` lacks them."""
    key, shape = f"decoded/{store_key(hashes, geometry, side)}", (len(sources), side, side, 3)

    def fill(rows: Rows) -> None:
        unreadable: dict[int, str] = {}
        with decoder_threads() as pool:
            for index, pixels in enumerate(in_order(pool, partial(decode, geometry=geometry, side=side), sources)):
                if isinstance(pixels, Unreadable):
                    unreadable[index] = pixels.reason
                else:
                    rows.append(key, pixels[None])
        for _ in unreadable:
            rows.append(key, np.zeros((1, *shape[1:]), np.uint8))
        rows.note(key, unreadable)

    stored = arrays.obtain({key: Spec(shape, np.uint8)}, fill)[key]
    unreadable = {int(index): str(reason) for index, reason in stored.notes.items()}
    return Decoded(stored.array[: len(sources) - len(unreadable)], unreadable)


def derived(images: Pixels, change: Callable[[Pixels], Pixels], *, key: str, arrays: ArrayCache) -> Pixels:
    """Return `change(images)` from `arrays`; made a few rows at a time when it is not there.

    `change` treats every image (H, W, 3) by itself and keeps its shape. The key must stand for all that decides the
    pixels.
    """
    step = max(1, _CHUNK_BYTES // int(np.prod(images.shape[1:])))

    def fill(rows: Rows) -> None:
        for start in range(0, len(images), step):
            rows.append(key, change(images[start : start + step]))

    return arrays.obtain({key: Spec(images.shape, np.uint8)}, fill)[key].array


def merged(first: Pixels, second: Pixels, order: Sequence[int], *, key: str, arrays: ArrayCache) -> Pixels:
    """Return the rows of two decoded arrays in an order, from `arrays`; copied a few at a time when it is not there.

    `order` (n,) counts the rows of `first` from 0, and then those of `second`. The key is what `decoded` would give the
    result, so that what is decoded once serves either way.
    """
    step = max(1, _CHUNK_BYTES // int(np.prod(first.shape[1:])))

    def fill(rows: Rows) -> None:
        for start in range(0, len(order), step):
            picked = [first[i] if i < len(first) else second[i - len(first)] for i in order[start : start + step]]
            rows.append(key, np.stack(picked))
        rows.note(key, {})  # all of them are readable

    return arrays.obtain({key: Spec((len(order), *first.shape[1:]), np.uint8)}, fill)[key].array


def store_key(hashes: Sequence[str], geometry: Geometry, side: int) -> str:
    """Return the sha256 of all that decides the pixels, the decoding libraries too, in hex."""
    libraries = [features.version(name) for name in _DECODERS]
    parts = [_FORMAT, libraries, geometry.resize, geometry.interpolation, side, list(hashes)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
