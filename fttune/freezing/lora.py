"""Low-rank adapters (LoRA, Hu et al., ICLR 2022, arXiv 2106.09685) on the weights of conv and linear layers.

An adapter is a parametrization of torch's: the module keeps its class and its call, its weight W is computed as
W + alpha / rank * B A. Merging takes that computed weight under W's old name, so an exported model has no trace of it.
"""

import math
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from fttune.config.freeze import Lora

_MARK = ".parametrizations."
_FACTORS = ("down", "up")


class LowRank(nn.Module):
    """Add `scale * up @ down` to a weight; `up` begins at zero, so that the sum begins as the weight itself."""

    def __init__(self, weight: Tensor, lora: Lora, generator: torch.Generator) -> None:
        super().__init__()
        rows, columns = weight.shape[0], weight[0].numel()  # a conv's weight (out, in/groups, h, w) is (out, rest)
        down = torch.empty(lora.rank, columns)
        nn.init.kaiming_uniform_(down, a=math.sqrt(5), generator=generator)
        self.down = nn.Parameter(down.to(weight))
        self.up = nn.Parameter(torch.zeros(rows, lora.rank).to(weight))
        self.scale = lora.alpha / lora.rank

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (self.scale * self.up @ self.down).view(weight.shape)


def insert_lora(members: Iterable[nn.Module | nn.Parameter], lora: Lora, *, seed: int) -> None:
    """Give every conv, linear and attention projection among `members` an adapter; `seed` draws the factors A."""
    generator = torch.Generator().manual_seed(seed)
    for member in members:
        for module in member.modules() if isinstance(member, nn.Module) else ():
            if not parametrize.is_parametrized(module):
                for name in _adapted(module):
                    adapter = LowRank(getattr(module, name), lora, generator)
                    parametrize.register_parametrization(module, name, adapter)


def is_adapter(name: str) -> bool:
    """Return whether a parameter's name is that of an adapter's factor."""
    return _MARK in name and name.rpartition(".")[2] in _FACTORS


def merged_state(module: nn.Module) -> Mapping[str, Tensor]:
    """Return the state dict with every adapter merged into its weight, under the names of the model without them."""
    state = module.state_dict()
    merged = {name: tensor for name, tensor in state.items() if _MARK not in name}
    for path, weight in {_adapted_weight(name) for name in state.keys() - merged.keys()}:
        merged[f"{path}.{weight}"] = getattr(module.get_submodule(path), weight)
    return merged


def _adapted_weight(name: str) -> tuple[str, str]:
    """Return the path of a module and the name of its weight, from a name in the adapter of that weight."""
    path, _, rest = name.partition(_MARK)
    return path, rest.partition(".")[0]


def _adapted(module: nn.Module) -> Iterator[str]:
    """Yield the names of a module's weights that are matrices of a conv or linear map."""
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear):
        yield "weight"
    elif isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None:
        yield "in_proj_weight"  # its out_proj is a Linear of its own
