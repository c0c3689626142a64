"""Do short suffixes gain by running side by side on a GPU? Steps as CUDA graphs, in turn and on a stream each."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torchvision
from torch import nn

from benchmarks import results
from benchmarks.resident_loop import wait

COUNTS = (2, 4, 8)
ROUNDS = 20


@dataclass(frozen=True)
class Suffix:
    """The last stage of a net of torchvision's with its head, and what it takes: 64 times (channels, side, side)."""

    net: str
    channels: int
    side: int


SUFFIXES = {
    "ResNet-50 at 224 pixels": Suffix("resnet50", 1024, 14),
    "ResNet-18 at 64 pixels": Suffix("resnet18", 256, 4),
}


def side_by_side(suffix: Suffix, device: torch.device) -> results.Record:
    """Return the milliseconds of a step in turn, and by how many at once, how much faster they are then."""
    steps = [_Step(suffix, device) for _ in range(max(COUNTS))]
    streams = [torch.cuda.Stream(device) for _ in steps]

    def at_once(count: int) -> None:
        for step, stream in zip(steps[:count], streams[:count], strict=True):
            with torch.cuda.stream(stream):
                step.graph.replay()

    def in_turn() -> None:
        for step in steps:
            step.graph.replay()

    alone = _milliseconds(in_turn, device) / len(steps)
    together = {count: _milliseconds(lambda count=count: at_once(count), device) / count for count in COUNTS}
    return {"milliseconds": alone, "gains": {str(count): alone / taken for count, taken in together.items()}}


class _Step:
    """A step of training as a graph, with all that lies where the graph reads and writes: a model of its own."""

    def __init__(self, suffix: Suffix, device: torch.device) -> None:
        net = getattr(torchvision.models, suffix.net)(num_classes=10)
        self._model = nn.Sequential(net.layer4, net.avgpool, nn.Flatten(), net.fc)
        self._model.to(device, memory_format=torch.channels_last).train()
        self._optimizer = torch.optim.SGD(self._model.parameters(), lr=1e-3, momentum=0.9, fused=True)
        x = torch.randn(64, suffix.channels, suffix.side, suffix.side, device=device, dtype=torch.bfloat16)
        self._x, self._labels = x.to(memory_format=torch.channels_last), torch.arange(64, device=device) % 10
        self._make()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self._make()

    def _make(self) -> None:
        with torch.autocast(self._x.device.type, torch.bfloat16):
            loss = nn.functional.cross_entropy(self._model(self._x), self._labels)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()


def _milliseconds(work: Callable[[], None], device: torch.device) -> float:
    work()
    wait(device)
    started = time.perf_counter()
    for _ in range(ROUNDS):
        work()
    wait(device)
    return (time.perf_counter() - started) / ROUNDS * 1e3
