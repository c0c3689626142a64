"""A model as fttune sees it: torchvision's own module, its stages by name, and a head for the task's classes."""

from dataclasses import dataclass

import torch
from torch import nn

from fttune.errors import WeightsError
from fttune.models.families import BY_NAME, Stage, build_module
from fttune.models.weights import Weights

_SHOWN = 10


@dataclass(frozen=True)
class Backbone:
    """`module` maps images (B, 3, H, W) to logits (B, classes); nothing wraps it, so its state dict is its own."""

    module: nn.Module
    stages: tuple[Stage, ...]
    head: str
    head_is_new: bool

    def parts(self) -> dict[str, dict[str, nn.Module | nn.Parameter]]:
        """Return stage name -> what belongs to it by dotted path, from the input to the output, and `head` last."""
        parts = {stage.name: stage.modules for stage in self.stages} | {"head": (self.head,)}
        return {name: {path: self.module.get_submodule(path) for path in paths} for name, paths in parts.items()}


def build_backbone(
    name: str, weights: Weights, *, classes: tuple[str, ...], seed: int, head_init: str = "auto"
) -> Backbone:
    """Return the named architecture with `weights` and a head for `classes`.

    Random parts come from `torch.manual_seed(seed)`, the new head from a second `torch.manual_seed(seed)`, so that
    it does not depend on the architecture's own initialisation. With `auto`, a head that the weights bring is kept when
    it has the right size and is not known to stand for other classes; `reset` never keeps it, `keep` insists.

    Raises:
        WeightsError: a tensor outside the head is missing, unknown or of another shape, or no head can be kept.
    """
    family = BY_NAME[name]
    with torch.random.fork_rng(devices=[]):
        # The CPU's generator alone: `torch.manual_seed` would also move the ones of accelerators.
        torch.default_generator.manual_seed(seed)
        module = build_module(name)
        torch.default_generator.manual_seed(seed)
        head = _new_head(module.get_submodule(family.head), len(classes))
    module.set_submodule(family.head, head)
    if weights.state is None:
        _require_kept(head_init, kept=False, weights=weights)
        return Backbone(module, family.stages, family.head, head_is_new=True)
    state = dict(weights.state)
    keep = head_init != "reset" and _head_fits(state, module, family.head) and weights.classes in (None, classes)
    _require_kept(head_init, kept=keep, weights=weights)
    if not keep:
        state = {key: tensor for key, tensor in state.items() if not key.startswith(f"{family.head}.")}
    _check(state, module, source=weights.name, ignore=None if keep else family.head)
    module.load_state_dict(state, strict=False)
    return Backbone(module, family.stages, family.head, head_is_new=not keep)


def _require_kept(head_init: str, *, kept: bool, weights: Weights) -> None:
    if head_init == "keep" and not kept:
        rule = "keep needs weights with a head for the same classes, which the weights"
        raise WeightsError(f"freeze.head.init: {rule} {weights.name} do not have; use auto or reset")


def _new_head(old: nn.Module, n_classes: int) -> nn.Linear:
    assert isinstance(old, nn.Linear), "every family's head is a Linear"
    return nn.Linear(old.in_features, n_classes)


def _head_fits(state: dict[str, torch.Tensor], module: nn.Module, head: str) -> bool:
    own = module.get_submodule(head).state_dict()
    return all(f"{head}.{key}" in state and state[f"{head}.{key}"].shape == own[key].shape for key in own)


def _check(state: dict[str, torch.Tensor], module: nn.Module, *, source: str, ignore: str | None) -> None:
    own = module.state_dict()
    # Files from before torch 0.4 have no `num_batches_tracked`; torch fills it in itself.
    needed = {key for key in own if not key.endswith("num_batches_tracked")}
    if ignore is not None:
        needed = {key for key in needed if not key.startswith(f"{ignore}.")}
    wrong = {
        "missing": sorted(needed - state.keys()),
        "unknown": sorted(state.keys() - own.keys()),
        "of another shape": [
            f"{key} {tuple(state[key].shape)}, not {tuple(own[key].shape)}"
            for key in sorted(own.keys() & state.keys())
            if state[key].shape != own[key].shape
        ],
    }
    lines = [f"  {what}: {_listed(keys)}" for what, keys in wrong.items() if keys]
    if lines:
        raise WeightsError("\n".join([f"the weights {source} do not fit the backbone:", *lines]))


def _listed(keys: list[str]) -> str:
    more = f", and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return ", ".join(keys[:_SHOWN]) + more
