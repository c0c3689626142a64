"""Where a part's images are while runs read them: on the device when they fit, else in host memory, streamed to it.

The pixels of a batch are the same ones wherever they come from. Knows neither labels nor what is done with a batch.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from fttune.data import Part
from fttune.data.image_data import Pixels

RESIDENT_SHARE = 0.5  # of the device's memory that would be free without the parts that live there
_CHUNK_BYTES = 2**26


class Images(Protocol):
    """The images of one part, as batches on one device.

    A batch is (B, 3, H, W) uint8, in channels-last order in memory, as images are stored.
    """

    def batch(self, rows: Tensor) -> Tensor:
        """Return the images of `rows` (B,) int64, which lies on the CPU."""
        ...

    def batches(self, order: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield the images of each of `order`, ahead of when they are needed where that helps."""
        ...


def free_device_bytes(device: torch.device) -> int | None:
    """Return the free memory of a CUDA device; None for others, whose memory is the host's own."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None


class DeviceImages:
    """The images that the runs of a process read: every part goes to a device once, whoever trains with it.

    `free_bytes` tells how much of a device's memory is free, None when a device has none of its own.
    """

    def __init__(self, free_bytes: Callable[[torch.device], int | None] = free_device_bytes) -> None:
        self._free_bytes = free_bytes
        self._images: dict[tuple[str, torch.device], Images] = {}

    def of(self, part: Part, device: torch.device) -> Images:
        """Return the images of a part. What is decided when it is first asked for stays: resident, or streamed."""
        key = (part.key, device)
        if key not in self._images:
            free = self._free_bytes(device)
            if free is None:
                return HostImages(part.images, device)
            self._images[key] = self._place(part, device, free)
        return self._images[key]

    def _place(self, part: Part, device: torch.device, free: int) -> Images:
        held = sum(i.nbytes for (_, d), i in self._images.items() if d == device and isinstance(i, ResidentImages))
        if held + part.images.nbytes > RESIDENT_SHARE * (free + held):
            return StreamedImages(part.images, device)
        try:
            return ResidentImages(part.images, device)
        except torch.OutOfMemoryError:  # other processes use the device too
            return StreamedImages(part.images, device)


class HostImages:
    """Images in host memory, of which each batch is copied when it is asked for."""

    def __init__(self, images: Pixels, device: torch.device) -> None:
        self._images, self._device = images, device

    def batch(self, rows: Tensor) -> Tensor:
        """Return the images of `rows`."""
        images = torch.from_numpy(self._images[rows.numpy()]).permute(0, 3, 1, 2)
        return images.to(self._device, non_blocking=True)

    def batches(self, order: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield the images of each of `order`."""
        return map(self.batch, order)


class ResidentImages:
    """Images that live on the device, copied there in pieces."""

    def __init__(self, images: Pixels, device: torch.device) -> None:
        self.nbytes = images.nbytes
        step = max(1, _CHUNK_BYTES // max(1, images[:1].nbytes))
        # A tensor that is made while a model is evaluated could otherwise not be used in training.
        with torch.inference_mode(False):
            self._images = torch.empty(images.shape, dtype=torch.uint8, device=device)
            for start in range(0, len(images), step):
                self._images[start : start + step] = torch.from_numpy(np.array(images[start : start + step]))

    def batch(self, rows: Tensor) -> Tensor:
        """Return the images of `rows`."""
        here = rows.to(self._images.device, non_blocking=True)
        return self._images.index_select(0, here).permute(0, 3, 1, 2)

    def batches(self, order: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield the images of each of `order`."""
        return map(self.batch, order)


class StreamedImages(HostImages):
    """Images in host memory: while one batch is used, a thread gathers the next one in pinned memory."""

    def batches(self, order: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield the images of each of `order`; the rows of the next batch are gathered meanwhile."""
        largest = max(map(len, order), default=0)
        buffers = itertools.cycle([_Buffer((largest, *self._images.shape[1:]), self._device) for _ in range(2)])
        with ThreadPoolExecutor(1) as pool:

            def begin(rows: Tensor) -> tuple[_Buffer, Future[Tensor]]:
                buffer = next(buffers)
                return buffer, pool.submit(buffer.gather, self._images, rows)

            begun = map(begin, order)
            current = next(begun, None)
            while current is not None:
                buffer, gathered = current[0], current[1].result()
                current = next(begun, None)
                yield buffer.send(gathered)


class _Buffer:
    """A place in host memory, pinned for CUDA, that batches pass through one after another."""

    def __init__(self, shape: tuple[int, ...], device: torch.device) -> None:
        self._device = device
        self._pixels = torch.empty(shape, dtype=torch.uint8, pin_memory=device.type == "cuda")
        self._sent: torch.cuda.Event | None = None

    def gather(self, images: Pixels, rows: Tensor) -> Tensor:
        """Copy some rows here, once the last batch has left; return them (B, H, W, 3)."""
        if self._sent is not None:
            self._sent.synchronize()
        pixels = self._pixels[: len(rows)]
        # With its default mode, numpy would fill an array of its own first.
        np.take(images, rows.numpy(), axis=0, out=pixels.numpy(), mode="clip")
        return pixels

    def send(self, pixels: Tensor) -> Tensor:
        """Begin to copy what was gathered to the device; return it (B, 3, H, W)."""
        images = pixels.to(self._device, non_blocking=True, copy=True).permute(0, 3, 1, 2)
        if self._device.type == "cuda":
            self._sent = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._sent.record(torch.cuda.current_stream(self._device))
        return images
