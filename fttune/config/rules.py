"""Rules between the sections of an experiment, and between the parts of a study, as generators of problems.

They take only what is valid by itself, so that a file shows its broken fields and its contradictions together.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from pydantic import ValidationError

from fttune.config import known
from fttune.config.freeze import Freeze
from fttune.config.grid import grid_size
from fttune.config.policy import resolve
from fttune.config.sections import Categorical, Distribution, Float, Int, Scalar, exact
from fttune.errors import PolicyRefused, Problem

Space = Mapping[str, Distribution | None]
Point = Mapping[str, Any]
MAX_GRID = 10_000
MAX_COMBINATIONS = 1_000
MANY_EPOCHS = 100_000  # stands in for a broken number of epochs where lengths do not matter
FIXED = {
    "task",
    "data.source",
    "data.path",
    "data.classes",
    "data.limit_per_class",
    "data.on_bad_image",
    "training.device",
}
FIXED_SECTIONS = ("data.split.", "data.shift", "data.also_evaluate")
# Fields that a rule joins: whether a value of one is a recipe depends on the others, and on no more.
_JOINED = (
    ("backbone.name", "backbone.weights", "freeze.unfrozen_stages"),
    ("data.image_size", "data.resize"),
    ("optimizer.name", "optimizer.momentum", "optimizer.nesterov"),
    ("training.epochs", "training.warmup_epochs", "freeze.phases", "freeze.preset"),
    ("training.schedule", "training.warmup_epochs"),
    ("training.schedule", "training.step_epochs", "training.step_factor"),
    ("training.schedule", "training.power"),
    ("training.schedule", "training.plateau_factor", "training.plateau_patience_epochs"),
)


class Searchable(Protocol):
    """What the rules of a study need of an experiment."""

    def params(self) -> dict[str, Any]: ...
    def problems(self, values: Mapping[str, Any]) -> list[Problem]: ...


def experiment_problems(tree: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield every broken rule between sections; `tree` is nested as in the file, and may be incomplete or broken."""
    backbone, data, training = (_section(tree, name) for name in ("backbone", "data", "training"))
    name, epochs = backbone.get("name"), training.get("epochs")
    entry = known.backbones().get(name) if isinstance(name, str) else None
    freeze = _valid_freeze(_section(tree, "freeze"))
    length = epochs if isinstance(epochs, int) and epochs > 0 else MANY_EPOCHS
    if entry and freeze and (length is epochs or freeze.phases is None):
        try:
            resolve(freeze, entry.stages, epochs=length)
        except PolicyRefused as refused:
            yield Problem(refused.field, refused.rule)
    source, column = str(data.get("source")).partition(":")[0], _section(data, "split").get("group_by")
    if column is not None and source in ("digits", "folder", "torchvision"):
        rule = f"names a column of a CSV file, but the source is {source}, got {known.shown(column)}"
        yield Problem("data.split.group_by", rule)


def _section(tree: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = tree.get(name)
    return section if isinstance(section, Mapping) else {}


def _valid_freeze(section: Mapping[str, Any]) -> Freeze | None:
    """Return what is valid of the section."""
    try:
        return Freeze.model_validate(section)
    except ValidationError as error:
        broken = {item["loc"][0] for item in error.errors(include_url=False)}
        rest = {name: value for name, value in section.items() if name not in broken}
        return _valid_freeze(rest) if len(rest) < len(section) else None


def study_problems(
    *, space: Space, sampler: str | None, baselines: Sequence[Point], experiment: Searchable | None
) -> Iterator[Problem]:
    """Yield every broken rule between the parts of a study; None stands for a part that is broken by itself."""
    if sampler:
        yield from _sampler_fits(space, sampler)
    yield from _baselines(baselines, space, sampler)
    if experiment:
        yield from _space_fits(space, experiment)


def _sampler_fits(space: Space, sampler: str) -> Iterator[Problem]:
    for name, distribution in space.items():
        field = f"space.{name}"
        if isinstance(distribution, Categorical) and sampler == "cmaes":
            yield Problem(f"{field}.type", "cmaes searches numbers only; use tpe, or take this field out of the space")
        if isinstance(distribution, Float | Int) and sampler != "grid" and distribution.points is not None:
            rule = f"belongs to sampler grid, but the sampler is {sampler}, got {distribution.points}"
            yield Problem(f"{field}.points", rule)
        if isinstance(distribution, Float) and sampler == "grid" and not (distribution.points or distribution.step):
            yield Problem(f"{field}.points", "sampler grid needs points (or step) for a float")
    if sampler == "cmaes" and len(space) < 2:
        yield Problem("sampler.type", "cmaes searches at least two numbers together; use tpe for one")
    if sampler == "grid" and (size := grid_size({n: d for n, d in space.items() if d})) > MAX_GRID:
        yield Problem("space", f"the grid must have at most {MAX_GRID} points, got {size}")


def _baselines(baselines: Sequence[Point], space: Space, sampler: str | None) -> Iterator[Problem]:
    seen: dict[str, int] = {}
    for index, baseline in enumerate(baselines):
        field = f"baselines[{index}]"
        for name, value in baseline.items():
            if name not in space:
                yield Problem(f"{field}.{name}", f"is not in the space{known.did_you_mean(name, space)}")
            elif (distribution := space[name]) and (reason := _not_in(distribution, value)):
                yield Problem(f"{field}.{name}", reason)
        if (first := seen.setdefault(repr(sorted(baseline.items())), index)) != index:
            yield Problem(field, f"equals baselines[{first}]")
        if sampler == "grid" and (missing := [name for name in space if name not in baseline]):
            yield Problem(field, f"sampler grid needs a value for each field of the space; {missing[0]} is missing")


def _not_in(distribution: Distribution, value: Any) -> str | None:
    if isinstance(distribution, Categorical):
        same = [c for c in distribution.choices if c == value and isinstance(c, bool) == isinstance(value, bool)]
        return None if same else f"must be one of the choices {list(distribution.choices)}, got {known.shown(value)}"
    kinds = int if isinstance(distribution, Int) else int | float
    if not isinstance(value, kinds) or isinstance(value, bool):
        return f"must be a number of the space's type {distribution.type}, got {known.shown(value)}"
    if not distribution.low <= value <= distribution.high:
        return f"must be within {distribution.low}..{distribution.high}, got {value}"
    if distribution.step and (exact(value) - exact(distribution.low)) % exact(distribution.step):
        return f"must be low ({distribution.low}) plus a multiple of step ({distribution.step}), got {value}"
    return None


def _space_fits(space: Space, experiment: Searchable) -> Iterator[Problem]:
    """Try the ends of every parameter on the experiment itself, all combinations of those that a rule joins."""
    fields = experiment.params()
    refused = {name: reason for name in space if (reason := _not_searchable(name, fields))}
    found = {f"space.{name}": Problem(f"space.{name}", reason) for name, reason in refused.items()}
    for joined in _joined({name: distribution for name, distribution in space.items() if name not in refused}):
        ends = itertools.product(*(_ends(distribution) for distribution in joined.values()))
        for combination in itertools.islice(ends, MAX_COMBINATIONS):
            for problem in _misfits(dict(zip(joined, combination, strict=True)), experiment):
                found.setdefault(problem.field, problem)
    yield from found.values()


def _joined(space: Space) -> Iterator[Mapping[str, Distribution]]:
    """Yield the parts of a space that can be judged by themselves; a part with a broken parameter cannot."""
    alone = [(name,) for name in space if name not in itertools.chain(*_JOINED)]
    for names in (*_JOINED, *alone):
        part = {name: space[name] for name in names if name in space}
        whole = {name: distribution for name, distribution in part.items() if distribution}
        if whole and len(whole) == len(part):
            yield whole


def _ends(distribution: Distribution) -> list[tuple[str, Scalar]]:
    if isinstance(distribution, Categorical):
        return [(f"choices[{index}]", choice) for index, choice in enumerate(distribution.choices)]
    return [("low", distribution.low), ("high", distribution.high)]


def _misfits(ends: Mapping[str, tuple[str, Scalar]], experiment: Searchable) -> Iterator[Problem]:
    """Yield why these values are no recipe, at the end to blame: that field's, or the first that breaks it alone."""
    point = {name: value for name, (_, value) in ends.items()}
    for problem in experiment.problems(point):
        if problem.field in ends:
            yield Problem(f"space.{problem.field}.{ends[problem.field][0]}", problem.message)
        else:
            alone = (name for name, value in point.items() if experiment.problems({name: value}))
            culprit = next(alone, next(iter(point)))
            yield Problem(f"space.{culprit}.{ends[culprit][0]}", f"{problem.field}: {problem.message}")


def _not_searchable(name: str, fields: Mapping[str, Any]) -> str | None:
    if name not in fields:
        return f"is not a field of the experiment{known.did_you_mean(name, fields)}"
    if name in FIXED or name.startswith(FIXED_SECTIONS):
        return "must be the same for all trials of a study, or they could not be compared"
    return None
