"""How many stages train in the trials of a study, and how many stay frozen. Pure functions of its space."""

from collections.abc import Iterable
from typing import Any

from fttune.config import Study
from fttune.config.depth import DEPTH, resolved_depth
from fttune.config.distributions import Categorical, Float, Int


def boundaries(study: Study, stages: int) -> frozenset[int]:
    """Return how many stages may stay frozen in a study that searches `unfrozen_stages`."""
    return frozenset(stages - depth for depth in depths_of(study, stages) if depth < stages)


def depths_of(study: Study, stages: int) -> list[int]:
    """Return the numbers of unfrozen stages that a study's space holds, in ascending order; none where it has none."""
    depth = study.space.get(DEPTH)
    values: Iterable[Any] = ()
    if isinstance(depth, Int):
        values = range(depth.low, depth.high + 1, depth.step or 1)
    elif isinstance(depth, Categorical):
        values = depth.choices
    elif isinstance(depth, Float):
        values = range(resolved_depth(depth.low, stages), resolved_depth(depth.high, stages) + 1)
    return sorted({resolved_depth(value, stages) for value in values})
