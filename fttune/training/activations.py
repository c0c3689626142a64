"""What frozen stages make of the images, computed once and kept.

A boundary is a number of stages from the input. While none of them trains, and no running statistic in them moves, what
they make of an image stays the same over all epochs, and over all runs that begin with the same weights.
"""

import hashlib
import os
import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from importlib.metadata import distributions, version
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from fttune.data import ArrayCache, Part, Rows, Spec, Stored, in_memory
from fttune.models import Backbone
from fttune.training.device import wait_for
from fttune.training.folding import folded
from fttune.training.memory import BatchLimit
from fttune.training.resident import free_device_bytes

Array = npt.NDArray[Any]
Obtain = Callable[[Mapping[str, Spec], Callable[[Rows], None]], Mapping[str, Stored]]

BATCH = 64
TIMED = 4  # images: enough to tell cheap stages from dear ones
MEMORY_SHARE = 0.25  # of the machine's
DEVICE_SHARE = 0.25  # of the device's memory that would be free without activations; images take more
_FORMAT = "fttune-activations-2"


@dataclass(frozen=True)
class Prefix:
    """A model whose stages are to run once.

    `key` stands for all that decides what they compute, but for the images and the libraries: plain data of weights,
    precision and device. `images` returns rows of a split as the model takes them.
    """

    key: Hashable
    backbone: Backbone
    device: torch.device
    images: Callable[[Part, Tensor], Tensor]

    def array_key(self, part: Part, boundary: int, *, folds: bool = False) -> str:
        """Return the name under which a split's activations are kept, and those of a folded model beside them."""
        return f"activations/{_digest(self._content, part.key)}-{boundary}{'f' if folds else ''}"

    @cached_property
    def _content(self) -> str:
        return f"{_FORMAT} {_versions()} {self.key}"


@dataclass(frozen=True)
class Kept:
    """Activations (N, ...) after the first `boundary` stages: an array in host memory, or a tensor on the device.

    With `channels_last` the stages give (N, C, H, W) with the channels last in memory; a tensor lies there as
    (N, H, W, C), an array as (N, C, H, W) all the same.
    """

    boundary: int
    dtype: torch.dtype
    values: Array | Tensor
    channels_last: bool = False

    def batch(self, rows: Tensor, device: torch.device) -> Tensor:
        """Return the activations of some rows (B,), which lie on the CPU, on the device."""
        if isinstance(self.values, Tensor):
            found = self.values.index_select(0, rows.to(device, non_blocking=True))
            return found.permute(0, 3, 1, 2) if self.channels_last else found
        return torch.from_numpy(self.values[rows.numpy()]).view(self.dtype).to(device, non_blocking=True)


class Activations:
    """Keeps activations on the device, in an array cache, or in at most `memory_bytes` (default: a quarter of the
    machine's memory).

    A device that has memory of its own comes first: computing anew there takes less than reading from a disk.
    `free_bytes` tells how much of that is free. When it computes some, it keeps those at the boundaries named in
    `wanted` too, the most useful ones first: by the time that they save per byte. `notices` are to be shown to users.

    What is computed is a function of the prefix, the images and `wanted`, to the last bit, whatever was there before:
    a process that was killed amid a pass leaves any part of it.
    """

    def __init__(
        self,
        arrays: ArrayCache | None = None,
        *,
        memory_bytes: int | None = None,
        free_bytes: Callable[[torch.device], int | None] = free_device_bytes,
    ) -> None:
        self.wanted: frozenset[int] = frozenset()
        self._arrays, self._free_bytes = arrays, free_bytes
        self._memory = _quarter_of_memory() if memory_bytes is None else memory_bytes
        self._kept: dict[str, Kept] = {}
        self._without_room: set[str] = set()
        self._at_once = BatchLimit("a pass through frozen stages")

    def notices(self) -> list[str]:
        """Return what the user should be told, each once."""
        notices = self._at_once.notices()
        if self._arrays is not None:
            notices += self._arrays.notices
            self._arrays.notices = []
        return notices

    def deepest(self, prefix: Prefix, part: Part, boundary: int) -> Kept | None:
        """Return a split's activations at the deepest boundary up to `boundary` that there is room for.

        None where nothing can be kept. They are computed now if they are not there, with the model in evaluation mode,
        in which it stays.
        """
        folds = self._folds(prefix, boundary)
        nearest = self._nearest(prefix, part, boundary, folds=folds)
        begin = nearest.boundary if nearest else 0
        if boundary <= begin or prefix.array_key(part, boundary, folds=folds) in self._without_room:
            return nearest
        prefix.backbone.module.eval()
        with torch.no_grad():
            numbers = sorted({number for number in (*self.wanted, boundary) if begin < number <= boundary})
            self._compute(_Pass(tuple(numbers), prefix, part, nearest, self._at_once, folds))
        return self._nearest(prefix, part, boundary, folds=folds)

    def _folds(self, prefix: Prefix, boundary: int) -> bool:
        """Return whether a faster model, which computes the same up to rounding, makes the activations.

        Only where heads alone train on them: stages that train on top would amplify that, norms in training mode above
        all. It takes no part of what the model itself has made.
        """
        heads = {*self.wanted, boundary} == {len(prefix.backbone.cut.stages)}
        return heads and prefix.device.type == "cpu"

    def _nearest(self, prefix: Prefix, part: Part, boundary: int, *, folds: bool) -> Kept | None:
        numbers = (boundary,) if folds else range(boundary, 0, -1)
        found = (self._kept.get(prefix.array_key(part, number, folds=folds)) for number in numbers)
        return next((kept for kept in found if kept is not None), None)

    def _room_on(self, device: torch.device) -> int:
        """Return how many bytes more may be kept on a device."""
        if (free := self._free_bytes(device)) is None:
            return 0
        held = sum(kept.values.nbytes for kept in self._kept.values() if isinstance(kept.values, Tensor))
        return int(DEVICE_SHARE * (free + held)) - held

    def _compute(self, way: "_Pass") -> None:
        """Compute and keep what is worth it on a pass: on the device, on disk, or in memory, where there is room."""
        if self._arrays is None and not self._memory:
            return
        count = min(TIMED, len(way.part.images))
        offers = self._at_once.fit(count, way.offers, way.prefix.backbone.module)
        boundary = way.numbers[-1]
        if boundary in (chosen := _fitting(offers, self._room_on(way.prefix.device))):
            try:
                self._kept |= way.keep_there(chosen)
            except torch.OutOfMemoryError:  # other processes use the device too
                pass
            else:
                return
        chosen = _fitting(offers, self._arrays.room if self._arrays else 0)
        obtain: Obtain = in_memory
        if self._arrays and boundary in chosen:
            obtain = self._arrays.obtain
        else:
            chosen = _fitting(offers, self._memory)
            self._memory -= sum(offers[number].nbytes for number in chosen)
        self._kept |= way.keep(chosen, obtain)
        if boundary not in chosen:
            self._without_room.add(way.key(boundary))


@dataclass(frozen=True)
class _Offer:
    """What keeping activations takes and gives: one row of them, the size of all, the seconds to make a few."""

    row: Tensor
    nbytes: int
    seconds: float


@dataclass(frozen=True)
class _Pass:
    """A pass of one split to some boundaries, in order, after the `nearest` of which activations are kept already.

    `at_once` is how many images pass together, `folds` whether through a folded model.
    """

    numbers: tuple[int, ...]
    prefix: Prefix
    part: Part
    nearest: Kept | None
    at_once: BatchLimit
    folds: bool

    @cached_property
    def backbone(self) -> Backbone:
        """The model that computes the activations."""
        if not self.folds:
            return self.prefix.backbone
        x, (last,) = self.start(torch.arange(1)), self.numbers
        return folded(self.prefix.backbone, lambda backbone: _pieces(backbone, x, self.begin, [last])[last])

    def key(self, boundary: int) -> str:
        """Return the name under which the activations at a boundary are kept."""
        return self.prefix.array_key(self.part, boundary, folds=self.folds)

    @property
    def begin(self) -> int:
        return self.nearest.boundary if self.nearest else 0

    def start(self, rows: Tensor) -> Tensor:
        """Return the rows as they are where the pass begins, in memory too: kernels differ by that, in last bits."""
        if self.nearest is None:
            return self.prefix.images(self.part, rows)
        x = self.nearest.batch(rows, self.prefix.device)
        return x.contiguous(memory_format=torch.channels_last) if self.nearest.channels_last else x

    def offers(self, count: int) -> dict[int, _Offer]:
        """Return what each boundary offers, from so many images."""
        samples, begin, offers, device = len(self.part.images), self.begin, {}, self.prefix.device
        x = self.start(torch.arange(count))
        if device.type == "cuda":
            _pieces(self.backbone, x, begin, self.numbers)  # what a first call sets up is not counted
        wait_for(device)
        started = time.perf_counter()
        for number in self.numbers:
            x = _pieces(self.backbone, x, begin, [number])[number]
            wait_for(device)
            begin, seconds = number, time.perf_counter() - started
            offers[number] = _Offer(x[:1], samples * x[:1].nbytes, seconds)
        return offers

    def keep_there(self, chosen: Mapping[int, _Offer]) -> dict[str, Kept]:
        """Compute the activations at the chosen boundaries in one pass, and leave them on the device.

        Raises:
            OutOfMemoryError: they do not fit after all.
        """
        samples = len(self.part.images)
        kept = {number: _room_like(number, offer.row, samples) for number, offer in chosen.items()}
        for first in range(0, samples, size := self.at_once.size(BATCH)):
            for number, piece in self._batch(sorted(chosen), first, size).items():
                rows = kept[number].values[first : first + size]
                rows[:] = piece.permute(0, 2, 3, 1) if kept[number].channels_last else piece
        return {self.key(number): made for number, made in kept.items()}

    def keep(self, chosen: Mapping[int, _Offer], obtain: Obtain) -> dict[str, Kept]:
        """Compute the activations at the chosen boundaries in one pass; return them by their names."""
        keys = {number: self.key(number) for number in chosen}
        samples = len(self.part.images)
        specs = {keys[n]: Spec((samples, *offer.row.shape[1:]), _numpy(offer.row).dtype) for n, offer in chosen.items()}

        def fill(rows: Rows) -> None:
            first = 0
            while first < samples:
                compute = partial(self._batch, sorted(chosen), first)
                pieces = self.at_once.fit(min(BATCH, samples - first), compute, self.backbone.module)
                for number, piece in pieces.items():
                    rows.append(keys[number], _numpy(piece))
                first += len(pieces[min(chosen)])

        stored = obtain(specs, fill) if specs else {}
        rows = {number: offer.row for number, offer in chosen.items()}
        return {
            key: Kept(number, rows[number].dtype, stored[key].array, _has_channels_last(rows[number]))
            for number, key in keys.items()
        }

    def _batch(self, numbers: Sequence[int], first: int, size: int) -> dict[int, Tensor]:
        """Return what `size` images from the row `first` on are at some boundaries; at the end there are fewer."""
        rows = torch.arange(first, min(first + size, len(self.part.images)))
        return _pieces(self.backbone, self.start(rows), self.begin, numbers)


def _room_like(boundary: int, row: Tensor, samples: int) -> Kept:
    """Return room for the activations of all samples, where that of one (1, ...) is. Raises OutOfMemoryError."""
    last = _has_channels_last(row)
    shape = row.permute(0, 2, 3, 1).shape if last else row.shape
    return Kept(boundary, row.dtype, row.new_empty((samples, *shape[1:])), last)


def _has_channels_last(x: Tensor) -> bool:
    return x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def _pieces(backbone: Backbone, x: Tensor, begin: int, numbers: Iterable[int]) -> dict[int, Tensor]:
    """Return what x, which has passed `begin` stages, is at some boundaries."""
    pieces = {}
    for number in numbers:
        for stage in backbone.cut.stages[begin:number]:
            x = backbone.run_stage(stage.name, x)
        pieces[number], begin = x, number
    return pieces


def _fitting(offers: Mapping[int, _Offer], room: int) -> dict[int, _Offer]:
    """Return those that fit into the room together, the ones that save most time per byte first."""
    chosen = {}
    for number, offer in sorted(offers.items(), key=lambda item: item[1].seconds / item[1].nbytes, reverse=True):
        if offer.nbytes <= room:
            room -= offer.nbytes
            chosen[number] = offer
    return chosen


def _numpy(x: Tensor) -> Array:
    """Return a tensor as numpy has it, which has no bfloat16."""
    x = x.detach().cpu()
    return (x.contiguous().view(torch.int16) if x.dtype == torch.bfloat16 else x).numpy()


@cache
def _digest(*content: str) -> str:
    return hashlib.sha256("\n".join(content).encode()).hexdigest()


@cache
def _versions() -> tuple[str, ...]:
    """Return the versions of what may compute activations; timm is not there everywhere."""
    installed = {d.name for d in distributions()}
    return tuple(f"{name} {version(name)}" for name in ("torch", "torchvision", "timm") if name in installed)


def _quarter_of_memory() -> int:
    return int(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * MEMORY_SHARE)
