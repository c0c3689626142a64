"""What frozen stages make of the images, computed once and kept.

A boundary is a number of stages from the input. While none of them trains, and no running statistic in them moves, what
they make of an image stays the same over all epochs, and over all runs that begin with the same weights.
"""

import os
import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fttune.data import Part
from fttune.models import Backbone

BATCH = 64
MEMORY_SHARE = 0.25  # of the machine's


@dataclass(frozen=True)
class Prefix:
    """A model whose stages are to run once.

    `key` stands for all that decides what they compute, but for the images: weights, precision, device. `images`
    returns rows of a split as the model takes them.
    """

    key: Hashable
    backbone: Backbone
    images: Callable[[Part, Tensor], Tensor]

    def run(self, x: Tensor, stages: Iterable[int]) -> Tensor:
        """Return what the stages of these numbers, from 0, make of x. The model is in evaluation mode."""
        for number in stages:
            x = self.backbone.run_stage(self.backbone.cut.stages[number].name, x)
        return x


@dataclass(frozen=True)
class Kept:
    """Activations (N, ...) after the first `boundary` stages; `part` is the split that they belong to."""

    boundary: int
    values: Tensor
    part: Part


class Activations:
    """Keeps activations within `budget_bytes` (default: a quarter of the machine's memory).

    When it computes some, it keeps those at the boundaries named in `wanted` too, the most useful ones first: by what
    they save per byte.
    """

    def __init__(self, wanted: Iterable[int] = (), *, budget_bytes: int | None = None) -> None:
        self.wanted = frozenset(wanted)
        self._room = _quarter_of_memory() if budget_bytes is None else budget_bytes
        self._kept: dict[tuple[Hashable, int, int], Kept] = {}
        self._too_large: set[tuple[Hashable, int, int]] = set()

    def deepest(self, prefix: Prefix, part: Part, boundary: int) -> Kept | None:
        """Return a split's activations at the deepest boundary up to `boundary` that there is room for.

        None where nothing can be kept. They are computed now if they are not there, with the model in evaluation mode,
        in which it stays.
        """
        nearest = self._nearest(prefix, part, boundary)
        missing = boundary > (nearest.boundary if nearest else 0)
        if not missing or self._room <= 0 or (prefix.key, id(part), boundary) in self._too_large:
            return nearest
        self._compute(prefix, part, nearest, boundary)
        return self._nearest(prefix, part, boundary)

    def _nearest(self, prefix: Prefix, part: Part, boundary: int) -> Kept | None:
        found = (self._kept.get((prefix.key, id(part), number)) for number in range(boundary, 0, -1))
        return next((kept for kept in found if kept is not None), None)

    def _compute(self, prefix: Prefix, part: Part, nearest: Kept | None, boundary: int) -> None:
        begin = nearest.boundary if nearest else 0
        numbers = sorted({number for number in (*self.wanted, boundary) if begin < number <= boundary})
        prefix.backbone.module.eval()
        rows = torch.arange(len(part.labels))
        values: dict[int, Tensor] = {}
        with torch.no_grad():
            for batch in torch.split(rows, BATCH):
                x = prefix.images(part, batch) if nearest is None else nearest.values[batch]
                pieces, seconds = _pieces(prefix, x, begin, numbers)
                if not values:
                    values = self._allocated(pieces, seconds, len(rows))
                    numbers = [number for number in numbers if number <= max(values, default=0)]
                for number in values:
                    values[number][batch] = pieces[number]
                if not values:
                    break
        for number, tensor in values.items():
            self._kept[prefix.key, id(part), number] = Kept(number, tensor, part)
        if boundary not in values:
            self._too_large.add((prefix.key, id(part), boundary))

    def _allocated(self, pieces: dict[int, Tensor], seconds: dict[int, float], rows: int) -> dict[int, Tensor]:
        """Return room for the activations that are worth it, as far as there is room."""
        sizes = {number: rows * x[0].numel() * x.element_size() for number, x in pieces.items()}
        chosen = {}
        for number in sorted(pieces, key=lambda n: seconds[n] / sizes[n], reverse=True):
            if sizes[number] <= self._room:
                self._room -= sizes[number]
                chosen[number] = pieces[number].new_empty(rows, *pieces[number].shape[1:])
        return chosen


def _pieces(
    prefix: Prefix, x: Tensor, begin: int, numbers: Sequence[int]
) -> tuple[dict[int, Tensor], dict[int, float]]:
    """Return a batch's activations at some boundaries, and the seconds that each takes from `begin`."""
    pieces, seconds, started = {}, {}, time.perf_counter()
    for number in numbers:
        x = pieces[number] = prefix.run(x, range(begin, number))
        seconds[number], begin = time.perf_counter() - started, number
    return pieces, seconds


def _quarter_of_memory() -> int:
    return int(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * MEMORY_SHARE)
