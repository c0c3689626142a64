"""From a policy to what trains: parameters, norm statistics, and the mode of every module.

Works on parts, a mapping from stage name to what belongs to it, in the order of the input with `head` last: modules,
and parameters that lie in none of them, by their dotted path in the model. Knows no architecture. A frozen stage has
no gradients and stays in evaluation mode: its dropout is off and its running statistics do not move
(`requires_grad=False` alone does not freeze BatchNorm).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fttune.config.sections import Freeze
from fttune.errors import BadInput

Part = Mapping[str, nn.Module | nn.Parameter]
Parts = Mapping[str, Part]


@dataclass(frozen=True)
class Freezing:
    """Which parts train. Build it with `apply_policy`, and call `train_mode` wherever `module.train()` stood."""

    parts: Parts
    trained: tuple[str, ...]
    norm_stats: str

    def train_mode(self) -> None:
        """Put trained parts into training mode and frozen parts into evaluation mode, norms as the policy says."""
        for name, part in self.parts.items():
            training = name in self.trained
            for module in _modules(part):
                module.train(training)
                for norm in _norms(module):
                    norm.train({"frozen": training, "all_frozen": False, "updated": True}[self.norm_stats])

    def counts(self) -> tuple[int, int]:
        """Return the number of trained parameters and of all parameters."""
        sizes = {name: sum(p.numel() for _, p in named_parameters(part)) for name, part in self.parts.items()}
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
    for name, part in parts.items():
        for _, parameter in named_parameters(part):
            parameter.requires_grad_(name in trained)
    return Freezing(parts, trained, freeze.norm_stats)


def named_parameters(part: Part) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield a part's parameters with the names that the whole model gives them."""
    for path, member in part.items():
        if isinstance(member, nn.Parameter):
            yield path, member
        else:
            yield from member.named_parameters(path)


def _modules(part: Part) -> Iterator[nn.Module]:
    return (member for member in part.values() if isinstance(member, nn.Module))


def _norms(module: nn.Module) -> Iterator[nn.Module]:
    return (child for child in module.modules() if isinstance(child, _BatchNorm))


def _short(count: int) -> str:
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= size:
            return f"{count / size:.1f}{unit}"
    return str(count)
