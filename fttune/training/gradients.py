"""What gradients and weights do, per part and epoch. Nothing waits for the device before `result`."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from fttune.freezing import Freezing, PartGradient

Trained = Mapping[str, list[tuple[str, nn.Parameter]]]


def trained_parameters(freezing: Freezing) -> Trained:
    """Return part name -> its parameters that train, with their names; parts without any are left out."""
    return freezing.members


class GradientRecord:
    """Adds up one epoch's gradients. `moments` adds their mean and variance, at the cost of two copies of them."""

    def __init__(self, trained: Trained, *, moments: bool) -> None:
        self._parts = {part: [p for _, p in members] for part, members in trained.items()}
        self._steps = 0
        self._squares: Tensor | None = None  # (parts,) sums of squared norms
        self._sums = {p: (torch.zeros_like(p), torch.zeros_like(p)) for ps in self._parts.values() for p in ps}
        if not moments:
            self._sums = {}

    def add(self) -> None:
        """Take the gradients of a step, between `backward` and the optimizer's step."""
        norms = [get_total_norm([p.grad for p in ps if p.grad is not None]) for ps in self._parts.values()]
        squares = torch.stack(norms).square()
        self._squares = squares if self._squares is None else self._squares + squares
        self._steps += 1
        for p, (total, squared) in self._sums.items():
            if p.grad is not None:
                total += p.grad
                squared += p.grad.square()

    def result(self) -> dict[str, PartGradient]:
        """Return what each part's gradients did; the weights are those at the end of the epoch."""
        if self._squares is None:
            return {}
        weights = torch.stack([get_total_norm(ps) for ps in self._parts.values()])
        relative = ((self._squares / self._steps).sqrt() / weights.clamp_min(1e-12)).cpu().tolist()
        return {
            part: PartGradient(value, *self._moments(ps))
            for value, (part, ps) in zip(relative, self._parts.items(), strict=True)
        }

    def _moments(self, parameters: list[nn.Parameter]) -> tuple[float, float]:
        """Return the norm of the summed gradients, and the mean over elements of mean^2 / variance."""
        if not self._sums:
            return 0.0, 0.0
        totals = [self._sums[p][0] for p in parameters]
        ratios = []
        for p in parameters:
            mean, square = (total.double() / self._steps for total in self._sums[p])
            variance = (square - mean.square()).clamp_min(0)
            ratios.append((mean.square() / (variance + 1e-12)).flatten())
        return get_total_norm(totals).item(), torch.cat(ratios).mean().item()


def drift(trained: Trained, start: Mapping[str, Tensor]) -> dict[str, float]:
    """Return for each part |w - w0| / |w0| over its parameters that train."""
    moved = [get_total_norm([p.detach() - start[name] for name, p in members]) for members in trained.values()]
    begun = [get_total_norm([start[name] for name, _ in members]) for members in trained.values()]
    if not moved:
        return {}
    values = (torch.stack(moved) / torch.stack(begun).clamp_min(1e-12)).cpu().tolist()
    return dict(zip(trained, values, strict=True))
