"""The best learning rate at each depth, from trials that lie anywhere: a smoothed surface, and its ridge.

Smoothing is kernel regression (Nadaraya 1964, Watson 1964) over log10 lr, each depth by itself; how sure the ridge is
comes from drawing the trials of a depth anew (bootstrap).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fttune.report.findings import Findings

Floats = npt.NDArray[np.float64]
COLUMNS = 60
FEWEST, FEWEST_RATES = 5, 3  # trials of a depth with a ridge, and different lr among them
RESAMPLES = 200
INSIDE = (10, 90)  # percentiles of the resampled ridge that are its interval
REACH = 1.5  # bandwidths from the nearest trial within which the surface says anything
NARROWEST, WIDEST = 0.08, 0.35  # decades; within the latter a rate makes a difference


@dataclass(frozen=True)
class Ridge:
    """The lr at which the smoothed value of a depth is best; 80 % of resamples have it within `low` .. `high`."""

    depth: str
    lr: float
    low: float
    high: float
    trials: int


@dataclass(frozen=True)
class Surface:
    """The smoothed value (D, G) at each depth and lr; NaN where no trial is near. `ridges` has the depths with one."""

    depths: tuple[str, ...]
    lrs: Floats
    values: Floats
    ridges: tuple[Ridge, ...]


def surface_of(findings: Findings) -> Surface | None:
    """Return the surface of a study, None where the complete trials share one lr or none has any."""
    rates = [row.setting.lr for row in findings.observed if row.setting.lr]
    if len(set(rates)) < 2:
        return None
    grid = np.linspace(np.log10(min(rates)), np.log10(max(rates)), COLUMNS)
    values = np.full((len(findings.depths), COLUMNS), np.nan)
    ridges = []
    for index, depth in enumerate(findings.depths):
        pairs = [(row.setting.lr, row.value) for row in findings.at_depth(depth) if row.setting.lr]
        if not pairs:
            continue
        x, y = np.log10([lr for lr, _ in pairs]), np.array([value for _, value in pairs], dtype=float)
        weights = _kernel(grid, x)
        values[index] = np.where(_is_near(grid, x), _smooth(weights, y), np.nan)
        if len(x) >= FEWEST and len(set(x)) >= FEWEST_RATES:
            ridges.append(_ridge(depth, grid, x, y, maximize=findings.maximize))
    return Surface(findings.depths, 10**grid, values, tuple(ridges))


def trend(ridges: Sequence[Ridge]) -> str:
    """Return whether the best lr falls or rises with depth, or shows no clear trend: its intervals overlap."""
    if len(ridges) < 2:
        return "unknown"
    first, last = ridges[0], ridges[-1]
    if last.high < first.low:
        return "falls"
    return "rises" if last.low > first.high else "no clear trend"


def _ridge(depth: str, grid: Floats, x: Floats, y: Floats, *, maximize: bool) -> Ridge:
    generator = np.random.default_rng(0)
    weights = _kernel(grid, x)
    draws = generator.multinomial(len(x), np.full(len(x), 1 / len(x)), RESAMPLES)  # (R, N)
    resampled = np.stack([_best(weights * draw, y, grid, x[draw > 0], maximize=maximize) for draw in draws])
    low, high = np.percentile(resampled, INSIDE)
    lr = _best(weights, y, grid, x, maximize=maximize)
    return Ridge(depth, 10**lr, 10 ** min(low, lr), 10 ** max(high, lr), len(x))


def _best(weights: Floats, y: Floats, grid: Floats, x: Floats, *, maximize: bool) -> float:
    smoothed = np.where(_is_near(grid, x), _smooth(weights, y), np.nan)
    return float(grid[np.nanargmax(smoothed if maximize else -smoothed)])


def _smooth(weights: Floats, y: Floats) -> Floats:
    """Return the weighted means (G,) of values; of losses that span decades, the geometric ones."""
    in_decades = bool((y > 0).all() and y.max() > 100 * y.min())
    means = np.full(len(weights), np.nan)
    np.divide(weights @ (np.log(y) if in_decades else y), weights.sum(1), out=means, where=weights.sum(1) > 0)
    return np.asarray(np.exp(means) if in_decades else means, dtype=float)


def _kernel(grid: Floats, x: Floats) -> Floats:
    """Return the weight (G, N) of each trial at each point."""
    weights: Floats = np.exp(-0.5 * ((grid[:, None] - x[None, :]) / _bandwidth(x)) ** 2)
    return weights


def _is_near(grid: Floats, x: Floats) -> npt.NDArray[np.bool_]:
    near: npt.NDArray[np.bool_] = np.abs(grid[:, None] - x[None, :]).min(1) <= REACH * _bandwidth(x)
    return near


def _bandwidth(x: Floats) -> float:
    """Return Silverman's (1986) bandwidth in decades, within bounds."""
    return min(WIDEST, max(NARROWEST, 1.06 * float(np.std(x)) / math.pow(len(x), 0.2)))
