"""The space of a study: which of its parameters act at a point, in which order they are drawn, and its grid.

A point holds a value for each parameter that acts, and for no other. Knows the schema of the experiment and what its
file gives, but no rule of the experiment itself.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pydantic import BaseModel

from fttune.config.conditions import depends_on, holds, merged, silenced_by, sources
from fttune.config.distributions import Bounds, Categorical, Condition, Distribution, Int
from fttune.config.fields import Tree, touch
from fttune.config.grid import grid_values, snapped

Point = Mapping[str, Any]
MAX_COMBINATIONS = 10_000


@dataclass(frozen=True)
class Space:
    """`distributions` by dotted field, in the order of the file; `given` is the experiment's file, nested."""

    distributions: Mapping[str, Distribution]
    model: type[BaseModel]
    given: Tree

    def acts(self, name: str, point: Point) -> bool:
        """Return whether a parameter acts at a point that holds all of its parents that act."""
        return self._acts(name, point) if self.parents[name] else name in self._constant

    @cached_property
    def _constant(self) -> frozenset[str]:
        """The parameters that act at every point."""
        return frozenset(name for name in self.distributions if not self.parents[name] and self._acts(name, {}))

    def _acts(self, name: str, point: Point) -> bool:
        when = self.distributions[name].when
        tree = merged(self.model, self.given, {n: value for n, value in point.items() if n in self.parents[name]})
        met = all(holds(self.model, tree, field, condition) for field, condition in when.items())
        return met and silenced_by(self.model, tree, name) is None

    def draw(self, value_of: Callable[[str, Distribution], Any]) -> dict[str, Any]:
        """Return a point: each parameter that acts, drawn in order by `value_of`."""
        point: dict[str, Any] = {}
        for name in self.order:
            if self.acts(name, point):
                point[name] = value_of(name, self.distributions[name])
        return point

    def grid(self) -> Iterator[dict[str, Any]]:
        """Yield every point of the grid once, the last parameter varying fastest."""
        return self._points(self.order, {name: grid_values(d) for name, d in self.distributions.items()})

    def occurring(self, names: Iterable[str]) -> Iterator[dict[str, Any]]:
        """Yield points over some parameters and those that decide about them, at the values that make a difference."""
        wanted = set(names).union(*(self.ancestors(name) for name in names))
        order = [name for name in self.order if name in wanted]
        return self._points(order, {name: self.candidates(name) for name in order})

    @cached_property
    def order(self) -> tuple[str, ...]:
        """The parameters, parents before children, else as in the file; a cycle's come last."""
        waiting = list(self.distributions)
        ordered: list[str] = []
        while waiting:
            free = (name for name in waiting if not self.parents[name] & set(waiting))
            ordered.append(following := next(free, waiting[0]))
            waiting.remove(following)
        return tuple(ordered)

    @cached_property
    def parents(self) -> Mapping[str, frozenset[str]]:
        """For each parameter, those that decide whether it acts."""
        found = {}
        for name, distribution in self.distributions.items():
            fields = depends_on(name).union(*(sources(field) for field in distribution.when))
            found[name] = frozenset(other for other in self.related(fields) if other != name)
        return found

    def related(self, fields: Iterable[str]) -> list[str]:
        """Return the parameters that are one of some fields, or lie in one or around one."""
        fields = list(fields)
        return [name for name in self.distributions if any(touch(name, field) for field in fields)]

    def ancestors(self, name: str) -> set[str]:
        """Return a parameter's parents, theirs, and so on; on a cycle, itself too."""
        found: set[str] = set()
        waiting = [*self.parents[name]]
        while waiting:
            if (parent := waiting.pop()) not in found:
                found.add(parent)
                waiting += self.parents[parent]
        return found

    @cached_property
    def is_conditional(self) -> bool:
        """Whether there is a point at which a parameter does not act."""
        return any(
            name not in point
            for name in self.distributions
            if self.parents[name]
            for point in itertools.islice(self.occurring([name]), MAX_COMBINATIONS)
        )

    def candidates(self, name: str) -> list[Any]:
        """Return the values of a parameter that matter: choices, ends, borders of conditions and what lies between."""
        distribution = self.distributions[name]
        if isinstance(distribution, Categorical):
            return list(distribution.choices)
        borders = [border for condition in self._conditions_on(name) for border in _borders(condition)]
        values = {distribution.low, distribution.high, *(v for b in borders for v in snapped(distribution, b))}
        if borders and not isinstance(distribution, Int):
            inner = sorted(values)
            values |= {v for a, b in itertools.pairwise(inner) for v in snapped(distribution, (a + b) / 2)}
        if borders and isinstance(distribution, Int):
            values |= {v for b in borders for side in (b - 1, b + 1) for v in snapped(distribution, side)}
        ends = [distribution.low, distribution.high]
        return list(dict.fromkeys([*ends, *sorted(values)]))

    def _conditions_on(self, name: str) -> Iterator[Condition]:
        for distribution in self.distributions.values():
            yield from (condition for field, condition in distribution.when.items() if field == name)

    def _points(self, order: Iterable[str], values: Mapping[str, list[Any]]) -> Iterator[dict[str, Any]]:
        names = tuple(order)

        def after(point: dict[str, Any], position: int) -> Iterator[dict[str, Any]]:
            if position == len(names):
                yield point
            elif self.acts(names[position], point):
                for value in values[names[position]]:
                    yield from after({**point, names[position]: value}, position + 1)
            else:
                yield from after(point, position + 1)

        return after({}, 0)


def _borders(condition: Condition) -> list[float]:
    if isinstance(condition, Bounds):
        return [border for border in (condition.min, condition.max) if border is not None]
    values = condition if isinstance(condition, tuple) else (condition,)
    return [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
