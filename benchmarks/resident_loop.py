"""A bare PyTorch loop over images that lie on the device as bytes, and what the device can do at most.

The loop does an epoch's steps and nothing else: no metrics, no evaluation, no files. It is written for a GPU
(channels_last, bfloat16 autocast, fused SGD, no wait within an epoch) and runs on a CPU in single precision.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.plain_training import MEAN, STD

WAYS = ("eager", "graph", "compiled")
WARM_UP_STEPS = 3
PRODUCTS = 20
Build = Callable[[], nn.Module]


@dataclass(frozen=True)
class Resident:
    """Images (N, H, W, 3) uint8 and labels (N,) int64, on the device."""

    images: Tensor
    labels: Tensor


class Loop:
    """The steps of one net at one batch size. `way` is `eager`, `graph` (each step replays a CUDA graph) or `compiled`.

    Making one does its first steps, so that all that is compiled, captured or tried out has been.
    """

    def __init__(self, build: Build, data: Resident, *, batch_size: int, way: str) -> None:
        torch.manual_seed(0)
        self.device = data.images.device
        model = build().to(self.device, memory_format=torch.channels_last).train()
        self._data, self._batch_size = data, batch_size
        self._mean, self._std = (torch.tensor(c, device=self.device).view(1, 3, 1, 1) for c in (MEAN, STD))
        self._optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, fused=True)
        self._forward: Callable[[Tensor], Tensor] = torch.compile(model) if way == "compiled" else model
        self._total = torch.zeros((), device=self.device)
        self._rows = torch.arange(batch_size, device=self.device)
        self._graph = self._captured() if way == "graph" else None
        for _ in range(WARM_UP_STEPS):
            self._step(self._rows)
        wait(self.device)

    def epoch(self) -> tuple[int, float]:
        """Train on the data in a new order, in full batches; return how many images that were, and seconds."""
        wait(self.device)
        started = time.perf_counter()
        count = len(self._data.labels) // self._batch_size * self._batch_size
        order = torch.randperm(len(self._data.labels))[:count].to(self.device)
        for rows in order.split(self._batch_size):
            if self._graph:
                self._rows.copy_(rows)
                self._graph.replay()
            else:
                self._step(rows)
        wait(self.device)
        return count, time.perf_counter() - started

    def _step(self, rows: Tensor) -> None:
        images = self._data.images.index_select(0, rows).permute(0, 3, 1, 2)  # channels-last in memory
        x = images.float().div_(255).sub_(self._mean).div_(self._std)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            loss = nn.functional.cross_entropy(self._forward(x), self._data.labels.index_select(0, rows))
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()
        self._total += loss.detach()

    def _captured(self) -> torch.cuda.CUDAGraph:
        """Return one step as a graph; what it allocates at first is allocated before, on a stream of its own."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP_STEPS):
                self._step(self._rows)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._step(self._rows)
        return graph


def wait(device: torch.device) -> None:
    """Wait until a device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matmul_tflops(device: torch.device, side: int) -> float:
    """Return what products of square bfloat16 matrices reach, in 10^12 floating-point operations per second."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    for _ in range(WARM_UP_STEPS):
        a @ b
    wait(device)
    started = time.perf_counter()
    for _ in range(PRODUCTS):
        a @ b
    wait(device)
    return 2 * side**3 * PRODUCTS / (time.perf_counter() - started) / 1e12


def training_flops(build: Build, side: int) -> float:
    """Return the floating-point operations of a step per image of `side` pixels, forward and backward.

    Counted in convolutions and matrix products, a multiplication with its addition as two.
    """
    with FlopCounterMode(display=False) as counter:
        build()(torch.zeros(2, 3, side, side)).sum().backward()
    return counter.get_total_flops() / 2
