"""Apply one phase of a policy to a model: which parameters have gradients, which modules are in training mode.

Works on parts, a mapping from stage name to what belongs to it, in the order of the input with `head` last: modules,
and parameters that lie in none of them, by their dotted path in the model. A part in which nothing trains stays in
evaluation mode: its dropout is off and its running statistics do not move (`requires_grad=False` alone does not freeze
BatchNorm).
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from fttune.config.freeze import Freeze
from fttune.config.policy import PhasePlan, Policy, resolve
from fttune.errors import PolicyRefused
from fttune.freezing.lora import is_adapter

Part = Mapping[str, nn.Module | nn.Parameter]
Parts = Mapping[str, Part]
Trained = Mapping[str, list[tuple[str, nn.Parameter]]]
HEAD = "head"
NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


@dataclass(frozen=True)
class Freezing:
    """Which parts train, and in them which parameters by name. Call `train_mode` wherever `module.train()` stood."""

    parts: Parts
    names: frozenset[str]
    norm_stats: str

    @property
    def trained(self) -> tuple[str, ...]:
        """The parts in which something trains, from the input to the output."""
        return tuple(self.members)

    @cached_property
    def members(self) -> Trained:
        """Part name -> its parameters that train, with their names; parts without any are left out."""
        parts = {
            part: [(name, p) for name, p in named_parameters(members) if name in self.names]
            for part, members in self.parts.items()
        }
        return {part: members for part, members in parts.items() if members}

    def train_mode(self) -> None:
        """Put trained parts into training mode and frozen parts into evaluation mode, norms as the policy says."""
        trained = self.trained
        for name, part in self.parts.items():
            training = name in trained
            for module in _modules(part):
                module.train(training)
                if self.norm_stats != "frozen":
                    for norm in _running_norms(module):
                        norm.train(self.norm_stats == "updated")

    def counts(self) -> tuple[int, int]:
        """Return the number of trained parameters and of all parameters."""
        sizes = {path: p.numel() for part in self.parts.values() for path, p in named_parameters(part)}
        return sum(sizes[path] for path in self.names), sum(sizes.values())

    def summary(self) -> str:
        """Return one line for people: `trainable 8.4M of 11.2M parameters: layer4, head`."""
        trained, total = self.counts()
        return f"trainable {_short(trained)} of {_short(total)} parameters: {', '.join(self.trained)}"


def apply_policy(parts: Parts, freeze: Freeze, *, epochs: int = 1) -> Freezing:
    """Set what trains at the beginning of a run of `epochs` and return it.

    Raises:
        PolicyRefused: the stages, or the names of the parameters, contradict the policy.
    """
    policy = resolve(freeze, [name for name in parts if name != HEAD], epochs=epochs)
    return apply_phase(parts, policy, policy.phases[0])


def apply_phase(parts: Parts, policy: Policy, phase: PhasePlan) -> Freezing:
    """Set `requires_grad` of every parameter as a phase says, and return the freezing in force."""
    names = trained_names(parts, policy, phase)
    for part in parts.values():
        for path, parameter in named_parameters(part):
            parameter.requires_grad_(path in names)
    return Freezing(parts, names, policy.norm_stats)


def trained_names(parts: Parts, policy: Policy, phase: PhasePlan) -> frozenset[str]:
    """Return the names of the parameters that train in a phase.

    Raises:
        PolicyRefused: a choice of parameters fits none in the stages.
    """
    inside = [member for stage in phase.stages for member in named_parameters(parts[stage])]
    kind, value = phase.only
    if kind == "params":
        chosen = _norm_names(parts, phase) if value == "norm" else {n for n, _ in inside if n.endswith("bias")}
    elif kind == "regex":
        chosen = {name for name, _ in inside if re.search(value, name)}
    else:
        chosen = {name for name, _ in inside if is_adapter(name) or policy.lora is None}
    if kind != "all" and not chosen:
        example = ", ".join(name for name, _ in inside[:3])
        raise PolicyRefused(f"freeze.train.{kind}", f"{value!r} fits no parameter of the stages, such as {example}")
    head = set() if policy.head.frozen else {name for name, _ in named_parameters(parts[HEAD])}
    return frozenset(chosen | head)


def named_parameters(part: Part) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield a part's parameters with the names that the whole model gives them."""
    for path, member in part.items():
        if isinstance(member, nn.Parameter):
            yield path, member
        else:
            yield from member.named_parameters(path)


def has_running_norms(part: Part) -> bool:
    """Return whether a part has norm layers that keep running statistics."""
    return any(True for module in _modules(part) for _ in _running_norms(module))


def named_tensors(part: Part) -> Iterator[tuple[str, Tensor]]:
    """Yield a part's parameters and buffers with the names that the whole model gives them."""
    yield from named_parameters(part)
    for path, member in part.items():
        if isinstance(member, nn.Module):
            yield from member.named_buffers(path)


def _norm_names(parts: Parts, phase: PhasePlan) -> set[str]:
    members = [member for stage in phase.stages for member in parts[stage].items()]
    norms = [
        (f"{path}.{name}" if name else path, norm)
        for path, module in members
        if isinstance(module, nn.Module)
        for name, norm in module.named_modules()
        if isinstance(norm, NORMS)
    ]
    return {name for path, norm in norms for name, _ in norm.named_parameters(path)}


def _modules(part: Part) -> Iterator[nn.Module]:
    return (member for member in part.values() if isinstance(member, nn.Module))


def _running_norms(module: nn.Module) -> Iterator[nn.Module]:
    return (child for child in module.modules() if isinstance(child, _BatchNorm))


def _short(count: int) -> str:
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= size:
            return f"{count / size:.1f}{unit}"
    return str(count)
