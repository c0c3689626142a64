"""When a field acts: which fields exclude each other, which act only beside others, and conditions of a space.

The three tables below are the whole knowledge.
"""

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from fttune.config import known
from fttune.config.data import AUGMENTATIONS
from fttune.config.depth import DEPTH, is_depth, resolved_depth
from fttune.config.distributions import Bounds, Condition, same
from fttune.config.fields import Tree, lies_in, put, remove, stands_in, touch, value_at
from fttune.config.freeze import SELECTORS, Selection
from fttune.config.presets import PRESETS_WITH_K
from fttune.config.sections import OF_SCHEDULE

# Of each line at most one is given: setting one replaces the others.
ALTERNATIVES = (
    ("optimizer.lr", "optimizer.elr"),
    tuple(f"freeze.{selector}" for selector in SELECTORS),
    tuple(f"freeze.train.{form}" for form in Selection.model_fields),
)


@dataclass(frozen=True)
class Acts:
    """`fields`, and all below them, act only where each field of `only` has one of its values, and none of `never`."""

    fields: tuple[str, ...]
    only: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    never: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)


NOTHING_UNFROZEN = {
    DEPTH: (0,),
    "freeze.train": ("none", {"last": 0}, {"first": 0}),
    "freeze.preset": ("head_only",),
}
ACTS = (
    Acts(("optimizer.momentum", "optimizer.nesterov", "optimizer.elr"), only={"optimizer.name": ("sgd",)}),
    *(Acts((f"training.{own}",), only={"training.schedule": (owner,)}) for own, (owner, _) in OF_SCHEDULE.items()),
    Acts(("training.warmup_epochs",), never={"training.schedule": ("one_cycle",)}),
    Acts(("data.augment.kind",), never={"data.augment": AUGMENTATIONS}),  # it belongs to views
    Acts(("freeze.k",), only={"freeze.preset": PRESETS_WITH_K}),
    Acts(("freeze.layer_decay", "freeze.stage_lr", "freeze.penalty", "freeze.adapter"), never=NOTHING_UNFROZEN),
    Acts(("freeze.head.lr_mult",), never={"freeze.head.frozen": (True,)}),
)


def merged(model: type[BaseModel], given: Tree, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tree with other `values` at dotted fields.

    What is alternative to one of them goes, and what cannot act beside them, unless it is one of them.
    """
    tree = copy.deepcopy(dict(given))
    drop_alternatives(tree, values)
    for dotted, value in values.items():
        put(tree, dotted, copy.deepcopy(value))
    for acts in ACTS if values else ():
        for dotted in acts.fields:
            if not stands_in(tree, dotted) or any(touch(dotted, name) for name in values):
                continue
            if silenced_by(model, tree, dotted):
                remove(tree, dotted)
    return tree


def drop_alternatives(tree: dict[str, Any], names: Iterable[str]) -> None:
    """Take out of a tree what is alternative to one of the dotted fields `names`."""
    for name in names:
        for other in alternatives_of(name):
            if not any(lies_in(given, other) for given in names):
                remove(tree, other)


def alternatives_of(name: str) -> Iterator[str]:
    """Yield the fields that `name`, or what it lies in, replaces."""
    for group in ALTERNATIVES:
        mine = [member for member in group if lies_in(name, member)]
        yield from (member for member in group if mine and member not in mine)


def silenced_by(model: type[BaseModel], tree: Tree, name: str) -> str | None:
    """Return the field because of which `name` cannot act in a recipe, None where it acts."""
    for acts in _acts_of(name):
        for other, values in acts.only.items():
            if not holds(model, tree, other, values):
                return other
        for other, values in acts.never.items():
            if holds(model, tree, other, values):
                return other
    return None


def depends_on(name: str) -> set[str]:
    """Return the fields that decide whether `name` acts, and those that decide about these."""
    direct = {other for acts in _acts_of(name) for other in (*acts.only, *acts.never)}
    return direct.union(*map(sources, direct))


def sources(name: str) -> set[str]:
    """Return all fields that decide what a condition on `name` sees: itself, its alternatives, and so on."""
    backbone = {"backbone.name"} if name == DEPTH else set()  # a share of its stages
    return {name, *alternatives_of(name), *backbone} | depends_on(name)


def holds(model: type[BaseModel], tree: Tree, name: str, condition: Condition) -> bool:
    """Return whether a recipe meets a condition on one of its fields; depths are compared as counts of stages."""
    value = _comparable(model, tree, name, value_at(model, tree, name))
    if isinstance(condition, Bounds):
        low = float("-inf") if condition.min is None else condition.min
        high = float("inf") if condition.max is None else condition.max
        return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
    wanted = condition if isinstance(condition, tuple) else (condition,)
    return value is not None and any(same(value, _comparable(model, tree, name, one)) for one in wanted)


def _comparable(model: type[BaseModel], tree: Tree, name: str, value: Any) -> Any:
    if name != DEPTH or not is_depth(value):
        return value
    entry = known.backbones().get(str(value_at(model, tree, "backbone.name")))
    if entry is None:
        return float("inf") if value == "all" else value
    return resolved_depth(value, len(entry.stages))


def _acts_of(name: str) -> Iterator[Acts]:
    return (acts for acts in ACTS if any(lies_in(name, covered) for covered in acts.fields))
