"""From a policy to what trains: parameters, norm statistics, and the mode of every module.

Works on parts, a mapping from stage name to its modules in the order of the input with `head` last, and knows no
architecture. A frozen stage has no gradients and stays in evaluation mode: its dropout is off and its running
statistics do not move (`requires_grad=False` alone does not freeze BatchNorm).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fttune.config.sections import Freeze
from fttune.errors import BadInput

Parts = Mapping[str, Sequence[nn.Module]]


@dataclass(frozen=True)
class Freezing:
    """Which parts train. Build it with `apply_policy`, and call `train_mode` wherever `module.train()` stood."""

    parts: Parts
    trained: tuple[str, ...]
    norm_stats: str

    def train_mode(self) -> None:
        """Put trained parts into training mode and frozen parts into evaluation mode, norms as the policy says."""
        for name, modules in self.parts.items():
            training = name in self.trained
            for module in modules:
                module.train(training)
                for norm in _norms(module):
                    norm.train({"frozen": training, "all_frozen": False, "updated": True}[self.norm_stats])

    def counts(self) -> tuple[int, int]:
        """Return the number of trained parameters and of all parameters."""
        sizes = {name: sum(p.numel() for p in _parameters(modules)) for name, modules in self.parts.items()}
        return sum(sizes[name] for name in self.trained), sum(sizes.values())

    def summary(self) -> str:
        """Return one line for people: `trainable 8.4M of 11.2M parameters: layer4, head`."""
        trained, total = self.counts()
        return f"trainable {_short(trained)} of {_short(total)} parameters: {', '.join(self.trained)}"


def apply_policy(parts: Parts, freeze: Freeze) -> Freezing:
    """Set `requires_grad` of every parameter and return the freezing in force.

    `freeze.unfrozen_stages` counts from the output, as torchvision's `trainable_backbone_layers` does: 0 trains the
    head alone, `all` every part. Detectron2's `FREEZE_AT` counts the other way, from the input.

    Raises:
        BadInput: there are not so many stages.
    """
    names = list(parts)
    stages = len(names) - 1
    depth = stages if freeze.unfrozen_stages == "all" else freeze.unfrozen_stages
    if depth > stages:
        raise BadInput(f"unfrozen_stages is {depth}, but there are {stages} stages (0..{stages})")
    trained = tuple(names[stages - depth :])
    for name, modules in parts.items():
        for parameter in _parameters(modules):
            parameter.requires_grad_(name in trained)
    return Freezing(parts, trained, freeze.norm_stats)


def _parameters(modules: Sequence[nn.Module]) -> Iterator[nn.Parameter]:
    return (parameter for module in modules for parameter in module.parameters())


def _norms(module: nn.Module) -> Iterator[nn.Module]:
    return (child for child in module.modules() if isinstance(child, _BatchNorm))


def _short(count: int) -> str:
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= size:
            return f"{count / size:.1f}{unit}"
    return str(count)
