"""A backbone's name to its architecture: how to build it, and how it is cut. Holds no weights."""

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from fttune.config import known
from fttune.errors import BadInput
from fttune.models import plugins, timm_models
from fttune.models.cut import Cut, cut
from fttune.models.families import BY_NAME, State, build_module
from fttune.models.preprocessing import Preprocessing


@dataclass(frozen=True)
class Architecture:
    """How to build and cut a backbone.

    `build(state)` returns the module that `state` fits (empty: the default), with random weights from torch's global
    generator and its original head. `renames` lead from names in published files to the module's own. `identity` is
    what a study must remember of it beyond its name: the content of a plugin.
    """

    name: str
    build: Callable[[State], nn.Module]
    cut: Callable[[nn.Module], Cut]
    renames: Mapping[str, str] = field(default_factory=dict)
    identity: str = ""

    def stages(self) -> tuple[str, ...]:
        """Return the names of its stages, from the input to the output. Raises BadInput when it cannot be cut."""
        if self.name in known.backbones():
            return known.backbones()[self.name].stages
        return tuple(stage.name for stage in self.parts().stages)

    def parts(self) -> Cut:
        """Return how it is cut, with as little work as possible. Raises BadInput."""
        return self.cut(self.sketch())

    def sketch(self) -> nn.Module:
        """Return the module for its names and shapes alone, without storage unless it is somebody's own."""
        with torch.random.fork_rng(devices=[]):
            if self.name.startswith(plugins.PREFIX):
                return self.build({})
            with _WithoutStorage():
                return self.build({})


class _WithoutStorage(TorchFunctionMode):
    """Parameters that layers allocate have no memory. (`torch.device("meta")` also hits what builders compute with.)"""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.empty and kwargs.get("device") is None:
            kwargs = {**kwargs, "device": "meta"}
        return func(*args, **kwargs)


def find_architecture(name: str, plugin_files: Iterable[Path] = ()) -> Architecture:
    """Return what a configuration's `backbone.name` stands for; `plugin_files` are those of the command line.

    Raises:
        BadInput: there is no such backbone, timm is not installed, or a plugin is missing or broken.
    """
    if name.startswith(timm_models.PREFIX):
        own = name.removeprefix(timm_models.PREFIX)
        timm_models.require_known(own)
        return Architecture(name, lambda _: timm_models.build(own), lambda m: timm_models.cut_by_groups(m, name=own))
    if name.startswith(plugins.PREFIX):
        own = name.removeprefix(plugins.PREFIX)
        build, sha256 = plugins.find_plugin(own, plugin_files)
        return Architecture(
            name,
            lambda _: plugins.built(build, name=own),
            lambda module: plugins.cut_by_attributes(module, name=name),
            identity=f"plugin sha256:{sha256}",
        )
    if name not in BY_NAME:
        raise BadInput(f"backbone.name: {known.one_of(name, BY_NAME)}")
    family = BY_NAME[name]
    return Architecture(
        name,
        lambda state: build_module(name, state),
        lambda module: cut(module, family.stages, head=family.head, auxiliary=family.auxiliary),
        family.renames,
    )


def architecture_of(module: nn.Module) -> Architecture:
    """Return the architecture of a module of one's own, which carries `stages` and `head`; it is copied, not changed.

    Raises:
        BadInput: its stages or head are missing or wrong.
    """
    name = f"{plugins.PREFIX}{type(module).__name__.lstrip('_') or 'module'}"
    plugins.cut_by_attributes(module, name=name)
    return Architecture(
        name, lambda _: copy.deepcopy(module), lambda built: plugins.cut_by_attributes(built, name=name)
    )


def default_preprocessing(name: str) -> Preprocessing:
    """Return what images looked like to weights of this name that say nothing about it themselves."""
    if name.startswith(timm_models.PREFIX):
        return timm_models.preprocessing(name.removeprefix(timm_models.PREFIX))
    statistics = BY_NAME[name].statistics if name in BY_NAME else None
    if statistics is None:
        return Preprocessing()
    mean, std = statistics
    return Preprocessing(mean=(mean,) * 3, std=(std,) * 3)
