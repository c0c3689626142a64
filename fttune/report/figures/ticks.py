"""Ticks of logarithmic axes that do not run into each other."""

import math

from matplotlib.axis import Axis
from matplotlib.ticker import FixedLocator, NullLocator

STEPS = ((1,), (1, 3), (1, 2, 5))  # of a decade, the fewest first


def log_ticks(axis: Axis, low: float, high: float, *, most: int = 5) -> None:
    """Label a log axis from `low` to `high` with at most `most` round numbers."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    found: list[float] = []
    for steps in STEPS:
        every = [step * 10.0**power for power in range(first, last + 1) for step in steps]
        inside = [value for value in every if low <= value <= high]
        if len(inside) <= most or not found:
            found = inside
    found = found[:: math.ceil(len(found) / most)] if found else [low]
    axis.set_major_locator(FixedLocator(found))
    axis.set_minor_locator(NullLocator())
    axis.set_ticklabels([_label(value) for value in found])


def _label(value: float) -> str:
    if 1e-3 <= value < 1e4:
        return f"{value:g}"
    return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
