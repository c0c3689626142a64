"""Which images look nearly the same, found without comparing all of them. Knows no files."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

NEAR_BITS = 3
NEAR_LEVELS = 6.0
FLAT = 8  # grey levels between the darkest and the brightest of the small pixels: below it they say nothing
SMALL = 16  # pixels of the shorter side, likewise
_BANDS = NEAR_BITS + 1  # of 16 bits each
_BITS = 64 // _BANDS
_ONES = np.array([value.bit_count() for value in range(256)], np.uint8)


@dataclass(frozen=True)
class Likeness:
    """An image at 9 x 8 in grey: `bits` is its difference hash (64 bits), `grey` the pixels, row by row."""

    bits: int
    grey: bytes


def likeness(image: Image.Image) -> Likeness | None:
    """Return what an image looks like from afar, None for one that is flat or tiny.

    Bits say whether each pixel of the small image is darker than its right neighbour. Images that differ in size or
    compression alone get the same ones, or nearly (N. Krawetz, "Kind of like that", 2013, where it is called dHash).
    """
    if min(image.size) < SMALL:
        return None
    small = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BILINEAR))  # (8, 9)
    if int(small.max()) - int(small.min()) < FLAT:
        return None
    return Likeness(int.from_bytes(np.packbits(small[:, :-1] < small[:, 1:]).tobytes(), "big"), small.tobytes())


def near_groups(looks: Sequence[Likeness]) -> list[tuple[int, ...]]:
    """Return which images belong together, by their places, each group and all of them in order.

    Two do that whose hashes differ in at most `NEAR_BITS` bits, and whose small pixels, their mean taken off, differ by
    at most `NEAR_LEVELS` grey levels of 256 on average; and so do those that a chain of such pairs joins.
    """
    roots = list(range(len(looks)))

    def root(place: int) -> int:
        while roots[place] != place:
            roots[place] = place = roots[roots[place]]
        return place

    hashes = np.array([look.bits for look in looks], np.uint64)
    grey = np.frombuffer(b"".join(look.grey for look in looks), np.uint8).reshape(-1, 72)  # (n, 72)
    for first, second in _pairs(hashes, grey):
        roots[root(second)] = root(first)
    groups: dict[int, list[int]] = {}
    for place in range(len(looks)):
        groups.setdefault(root(place), []).append(place)
    return sorted(tuple(group) for group in groups.values() if len(group) > 1)


def _pairs(hashes: npt.NDArray[np.uint64], grey: npt.NDArray[np.uint8]) -> Iterator[tuple[int, int]]:
    """Yield the places of all pairs that are near; a pair may come more than once.

    Bits that differ fall into at most `NEAR_BITS` of the bands, so that such a pair has one band in common: only what
    shares a band is compared.
    """
    for band in range(_BANDS):
        keys = (hashes >> np.uint64(band * _BITS)) & np.uint64(2**_BITS - 1)
        order = np.argsort(keys, kind="stable")
        borders = np.flatnonzero(np.diff(keys[order])) + 1
        for places in np.split(order, borders):
            for index, place in enumerate(places[:-1]):
                others = places[index + 1 :]
                others = others[_differing(hashes[others] ^ hashes[place]) <= NEAR_BITS]
                if len(others):
                    others = others[_levels(grey[others], grey[place]) <= NEAR_LEVELS]
                yield from ((int(place), int(other)) for other in others)


def _differing(bits: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Return how many bits of each number (n,) are set."""
    ones: npt.NDArray[np.int64] = _ONES[bits.view(np.uint8)].reshape(-1, 8).sum(1, dtype=np.int64)
    return ones


def _levels(some: npt.NDArray[np.uint8], one: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Return how far the pixels of each of some images (n, 72) are from those of one (72,), on average."""
    apart = some.astype(np.float64) - one
    levels: npt.NDArray[np.float64] = np.abs(apart - apart.mean(1, keepdims=True)).mean(1)
    return levels
