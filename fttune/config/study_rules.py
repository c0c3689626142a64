"""Rules between the parts of a study, as generators of problems.

They take only what is valid by itself; a space is tried on the experiment at its ends and at the borders of its
conditions, and only where the conditions let a combination occur.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

from fttune.config import known
from fttune.config.conditions import ALTERNATIVES, holds, merged, silenced_by, sources
from fttune.config.distributions import Bounds, Categorical, Condition, Distribution, Float, Int, encoded, same
from fttune.config.experiment import Experiment
from fttune.config.fields import field_names, is_field, lies_in, touch, value_at
from fttune.config.grid import grid_size
from fttune.config.sections import OF_SCHEDULE, exact
from fttune.config.space import Point, Space
from fttune.errors import Problem

Distributions = Mapping[str, Distribution | None]
MAX_GRID = 10_000
MAX_COMBINATIONS = 1_000
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
    ("backbone", "freeze"),
    ("data.image_size", "data.resize"),
    ("optimizer.name", "optimizer.lr", "optimizer.elr", "optimizer.momentum", "optimizer.nesterov"),
    ("training.epochs", "training.warmup_epochs", "freeze.phases", "freeze.preset"),
    ("training.schedule", "training.warmup_epochs", *(f"training.{own}" for own in OF_SCHEDULE)),
)


def study_problems(
    *,
    space: Distributions,
    sampler: str | None,
    baselines: Sequence[Point],
    experiment: Experiment | None,
    given: Set[str],
) -> Iterator[Problem]:
    """Yield every broken rule between the parts of a study; None stands for a part that is broken by itself.

    `given` are the fields that the file states.
    """
    searched = None
    if "metrics" in given:
        yield from _several_objectives_fit(given, sampler)
    if experiment:
        names = {name: d for name, d in space.items() if d and not _not_searchable(name, type(experiment))}
        searched = Space(names, type(experiment), experiment.given())
    if sampler:
        yield from _sampler_fits(space, searched, sampler)
    yield from _baselines(baselines, space)
    if experiment and searched:
        conditions = {p.field: p for p in (*_conditions_fit(searched), *_alternatives(searched), *_overlaps(searched))}
        if not conditions:
            yield from _baselines_act(baselines, searched, sampler)
        refused = ((name, _not_searchable(name, type(experiment))) for name in space)
        yield from (Problem(f"space.{name}", reason) for name, reason in refused if reason)
        yield from conditions.values()
        if not conditions:
            yield from _space_fits(searched, experiment, broken=space.keys() - searched.distributions.keys())


def _several_objectives_fit(given: Set[str], sampler: str | None) -> Iterator[Problem]:
    for field in ("metric", "direction"):
        if field in given:
            yield Problem(field, "cannot stand beside metrics, the first of which it would be; leave it out")
    if sampler == "cmaes":
        yield Problem("sampler.type", "cmaes searches for one objective only, but there are metrics; use tpe")


def _sampler_fits(space: Distributions, searched: Space | None, sampler: str) -> Iterator[Problem]:
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
    elif sampler == "cmaes" and searched and searched.is_conditional:
        yield Problem(
            "sampler.type", "cmaes searches all its numbers in every trial, but this space has conditions; use tpe"
        )
    if sampler == "grid":
        yield from _grid_fits({name: d for name, d in space.items() if d}, searched)


def _grid_fits(space: Mapping[str, Distribution], searched: Space | None) -> Iterator[Problem]:
    size = grid_size(space)
    if size <= MAX_GRID:
        return
    largest = max(grid_size({name: distribution}) for name, distribution in space.items())
    if searched and largest <= MAX_GRID and searched.is_conditional:
        if next(itertools.islice(searched.grid(), MAX_GRID, None), None) is None:
            return
        yield Problem("space", f"the grid must have at most {MAX_GRID} points, got more")
    else:
        yield Problem("space", f"the grid must have at most {MAX_GRID} points, got {size}")


def _baselines(baselines: Sequence[Point], space: Distributions) -> Iterator[Problem]:
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


def _baselines_act(baselines: Sequence[Point], space: Space, sampler: str | None) -> Iterator[Problem]:
    """A baseline names all of a grid's fields, and no field that would not be asked."""
    for index, baseline in enumerate(baselines):
        field = f"baselines[{index}]"
        given: dict[str, Any] = {}
        undecided: set[str] = set()
        for name in space.order:
            parents = sorted(space.parents[name] & undecided)
            acts = space.acts(name, given)
            if name in baseline:
                given[name] = baseline[name]
                if parents:
                    yield Problem(f"{field}.{name}", f"acts or not with {parents[0]}; give a value for that too")
                elif not acts:
                    yield Problem(f"{field}.{name}", "cannot act beside the other values; leave it out")
            elif parents or acts:
                undecided.add(name)
                if sampler == "grid" and not parents:
                    rule = f"sampler grid needs a value for each field of the space; {name} is missing"
                    yield Problem(field, rule)
                    break


def _not_in(distribution: Distribution, value: Any) -> str | None:
    if isinstance(distribution, Categorical):
        found = any(same(choice, value) for choice in distribution.choices)
        return None if found else f"must be one of the choices {list(distribution.choices)}, got {known.shown(value)}"
    kinds = int if isinstance(distribution, Int) else int | float
    if not isinstance(value, kinds) or isinstance(value, bool):
        return f"must be a number of the space's type {distribution.type}, got {known.shown(value)}"
    if not distribution.low <= value <= distribution.high:
        return f"must be within {distribution.low}..{distribution.high}, got {value}"
    if distribution.step and (exact(value) - exact(distribution.low)) % exact(distribution.step):
        return f"must be low ({distribution.low}) plus a multiple of step ({distribution.step}), got {value}"
    return None


def _conditions_fit(space: Space) -> Iterator[Problem]:
    """Yield the conditions on what is no field, on themselves, in a circle, or that can never hold."""
    entries = [(name, field) for name, distribution in space.distributions.items() for field in distribution.when]
    wrong = [(name, field, reason) for name, field in entries if (reason := _no_condition(space, name, field))]
    yield from (Problem(f"space.{name}.when.{field}", reason) for name, field, reason in wrong)
    if wrong:
        return
    for name, field in entries:
        parents = [parent for parent in space.related(sources(field)) if parent != name]
        if back := next((parent for parent in parents if name in space.ancestors(parent)), None):
            rule = f"leads back: whether {back} acts depends on {name} itself"
            yield Problem(f"space.{name}.when.{field}", rule)
            return
    for name, distribution in space.distributions.items():
        never = [
            Problem(f"space.{name}.when.{field}", reason)
            for field, condition in distribution.when.items()
            if (reason := _never_holds(space, field, condition))
        ]
        yield from never
        if not never:
            yield from _never_acts(space, name)


def _no_condition(space: Space, name: str, field: str) -> str | None:
    if not is_field(space.model, field):
        return f"is not a field of the experiment{known.did_you_mean(field, field_names(space.model))}"
    if touch(name, field):
        return "a condition looks at other fields, not at its own"
    return None


def _never_holds(space: Space, field: str, condition: Condition) -> str | None:
    related = space.related(sources(field))
    points = list(itertools.islice(space.occurring(related), MAX_COMBINATIONS))
    trees = [merged(space.model, space.given, point) for point in points]
    if len(points) == MAX_COMBINATIONS or any(holds(space.model, tree, field, condition) for tree in trees):
        return None
    got = known.shown(condition.model_dump(exclude_none=True) if isinstance(condition, Bounds) else condition)
    if field in related:
        return f"can never hold within the space of {field}, got {got}"
    return f"can never hold: {field} is {known.shown(value_at(space.model, trees[0], field))}, got {got}"


def _never_acts(space: Space, name: str) -> Iterator[Problem]:
    points = list(itertools.islice(space.occurring([name]), MAX_COMBINATIONS))
    if len(points) == MAX_COMBINATIONS or any(name in point for point in points):
        return
    tree = merged(space.model, space.given, points[0])
    if because := silenced_by(space.model, tree, name):
        value = known.shown(value_at(space.model, tree, because))
        yield Problem(f"space.{name}", f"can never act, since {because} is {value}; take it out of the space")
    else:
        yield Problem(f"space.{name}.when", "these conditions can never hold together")


def _alternatives(space: Space) -> Iterator[Problem]:
    """Yield the parameters that would be set beside an alternative of theirs."""
    for group in ALTERNATIVES:
        members = [name for name in space.distributions if any(lies_in(name, field) for field in group)]
        for first, second in itertools.combinations(members, 2):
            if any(lies_in(first, field) and lies_in(second, field) for field in group):
                continue
            points = itertools.islice(space.occurring([first, second]), MAX_COMBINATIONS)
            if any(first in point and second in point for point in points):
                rule = f"only one of {first} and {second} can be set, but a trial may draw both; give one a when"
                yield Problem(f"space.{second}", rule)


def _overlaps(space: Space) -> Iterator[Problem]:
    """Yield the parameters that lie in another one: one of the two would replace the other, whatever a trial draws."""
    for outer, inner in itertools.permutations(space.distributions, 2):
        if lies_in(inner, outer) and outer not in space.parents[inner]:
            yield Problem(
                f"space.{inner}", f"lies in {outer}, which is searched too; take one of them out of the space"
            )


def _space_fits(space: Space, experiment: Experiment, *, broken: Set[str]) -> Iterator[Problem]:
    """Try the ends of every parameter on the experiment itself, all combinations of those that a rule joins."""
    found: dict[str, Problem] = {}
    for joined in _joined(space, broken):
        points = list(itertools.islice(space.occurring(joined), MAX_GRID))
        for point in points[:: math.ceil(len(points) / MAX_COMBINATIONS)]:
            for problem in _misfits(point, space, experiment):
                found.setdefault(problem.field, problem)
    yield from found.values()


def _joined(space: Space, broken: Set[str]) -> Iterator[list[str]]:
    """Yield the parts of a space that can be judged by themselves; a part with a broken parameter cannot.

    Parameters of one rule belong together, and so do a parameter and those that decide whether it acts.
    """
    names = [*space.distributions, *sorted(broken)]
    ties = [{name for name in names if any(lies_in(name, field) for field in row)} for row in _JOINED]
    ties += [{name, *space.parents[name]} for name in space.distributions]
    parts: list[set[str]] = []
    for tie in filter(None, ties):
        touched = [part for part in parts if not part.isdisjoint(tie)]
        parts = [part for part in parts if part.isdisjoint(tie)] + [tie.union(*touched)]
    yield from ([name for name in names if name in part] for part in parts if part.isdisjoint(broken))


def _misfits(point: Point, space: Space, experiment: Experiment) -> Iterator[Problem]:
    """Yield why these values are no recipe, at the end to blame: that field's, or the first that breaks it alone."""
    for problem in experiment.problems(point):
        field = next((name for name in point if lies_in(problem.field, name)), None)
        if field is not None:
            yield Problem(_end(field, point[field], space), problem.message)
        else:
            alone = (name for name, value in point.items() if experiment.problems({name: value}))
            culprit = next(alone, next(iter(point)))
            yield Problem(_end(culprit, point[culprit], space), f"{problem.field}: {problem.message}")


def _end(name: str, value: Any, space: Space) -> str:
    """Return the field of the study at which a parameter got a value."""
    distribution = space.distributions[name]
    if isinstance(distribution, Categorical):
        texts = [encoded(choice) for choice in distribution.choices]
        return f"space.{name}.choices[{texts.index(encoded(value))}]"
    ends = {distribution.high: ".high", distribution.low: ".low"}
    return f"space.{name}{ends.get(value, '')}"


def _not_searchable(name: str, model: type[Experiment]) -> str | None:
    if not is_field(model, name):
        return f"is not a field of the experiment{known.did_you_mean(name, field_names(model))}"
    if name in FIXED or name.startswith(FIXED_SECTIONS):
        return "must be the same for all trials of a study, or they could not be compared"
    return None
