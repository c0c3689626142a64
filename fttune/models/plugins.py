"""Own models: modules that say themselves how they are cut, and files on the command line that build them.

A module of one's own carries `stages`, a mapping of stage names to lists of dotted paths in the order in which the
input passes them (a function of the module and the activations may stand between), and `head`, the dotted path of its
last Linear or Conv2d. A plugin file defines `BACKBONES = {"mynet": build_function}`; it is run only because the command
line names it.
"""

import hashlib
import re
import runpy
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from torch import nn

from fttune.config.known import one_of, shown
from fttune.config.sections import NAME
from fttune.errors import BadInput
from fttune.models.cut import Cut, cut, require_whole

PREFIX = "plugin:"
_REMEDY = "stages = {'stem': ['conv1', ...], ...} and head = 'fc'"


def cut_by_attributes(module: nn.Module, *, name: str) -> Cut:
    """Return the parts that a module of one's own declares. Raises BadInput with what is wrong about them."""
    stages, head = getattr(module, "stages", None), getattr(module, "head", None)
    if not isinstance(stages, Mapping) or not stages or not isinstance(head, str):
        raise BadInput(f"backbone {name}: the module must carry {_REMEDY}, got {shown(stages)} and {shown(head)}")
    for stage, steps in stages.items():
        if not isinstance(stage, str) or not re.fullmatch(NAME, stage) or stage == "head":
            raise BadInput(f"backbone {name}: {shown(stage)} is no name for a stage; use letters, digits, _ . or -")
        if not isinstance(steps, list | tuple) or not all(isinstance(step, str) or callable(step) for step in steps):
            raise BadInput(f"backbone {name}: stage {stage} must be a list of dotted paths, got {shown(steps)}")
    try:
        parts = cut(module, stages, head=(head,))
        last = module.get_submodule(head)
        require_whole(module, parts, name=name)
    except AttributeError as error:
        raise BadInput(f"backbone {name}: its stages or head name what it does not have ({error})") from error
    if not isinstance(last, nn.Linear | nn.Conv2d):
        raise BadInput(f"backbone {name}: head must be a Linear or Conv2d, got {type(last).__name__} at {head}")
    return parts


def load_plugins(files: Iterable[Path]) -> dict[str, tuple[Callable[[], object], str]]:
    """Run plugin files; return name -> the function that builds it, and the sha256 of its file.

    Raises:
        BadInput: a file cannot be run, has no such table, or a name stands twice.
    """
    found: dict[str, tuple[Callable[[], object], str]] = {}
    for file in files:
        for name, build in _table(file).items():
            if not isinstance(name, str) or not re.fullmatch(NAME, name) or not callable(build):
                raise BadInput(f"{file}: BACKBONES must map names to functions, got {shown(name)}: {shown(build)}")
            if name in found:
                raise BadInput(f"{file}: the backbone {name} stands in two plugins; rename one")
            found[name] = (build, hashlib.sha256(file.read_bytes()).hexdigest())
    return found


def find_plugin(name: str, files: Iterable[Path]) -> tuple[Callable[[], object], str]:
    """Return what `plugin:<name>` stands for. Raises BadInput."""
    found = load_plugins(files)
    if not found:
        raise BadInput(f"backbone.name: {PREFIX}{name} needs its file: add --plugin FILE.py")
    if name not in found:
        raise BadInput(f"backbone.name: {PREFIX}<name> {one_of(name, found)}")
    return found[name]


def built(build: Callable[[], object], *, name: str) -> nn.Module:
    """Return what a plugin's function builds. Raises BadInput when it fails, or it is no module."""
    try:
        module = build()
    except Exception as error:  # foreign code may raise anything
        raise BadInput(f"backbone {PREFIX}{name}: its function failed: {type(error).__name__}: {error}") from error
    if not isinstance(module, nn.Module):
        raise BadInput(f"backbone {PREFIX}{name}: its function must return a torch.nn.Module, got {shown(module)}")
    return module


def _table(file: Path) -> Mapping[object, object]:
    try:
        table = runpy.run_path(str(file)).get("BACKBONES")
    except Exception as error:  # foreign code may raise anything
        raise BadInput(f"{file}: cannot be run as a plugin: {type(error).__name__}: {error}") from error
    if not isinstance(table, Mapping) or not table:
        raise BadInput(f'{file}: must define BACKBONES = {{"mynet": build_function}}, got {shown(table)}')
    return table
