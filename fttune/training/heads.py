"""Linear heads that train side by side: their logits, and the updates that torch's optimizers would make to each alone.

K heads of C classes over D features are one tensor (K, C, D), with a last column (D + 1) for the biases where they have
any; every head has hyperparameters of its own, as vectors (K,).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BETAS, EPSILON = (0.9, 0.999), 1e-8  # torch's defaults for AdamW


@dataclass(frozen=True)
class Heads:
    """All weights, `values` (K, C, D or D + 1); `biased` says whether the last column is a bias."""

    values: Tensor
    biased: bool

    @classmethod
    def copies(cls, layer: nn.Linear, count: int) -> "Heads":
        """Return `count` copies of a layer, which train."""
        weight, bias = layer.weight.detach(), layer.bias
        whole = weight if bias is None else torch.cat([weight, bias.detach()[:, None]], 1)
        return cls(whole.repeat(count, 1, 1).requires_grad_(), bias is not None)

    def seen(self, x: Tensor) -> Tensor:
        """Return features (B, D) as the heads multiply them: with a column of ones for the bias."""
        return torch.cat([x, x.new_ones(len(x), 1)], 1) if self.biased else x

    def logits(self, x: Tensor) -> Tensor:
        """Return the logits (B, K, C) of features as `seen`, by one matrix product."""
        return F.linear(x, self.values.flatten(0, 1)).view(len(x), *self.values.shape[:2])

    def clone(self) -> "Heads":
        """Return a copy that does not train."""
        return Heads(self.values.detach().clone(), self.biased)

    def state(self, index: int) -> Mapping[str, Tensor]:
        """Return the tensors of one head as its layer names them, on the CPU."""
        own = self.values[index].detach().cpu()
        return {"weight": own[:, :-1], "bias": own[:, -1]} if self.biased else {"weight": own}


class HeadOptimizer(Protocol):
    """Updates heads (K, C, D) in place from their gradients; `lr` (K,)."""

    def step(self, heads: Tensor, gradients: Tensor, lr: Tensor) -> None: ...
    def state(self) -> dict[str, Tensor]: ...
    def restore(self, state: Mapping[str, Tensor]) -> None: ...


class Sgd:
    """torch.optim.SGD for each head. `momentum` and `decay` are (K,)."""

    def __init__(self, momentum: Tensor, decay: Tensor, *, nesterov: bool) -> None:
        self._momentum, self._decay, self._nesterov = along(momentum), along(decay), nesterov
        self._buffer: Tensor | None = None

    def step(self, heads: Tensor, gradients: Tensor, lr: Tensor) -> None:
        """Make one update."""
        direction = torch.addcmul(gradients, heads, self._decay)
        if self._buffer is None:
            self._buffer = direction.clone()
        else:
            self._buffer.mul_(self._momentum).add_(direction)
        if self._nesterov:
            direction.addcmul_(self._buffer, self._momentum)
        heads.addcmul_(direction if self._nesterov else self._buffer, along(lr), value=-1)

    def state(self) -> dict[str, Tensor]:
        """Return a copy of what the next step depends on."""
        return {} if self._buffer is None else {"buffer": self._buffer.clone()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take up what `state` returned of another one."""
        self._buffer = state["buffer"].clone() if state else None


class AdamW:
    """torch.optim.AdamW for each head (Loshchilov & Hutter, ICLR 2019). `decay` is (K,)."""

    def __init__(self, decay: Tensor) -> None:
        self._decay, self._steps = along(decay), 0
        self._mean: Tensor | None = None
        self._square: Tensor | None = None

    def step(self, heads: Tensor, gradients: Tensor, lr: Tensor) -> None:
        """Make one update."""
        if self._mean is None or self._square is None:
            self._mean, self._square = torch.zeros_like(heads), torch.zeros_like(heads)
        self._steps += 1
        first, second = (1 - beta**self._steps for beta in BETAS)
        heads.mul_(1 - along(lr) * self._decay)
        self._mean.lerp_(gradients, 1 - BETAS[0])
        self._square.mul_(BETAS[1]).addcmul_(gradients, gradients, value=1 - BETAS[1])
        heads.sub_(along(lr) / first * self._mean / (self._square.sqrt() / second**0.5 + EPSILON))

    def state(self) -> dict[str, Tensor]:
        """Return a copy of what the next step depends on."""
        if self._mean is None or self._square is None:
            return {}
        return {"mean": self._mean.clone(), "square": self._square.clone(), "steps": torch.tensor(self._steps)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take up what `state` returned of another one."""
        if state:
            self._mean, self._square = state["mean"].clone(), state["square"].clone()
            self._steps = int(state["steps"])


def along(values: Tensor) -> Tensor:
    """Return values (K,) such that they multiply with heads (K, C, D)."""
    return values.view(-1, 1, 1)
