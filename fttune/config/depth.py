"""How many stages train: a count from the output, a share of the backbone's stages, or `all`."""

import math
from fractions import Fraction
from typing import Any

DEPTH = "freeze.unfrozen_stages"


def is_depth(value: object) -> bool:
    """Return whether a value is a whole number >= 0, a share in 0.0..1.0, or `all`."""
    if isinstance(value, float):
        return 0 <= value <= 1
    return value == "all" or (isinstance(value, int) and not isinstance(value, bool) and value >= 0)


def resolved_depth(depth: Any, stages: int) -> int:
    """Return how many of a backbone's `stages` a depth means, counted from the output.

    A float is a share, rounded half up: 0.5 of five stages is three. A whole number stays as it is, even beyond
    `stages`.
    """
    if depth == "all":
        return stages
    if isinstance(depth, float):
        return math.floor(Fraction(str(depth)) * stages + Fraction(1, 2))
    return int(depth)
