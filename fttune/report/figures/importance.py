"""Which parameter decides whether a trial is among the best: overall, and at each depth."""

import numpy as np
from matplotlib.axes import Axes

from fttune.report.figures.picture import BLUE, Omitted, Picture, canvas
from fttune.report.findings import Findings

TITLE = "Parameter importance"


def draw(findings: Findings) -> Picture | Omitted:
    """Return the figure; it needs importances."""
    if not findings.importances:
        return Omitted(TITLE, "too few different complete trials, or nothing to tell the best of them apart")
    overall = findings.importances[0]
    names = sorted(overall.shares, key=lambda name: overall.shares[name])
    short = [name.partition(".")[2] or name for name in names]
    several = len(findings.importances) > 1
    figure, axes = canvas(
        height=1.3 + 0.42 * len(names), columns=1 + several, sharey=True, width_ratios=[1, 1.1] if several else [1]
    )
    bars, cells = axes if several else (axes, None)
    shares = [overall.shares[name] for name in names]
    bars.barh(np.arange(len(names)), shares, color=BLUE, height=0.6)
    for index, share in enumerate(shares):
        bars.annotate(f"{share:.0%}", (share, index), (3, 0), textcoords="offset points", va="center", fontsize=7.5)
    bars.set_yticks(np.arange(len(names)), short)
    bars.set(xlim=(0, min(1.2, max(shares) * 1.25)), title=f"all depths ({overall.trials} trials)", xticks=[])
    bars.grid(visible=False)
    bars.spines["bottom"].set_visible(False)
    if cells is not None:
        _by_depth(cells, findings, names)
    said = ", ".join(f"{name} {overall.shares[name]:.0%}" for name in reversed(names))
    return Picture(
        "importance",
        TITLE,
        f"{overall.evaluator}: how far the settings of the best {overall.best} of {overall.trials} trials differ from "
        "those of all. It says what to search with care, not in which direction; other evaluators may disagree."
        + (" On the right the same within each depth with enough trials." if several else ""),
        f"{overall.evaluator} importance: {said}.",
        figure,
    )


def _by_depth(axes: Axes, findings: Findings, names: list[str]) -> None:
    """Draw a cell for each parameter and depth."""
    by_depth = [one for one in findings.importances if one.depth is not None]
    shares = np.array([[one.shares.get(name, np.nan) for one in by_depth] for name in names])
    axes.imshow(np.ma.masked_invalid(shares), cmap="Blues", vmin=0, vmax=1.4, aspect="auto", origin="lower")
    for (row, column), share in np.ndenumerate(shares):
        axes.text(column, row, "-" if np.isnan(share) else f"{share:.0%}", ha="center", va="center", fontsize=7.5)
    axes.set_xticks(range(len(by_depth)), [str(one.depth) for one in by_depth])
    axes.set(title=f"by {findings.depth_words}")
    axes.tick_params(length=0)
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
