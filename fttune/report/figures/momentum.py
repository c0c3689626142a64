"""Learning rate against momentum, with lines of equal effective rate."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator

from fttune.report.figures.marks import by_kind, scatter, shown_range
from fttune.report.figures.picture import BLACK, GREY, MANY, Omitted, Picture, canvas, legend
from fttune.report.figures.ticks import log_ticks
from fttune.report.findings import Findings
from fttune.report.table import TrialRow

TITLE = "Learning rate against momentum"
TICKS = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)


def draw(findings: Findings) -> Picture | Omitted:
    """Return the figure; it needs trials of different momentum."""
    rows = [row for row in findings.rows if row.setting.lr and row.setting.momentum is not None]
    if not rows:
        return Omitted(TITLE, "no trial has both")
    if len({row.setting.momentum for row in rows}) < 2:
        return Omitted(TITLE, f"momentum is {rows[0].setting.momentum:g} in every trial")
    figure, axes = canvas()
    axes.set(xscale="log", yscale="log")
    valued = [row for row in rows if row.state == "complete"]
    for kind, some in by_kind([row for row in rows if row.state != "complete"]).items():
        scatter(axes, *_places(some), kind=kind, total=len(rows))
    if valued:
        low, high = shown_range(findings)
        shades = axes.scatter(
            *_places(valued),
            c=np.clip([row.value or 0.0 for row in valued], low, high),
            cmap="cividis" if findings.maximize else "cividis_r",
            vmin=low,
            vmax=high,
            s=26 if len(rows) <= MANY else 8,
            edgecolors=BLACK,
            linewidths=0.4 if len(rows) <= MANY else 0.1,
            label=f"complete ({len(valued)})",
            rasterized=len(rows) > MANY,
            zorder=4,
        )
        figure.colorbar(shades, ax=axes, label=findings.metric, pad=0.02, aspect=30).outline.set_visible(False)
    _axes_of(axes, rows)
    legend(axes)
    best = findings.complete[0].setting if findings.complete else None
    where = (
        f"the best trial has lr {best.lr:.3g}, momentum {best.momentum:.3g}"
        if best and best.lr and best.momentum is not None
        else "no complete trial yet"
    )
    return Picture(
        "lr-by-momentum",
        TITLE,
        "Along a dashed line the effective rate elr = lr / (1 - momentum) is the same. Where colour changes across the "
        "lines and not along them, momentum matters only through elr (Li et al., ICLR 2020).",
        f"{findings.metric} over lr and momentum: {where}.",
        figure,
    )


def _places(rows: list[TrialRow]) -> tuple[list[float], list[float]]:
    return [row.setting.lr or 0.0 for row in rows], [1 - (row.setting.momentum or 0.0) for row in rows]


def _axes_of(axes: Axes, rows: list[TrialRow]) -> None:
    """Let momentum grow upwards as 1 - momentum falls, on a log axis: lines of equal elr are then straight."""
    x, y = _places(rows)
    left, right = min(x) / 1.5, max(x) * 1.5
    top, bottom = min(y) / 1.3, max(y) * 1.15
    axes.set(xlim=(left, right), ylim=(bottom, top), xlabel="learning rate", ylabel="momentum")
    shown = [momentum for momentum in TICKS if top <= 1 - momentum <= bottom]
    axes.yaxis.set_major_locator(FixedLocator([1 - momentum for momentum in shown]))
    axes.set_yticklabels([f"{momentum:g}" for momentum in shown])
    axes.yaxis.set_minor_locator(NullLocator())
    log_ticks(axes.xaxis, left, right)
    first, last = int(np.floor(np.log10(left / bottom))), int(np.ceil(np.log10(right / top)))
    for power in range(first, last + 1):
        elr = 10.0**power
        ends = np.array([top, bottom])
        axes.plot(elr * ends, ends, color=GREY, linewidth=0.8, linestyle="--", zorder=1)
        _label(axes, elr, (left, right), (top, bottom))


def _label(axes: Axes, elr: float, across: tuple[float, float], up: tuple[float, float]) -> None:
    """Write the elr where its line leaves the figure, at the top or at the left."""
    (left, right), (top, bottom) = across, up
    if left * 1.2 < elr * top < right / 1.2:
        axes.annotate(
            f"elr {elr:g}", (elr * top, top), (2, -2), textcoords="offset points", va="top", fontsize=6.5, color=GREY
        )
    elif top * 1.1 < left / elr < bottom / 1.1:
        axes.annotate(
            f"elr {elr:g}",
            (left, left / elr),
            (2, 2),
            textcoords="offset points",
            va="bottom",
            fontsize=6.5,
            color=GREY,
        )
