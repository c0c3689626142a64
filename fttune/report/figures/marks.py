"""How trials look in every figure: a shape and a colour for each state, and where those without a value lie."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from fttune.report.figures.picture import BLACK, BLUE, GREY, MANY, ORANGE, RED
from fttune.report.findings import Findings
from fttune.report.table import TrialRow

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Mark:
    """A shape and a colour; hollow ones show what lies below them."""

    shape: str
    colour: str
    hollow: bool = False


MARKS = {
    "complete": Mark("o", BLUE),
    "reused": Mark("o", BLUE, hollow=True),
    "pruned": Mark("v", ORANGE),
    "diverged": Mark("x", RED),
    "out_of_memory": Mark("s", RED, hollow=True),
    "failed": Mark("+", BLACK),
    "running": Mark("D", GREY, hollow=True),
}


def kind_of(row: TrialRow) -> str:
    """Return which of `MARKS` a trial has."""
    return "reused" if row.reused_from is not None else row.state


def by_kind(rows: Sequence[TrialRow]) -> dict[str, list[TrialRow]]:
    """Return the trials of each kind that occurs, in the order of `MARKS`."""
    found = {kind: [row for row in rows if kind_of(row) == kind] for kind in MARKS}
    return {kind: some for kind, some in found.items() if some}


def scatter(axes: Axes, x: Sequence[float], y: Sequence[float], *, kind: str, total: int) -> None:
    """Draw trials of one kind; `total` are those of the figure, too many of which are drawn as pixels."""
    mark = MARKS[kind]
    colours = {"color": mark.colour} if mark.shape in "x+" else {"edgecolors": mark.colour}
    if mark.shape not in "x+":
        colours["facecolors"] = "none" if mark.hollow else mark.colour
    axes.scatter(
        x,
        y,
        marker=mark.shape,
        s=22 if total <= MANY else 7,
        linewidths=0.9 if total <= MANY else 0.5,
        alpha=0.75 if total <= MANY else 0.5,
        label=f"{kind} ({len(x)})",
        rasterized=total > MANY,
        zorder=3,
        **colours,  # type: ignore[arg-type]
    )


def shown_range(findings: Findings) -> tuple[float, float]:
    """Return the values worth a place on an axis: all of them, but for a tail of bad ones."""
    return worth_showing([row.value for row in findings.rows if row.value is not None], maximize=findings.maximize)


def worth_showing(values: Sequence[float], *, maximize: bool) -> tuple[float, float]:
    """Return the range of values without those at the bad end that lie four interquartile ranges from the median."""
    finite = np.array([value for value in values if np.isfinite(value)])
    if not len(finite):
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    quarter, middle, three = np.percentile(finite, [25, 50, 75])
    far = 4 * float(three - quarter)
    if far and maximize:
        low = max(low, float(middle) - far)
    elif far:
        high = min(high, float(middle) + far)
    room = 0.06 * (high - low) or 0.05 * abs(high) or 0.05
    return low - room, high + room


def clipped(row: TrialRow, shown: tuple[float, float], *, maximize: bool) -> float:
    """Return where a trial lies on a value axis: those beyond it, or without a value, at its bad end."""
    room = 0.03 * (shown[1] - shown[0])
    low, high = shown[0] + room, shown[1] - room
    if row.value is None or not np.isfinite(row.value):
        return low if maximize else high
    return float(np.clip(row.value, low, high))


def jitter(count: int, width: float) -> Floats:
    """Return offsets (N,) that spread marks evenly and are the same every time (the golden ratio's multiples)."""
    return np.asarray(((np.arange(count) * 0.6180339887) % 1 - 0.5) * width, dtype=float)
