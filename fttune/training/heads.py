"""Linear heads that train side by side: their logits, and the updates that torch's optimizers would make to each alone.

K heads of C classes over D features are one matrix; every head has hyperparameters of its own, as vectors (K,).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BETAS, EPSILON = (0.9, 0.999), 1e-8  # torch's defaults for AdamW


@dataclass(frozen=True)
class Heads:
    """`tensors` are the weights (K, C, D), and the biases (K, C) where the heads have any."""

    tensors: tuple[Tensor, ...]

    @classmethod
    def copies(cls, layer: nn.Linear, count: int) -> "Heads":
        """Return `count` copies of a layer."""
        own = [layer.weight] if layer.bias is None else [layer.weight, layer.bias]
        return cls(tuple(t.detach().repeat(count, *(1,) * t.ndim).requires_grad_() for t in own))

    def __len__(self) -> int:
        return len(self.tensors[0])

    def logits(self, x: Tensor) -> Tensor:
        """Return the logits (B, K, C) of features (B, D), by one matrix product."""
        weight, *bias = (tensor.flatten(0, 1) for tensor in self.tensors)  # (K * C, D), (K * C,)
        return F.linear(x, weight, *bias).view(len(x), len(self), -1)

    def alone(self, index: int, x: Tensor) -> Tensor:
        """Return the logits (B, C) of one head."""
        return F.linear(x, *(tensor[index] for tensor in self.tensors))

    def clone(self) -> "Heads":
        """Return a copy that does not train."""
        return Heads(tuple(tensor.detach().clone() for tensor in self.tensors))


class HeadOptimizer(Protocol):
    """Updates parameters (K, ...) from their gradients; `lr` (K,)."""

    def step(self, parameters: Sequence[Tensor], gradients: Sequence[Tensor], lr: Tensor) -> None: ...


class Sgd:
    """torch.optim.SGD for each head. `momentum` and `decay` are (K,)."""

    def __init__(self, momentum: Tensor, decay: Tensor, *, nesterov: bool) -> None:
        self._momentum, self._decay, self._nesterov = momentum, decay, nesterov
        self._buffers: list[Tensor] = []

    def step(self, parameters: Sequence[Tensor], gradients: Sequence[Tensor], lr: Tensor) -> None:
        """Make one update in place."""
        along = [_along(self._momentum, p) for p in parameters]
        directions = [g + _along(self._decay, p) * p for p, g in zip(parameters, gradients, strict=True)]
        if not self._buffers:
            self._buffers = [d.clone() for d in directions]
        else:
            for buffer, momentum, d in zip(self._buffers, along, directions, strict=True):
                buffer.mul_(momentum).add_(d)
        for p, momentum, d, buffer in zip(parameters, along, directions, self._buffers, strict=True):
            p.sub_(_along(lr, p) * (d + momentum * buffer if self._nesterov else buffer))


class AdamW:
    """torch.optim.AdamW for each head (Loshchilov & Hutter, ICLR 2019). `decay` is (K,)."""

    def __init__(self, decay: Tensor) -> None:
        self._decay, self._steps = decay, 0
        self._moments: list[tuple[Tensor, Tensor]] = []

    def step(self, parameters: Sequence[Tensor], gradients: Sequence[Tensor], lr: Tensor) -> None:
        """Make one update in place."""
        self._moments = self._moments or [(torch.zeros_like(p), torch.zeros_like(p)) for p in parameters]
        self._steps += 1
        first, second = (1 - beta**self._steps for beta in BETAS)
        for p, g, (mean, square) in zip(parameters, gradients, self._moments, strict=True):
            rate = _along(lr, p)
            p.mul_(1 - rate * _along(self._decay, p))
            mean.lerp_(g, 1 - BETAS[0])
            square.mul_(BETAS[1]).addcmul_(g, g, value=1 - BETAS[1])
            p.sub_(rate / first * mean / (square.sqrt() / second**0.5 + EPSILON))


def _along(values: Tensor, p: Tensor) -> Tensor:
    """Return values (K,) such that they multiply with p (K, ...)."""
    return values.view(-1, *(1,) * (p.ndim - 1))
