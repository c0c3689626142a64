"""What gradients and weights do, per part and epoch. Nothing waits for the device before `result`.

What adds up does so in place, so that a recorded step may be replayed.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fttune.freezing import PartGradient, Trained

TINY = 1e-12


@dataclass(frozen=True)
class Motion:
    """What one epoch did to each part that trains: its gradients, and its drift |w - w0| / |w0| since the start."""

    gradients: Mapping[str, PartGradient]
    drift: Mapping[str, float]


class GradientRecord:
    """Adds up one epoch's gradients. `moments` adds their mean and variance, at the cost of two copies of them."""

    def __init__(self, trained: Trained, *, moments: bool) -> None:
        self._trained = trained
        self._parameters: list[Tensor] = [p for members in trained.values() for _, p in members]
        self._squares = self._parameters[0].new_zeros(len(self._parameters))  # sums of squared norms
        self._sums = {p: (torch.zeros_like(p), torch.zeros_like(p)) for p in self._parameters} if moments else {}

    def begin(self) -> None:
        """Forget all steps so far."""
        self._squares.zero_()
        for pair in self._sums.values():
            torch._foreach_zero_(pair)

    def sums(self) -> dict[str, Tensor]:
        """Return what has added up so far, by name."""
        pairs = {f"{i}.{k}": t for i, pair in enumerate(self._sums.values()) for k, t in enumerate(pair)}
        return {"squares": self._squares, **pairs}

    def go_on(self, sums: Mapping[str, Tensor]) -> None:
        """Take up what `sums` returned of another record of the same parts."""
        for name, tensor in self.sums().items():
            tensor.copy_(sums[name])

    def add(self) -> None:
        """Take the gradients of a step, between `backward` and the optimizer's step."""
        self._squares += _squares([p.new_zeros(()) if p.grad is None else p.grad for p in self._parameters])
        for p, (total, squared) in self._sums.items():
            if p.grad is not None:
                total += p.grad
                squared += p.grad.square()

    def result(self, start: Mapping[str, Tensor], *, steps: int) -> Motion:
        """Return what an epoch of so many steps did; the weights are those at its end, `start` holds those of the run
        by name."""
        weights = [p.detach() for p in self._parameters]
        begun = [start[name] for members in self._trained.values() for name, _ in members]
        moved = torch._foreach_sub(weights, begun)
        squares = _squares([*weights, *moved, *begun]).view(3, -1)
        rows = torch.cat([(self._squares / steps)[None], squares])  # (4, parameters)
        counts = torch.tensor([len(members) for members in self._trained.values()])
        parts = torch.arange(len(counts)).repeat_interleave(counts).to(rows.device, non_blocking=True)
        norms = rows.new_zeros(4, len(counts)).index_add_(1, parts, rows).sqrt().cpu()  # (4, parts)
        relative = (norms[0] / norms[1].clamp_min(TINY)).tolist()
        drift = (norms[2] / norms[3].clamp_min(TINY)).tolist()
        return Motion(
            {
                part: PartGradient(r, *self._moments(part, steps))
                for part, r in zip(self._trained, relative, strict=True)
            },
            dict(zip(self._trained, drift, strict=True)),
        )

    def _moments(self, part: str, steps: int) -> tuple[float, float]:
        """Return the norm of the summed gradients, and the mean over elements of mean^2 / variance."""
        if not self._sums:
            return 0.0, 0.0
        sums = [self._sums[p] for _, p in self._trained[part]]
        ratios = []
        for mean, square in ((total.double() / steps for total in pair) for pair in sums):
            variance = (square - mean.square()).clamp_min(0)
            ratios.append((mean.square() / (variance + TINY)).flatten())
        return _squares([total for total, _ in sums]).sum().sqrt().item(), torch.cat(ratios).mean().item()


def _squares(tensors: list[Tensor]) -> Tensor:
    """Return the squared norm of each tensor, (tensors,), in one pass."""
    return torch.stack(list(torch._foreach_norm(tensors))).square()
