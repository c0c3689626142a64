"""Numbers as people write them, the same on every page."""

from collections.abc import Sequence

from fttune.report.statistics import interval


def number(value: float | None) -> str:
    """Return four significant digits, a dash for nothing."""
    return "-" if value is None else f"{value:.4g}"


def rate(value: float | None) -> str:
    """Return a learning rate: two significant digits."""
    return "-" if value is None else f"{value:.2g}"


def spread(values: Sequence[float]) -> str:
    """Return the mean of values over seeds with its 95 % interval."""
    found = interval(values)
    around = f" ({found.low:.4g} .. {found.high:.4g})" if len(values) > 1 else ""
    return f"{found.mean:.4g}{around}"


def listed(items: Sequence[str]) -> str:
    """Return `a, b and c`."""
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def times(count: int) -> str:
    """Return how often: once, twice, 3 times."""
    return {1: "once", 2: "twice"}.get(count, f"{count} times")


def duration(seconds: float) -> str:
    """Return a duration in the unit that suits it."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
