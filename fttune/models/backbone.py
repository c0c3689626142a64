"""A model as fttune sees it: the architecture's own module, its stages by name, and a head for the task's classes."""

import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fttune.errors import BadInput, WeightsError, one_line
from fttune.models.architectures import Architecture, find_architecture
from fttune.models.cut import Cut, Stage, member
from fttune.models.files import reason
from fttune.models.weights import Weights

_SHOWN = 10


@dataclass(frozen=True)
class Outputs:
    """Logits (B, classes), and by stage the loss weight and logits of the auxiliary heads that train."""

    logits: Tensor
    auxiliary: Mapping[str, tuple[float, Tensor]] = field(default_factory=dict)


@dataclass(frozen=True)
class Backbone:
    """`module` maps images (B, 3, H, W) to logits (B, classes); nothing wraps it, so its state dict is its own."""

    name: str
    module: nn.Module
    cut: Cut
    head_is_new: bool

    @property
    def runnable(self) -> bool:
        """Whether `run_stage` and `run_head` are to be had; all else works without them."""
        return self.cut.runnable

    def parts(self) -> dict[str, dict[str, nn.Module | nn.Parameter]]:
        """Return stage name -> what belongs to it by dotted path, from the input to the output, and `head` last."""
        stages = (*self.cut.stages, self.cut.head)
        return {stage.name: {path: member(self.module, path) for path in stage.members} for stage in stages}

    def outputs(self, x: Tensor, *, after: int = 0) -> Outputs:
        """Return what the module makes of images (B, 3, H, W), with the auxiliary heads that are in training mode.

        With `after`, x is what its first so many stages have made of the images. An auxiliary head of a frozen stage
        is in evaluation mode and does not run.
        """
        if not self.cut.auxiliary and not after:
            return Outputs(self.module(x))
        auxiliary = {}
        branches = {aux.stage: aux for aux in self.cut.auxiliary}
        for stage in self.cut.stages[after:]:
            x = self._run(stage, x)
            if (aux := branches.get(stage.name)) and (branch := self.module.get_submodule(aux.path)).training:
                auxiliary[stage.name] = (aux.weight, branch(x))
        return Outputs(self.run_head(x), auxiliary)

    def run_stage(self, name: str, x: Tensor) -> Tensor:
        """Return the output of one stage; the first takes images, each other one its predecessor's output.

        All stages in order and then the head compute exactly what the module does in evaluation mode.

        Raises:
            KeyError: there is no such stage.
            ValueError: the backbone is not runnable by stages.
        """
        return self._run({stage.name: stage for stage in self.cut.stages}[name], x)

    def run_head(self, x: Tensor) -> Tensor:
        """Return the logits (B, classes) of the last stage's output. Raises ValueError as `run_stage`."""
        return self._run(self.cut.head, x)

    def runs_in_order(self, images: Tensor) -> bool:
        """Return whether the stages, one by one, compute on these images exactly what the module does, as it must be.

        A test of `stages` that somebody wrote for a model of their own; meaningful in evaluation mode.
        """
        x = images
        with torch.no_grad():
            for stage in self.cut.stages:
                x = self._run(stage, x)
            return torch.equal(self.run_head(x), self.module(images))

    def require_size(self, side: int) -> None:
        """Refuse images of a size that the module cannot take in its present mode. Raises BadInput.

        Runs on torch's meta device: it takes no memory and changes nothing.
        """
        whole = _Whole(self)
        meta = {
            name: tensor.detach().to("meta") for name, tensor in (*whole.named_parameters(), *whole.named_buffers())
        }
        try:
            with torch.no_grad():
                functional_call(whole, meta, (torch.empty(2, 3, side, side, device="meta"),))
        except (RuntimeError, AssertionError, ValueError, IndexError) as error:
            rule = f"which {self.name} cannot take with these weights ({reason(error)})"
            raise BadInput(f"data.image_size is {side}, {rule}; choose another") from error

    def _run(self, stage: Stage, x: Tensor) -> Tensor:
        if not self.runnable:
            raise ValueError(f"{self.name} cannot be run stage by stage")
        for step in stage.steps:
            x = self.module.get_submodule(step)(x) if isinstance(step, str) else step(self.module, x)
        return x


class _Whole(nn.Module):
    """A backbone's outputs as a module, for `functional_call`."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.module, self.backbone = backbone.module, backbone

    def forward(self, images: Tensor) -> Tensor:
        return self.backbone.outputs(images).logits


def build_backbone(
    architecture: str | Architecture,
    weights: Weights,
    *,
    classes: tuple[str, ...],
    seed: int,
    head_init: str = "auto",
) -> Backbone:
    """Return an architecture (or the one of that name, if it needs no plugin) with `weights` and a head for `classes`.

    Random parts come from `torch.manual_seed(seed)`, the new head from a second `torch.manual_seed(seed)`, so that
    it does not depend on the architecture's own initialisation; last layers of auxiliary heads follow. With `auto`, a
    head that the weights bring is kept when it has the right size and is not known to stand for other classes; `reset`
    never keeps it, `keep` insists.

    Raises:
        BadInput: there is no such architecture, or it cannot be cut.
        WeightsError: a tensor outside the head is missing, unknown or of another shape, or no head can be kept.
    """
    if isinstance(architecture, str):
        architecture = find_architecture(architecture)
    state = _renamed(weights.state or {}, architecture.renames)
    with torch.random.fork_rng(devices=[]):
        # The CPU's generator alone: `torch.manual_seed` would also move the ones of accelerators.
        torch.default_generator.manual_seed(seed)
        module = architecture.build(state)
        parts = architecture.cut(module)
        last_layers = [parts.head_path, *(aux.last_layer for aux in parts.auxiliary)]
        torch.default_generator.manual_seed(seed)
        for path in last_layers:
            module.set_submodule(path, _new_layer(module.get_submodule(path), len(classes)))
    if hasattr(module, "num_classes"):
        cast(Any, module).num_classes = len(classes)
    if weights.state is None:
        _require_kept(head_init, kept=False, weights=weights)
        return Backbone(architecture.name, module, parts, head_is_new=True)
    may_keep = head_init != "reset" and weights.classes in (None, classes)
    dropped = [path for path in last_layers if not (may_keep and _fits(state, module, path))]
    _require_kept(head_init, kept=parts.head_path not in dropped, weights=weights)
    state = {key: tensor for key, tensor in state.items() if not _within(key, dropped)}
    # torchvision's own pretrained models come without auxiliary heads, and so do files made from them.
    absent = [aux.path for aux in parts.auxiliary if not any(_within(key, [aux.path]) for key in state)]
    _check(state, module, source=weights.name, ignore=[*dropped, *absent])
    _load(module, state)
    return Backbone(architecture.name, module, parts, head_is_new=parts.head_path in dropped)


def _require_kept(head_init: str, *, kept: bool, weights: Weights) -> None:
    if head_init == "keep" and not kept:
        rule = "keep needs weights with a head for the same classes, which the weights"
        raise WeightsError(f"freeze.head.init: {rule} {weights.name} do not have; use auto or reset")


def _new_layer(old: nn.Module, outputs: int) -> nn.Module:
    if isinstance(old, nn.Conv2d):
        return nn.Conv2d(old.in_channels, outputs, old.kernel_size, bias=old.bias is not None)  # type: ignore[arg-type]
    assert isinstance(old, nn.Linear), "every head is a Linear or a Conv2d"
    return nn.Linear(old.in_features, outputs, bias=old.bias is not None)


def _renamed(state: Mapping[str, Tensor], renames: Mapping[str, str]) -> dict[str, Tensor]:
    for pattern, replacement in renames.items():
        state = {re.sub(pattern, replacement, key): tensor for key, tensor in state.items()}
    return dict(state)


def _load(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load with the module's own versions: some of torchvision's refuse a state dict that says none."""
    versioned = OrderedDict(state)
    versioned._metadata = module.state_dict()._metadata  # type: ignore[attr-defined]
    module.load_state_dict(versioned, strict=False)


def _fits(state: Mapping[str, Tensor], module: nn.Module, path: str) -> bool:
    own = module.get_submodule(path).state_dict()
    return all(f"{path}.{key}" in state and state[f"{path}.{key}"].shape == own[key].shape for key in own)


def _within(key: str, paths: list[str]) -> bool:
    return any(key.startswith(f"{path}.") for path in paths)


def _check(state: Mapping[str, Tensor], module: nn.Module, *, source: str, ignore: list[str]) -> None:
    own = module.state_dict()
    # Files from before torch 0.4 have no `num_batches_tracked`; torch fills it in itself.
    needed = {key for key in own if not key.endswith("num_batches_tracked") and not _within(key, ignore)}
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
        rule = f"the weights {source} do not fit the backbone; name weights of this backbone, or another backbone.name:"
        raise WeightsError("\n".join([rule, *lines]))


def _listed(keys: list[str]) -> str:
    more = f", and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return ", ".join(one_line(key) for key in keys[:_SHOWN]) + more
