"""The points of a grid: exact at both ends, and counted before they are made."""

import math
from collections.abc import Mapping

from fttune.config.distributions import Categorical, Distribution, Float, Int, Scalar
from fttune.config.sections import exact


def grid_values(distribution: Distribution) -> list[Scalar]:
    """Return the grid's values of one parameter: its choices, its steps, or `points` even ones (on a log axis if log).

    Values that rounding makes equal stand once. A float without `points` and `step` has none.
    """
    if isinstance(distribution, Categorical):
        return list(distribution.choices)
    if distribution.points is not None:
        values = _even(distribution, distribution.points)
        return list(dict.fromkeys(map(round, values) if isinstance(distribution, Int) else values))
    if isinstance(distribution, Int):
        return list(range(distribution.low, distribution.high + 1, distribution.step or 1))
    if distribution.step is None:
        return []
    low, step = exact(distribution.low), exact(distribution.step)
    return [float(low + i * step) for i in range(_count(distribution))]


def grid_size(space: Mapping[str, Distribution]) -> int:
    """Return the number of points of a space's grid (at most: rounding can join some), without making them."""
    return math.prod(_count(distribution) for distribution in space.values())


def _count(distribution: Distribution) -> int:
    if isinstance(distribution, Categorical):
        return len(distribution.choices)
    if distribution.points is not None:
        return distribution.points
    if isinstance(distribution, Float) and distribution.step is None:
        return 0
    return int((exact(distribution.high) - exact(distribution.low)) // exact(distribution.step or 1)) + 1


def _even(distribution: Float | Int, points: int) -> list[float]:
    """Return `points` values from low to high, even on the distribution's axis; neither end is computed."""
    low, high = distribution.low, distribution.high
    inner = []
    for i in range(1, points - 1):
        share = i / (points - 1)
        if distribution.log:
            value = math.exp((1 - share) * math.log(low) + share * math.log(high))
        else:
            value = (1 - share) * low + share * high
        inner.append(min(max(float(f"{value:.12g}"), low), high))  # 0.001, not 0.0010000000000000002
    return [low, *inner, high][:points] if low < high else [low]


def snapped(distribution: Float | Int, value: float) -> list[float]:
    """Return the members of a range next to `value`: itself, or those below and above it that are within the range."""
    low, high = exact(distribution.low), exact(distribution.high)
    step = exact(distribution.step or 1) if isinstance(distribution, Int) or distribution.step else None
    if step is None:
        return [float(value)] if low <= exact(value) <= high else []
    below = low + (exact(value) - low) // step * step
    sides = {below, below if below == exact(value) else below + step}
    kind = int if isinstance(distribution, Int) else float
    return [kind(side) for side in sorted(sides) if low <= side <= high]
