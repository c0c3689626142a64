"""Learning rate against depth: the value as a colour, and the ridge of best rates."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize

from fttune.report.figures.marks import by_kind, jitter, scatter, shown_range
from fttune.report.figures.picture import HEIGHT, Omitted, Picture, canvas, legend
from fttune.report.figures.ticks import log_ticks
from fttune.report.findings import Findings
from fttune.report.ridge import Surface, surface_of
from fttune.report.wording import rate

TITLE = "Learning rate against depth"


def draw(findings: Findings) -> Picture | Omitted:
    """Return the figure; it needs complete trials of different lr at two depths or more."""
    if not any(row.setting.lr for row in findings.rows):
        return Omitted(TITLE, "no trial has a learning rate to compare")
    if len(findings.depths) < 2:
        return Omitted(TITLE, "the trials do not differ in depth")
    surface = surface_of(findings)
    if surface is None:
        return Omitted(TITLE, "no two complete trials differ in lr yet")
    position = {depth: index for index, depth in enumerate(findings.depths)}
    figure, axes = canvas(height=max(HEIGHT, 1.6 + 0.3 * len(position)))
    edges = np.sqrt(surface.lrs[:-1] * surface.lrs[1:])
    ends = surface.lrs[0] ** 2 / edges[0], surface.lrs[-1] ** 2 / edges[-1]
    shades = axes.pcolormesh(
        np.concatenate([[ends[0]], edges, [ends[1]]]),
        np.arange(len(position) + 1) - 0.5,
        np.ma.masked_invalid(surface.values),
        cmap="cividis" if findings.maximize else "cividis_r",
        norm=_norm(findings),
        rasterized=True,
    )
    figure.colorbar(shades, ax=axes, label=findings.metric, pad=0.02, aspect=30).outline.set_visible(False)
    axes.set_xscale("log")
    rows = [row for row in findings.rows if row.setting.lr and row.setting.depth in position]
    for kind, some in by_kind(rows).items():
        y = [position[str(row.setting.depth)] for row in some] + jitter(len(some), 0.5)
        scatter(axes, [row.setting.lr or 0.0 for row in some], list(y), kind=kind, total=10 * len(rows))
    _ridge(axes, surface, position)
    axes.set(xlabel="learning rate", ylabel=findings.depth_words)
    log_ticks(axes.xaxis, *axes.get_xlim())
    axes.set_yticks(list(position.values()), list(position))
    axes.grid(visible=False)
    legend(axes, columns=4)
    said = "; ".join(f"{rate(r.lr)} at {r.depth} ({rate(r.low)} .. {rate(r.high)})" for r in surface.ridges)
    return Picture(
        "lr-by-depth",
        TITLE,
        "Colour is the mean of the complete trials nearby, whatever else differs between them; white where none is "
        "near. The ridge is the best lr of each depth with five trials or more; its bars hold 80 % of resamples.",
        f"{findings.metric} over lr and {findings.depth_words}. Best lr: {said or 'too few trials at any depth'}.",
        figure,
    )


def _norm(findings: Findings) -> Normalize:
    return Normalize(*shown_range(findings))


def _ridge(axes: Axes, surface: Surface, position: dict[str, int]) -> None:
    """Draw the ridge in white on black, which stands out on every shade."""
    if not surface.ridges:
        return
    lrs = np.array([ridge.lr for ridge in surface.ridges])
    bars = np.array([[r.lr - r.low, r.high - r.lr] for r in surface.ridges]).T
    y = [position[ridge.depth] for ridge in surface.ridges]
    for colour, width in (("black", 3.0), ("white", 1.4)):
        axes.errorbar(lrs, y, xerr=bars, color=colour, linewidth=width, marker="o", markersize=3 + width, zorder=4)
    axes.plot([], [], color="black", linewidth=1.4, marker="o", markerfacecolor="white", markersize=5, label="ridge")
