"""The best value by what trains, with every trial shown."""

from collections import defaultdict

from fttune.report.figures.marks import by_kind, clipped, jitter, scatter, shown_range
from fttune.report.figures.picture import BLACK, Omitted, Picture, canvas, legend
from fttune.report.findings import Findings
from fttune.report.table import TrialRow
from fttune.report.wording import number

WIDE_LABEL = 8


def draw(findings: Findings) -> Picture | Omitted:
    """Return the figure; it needs at least two depths."""
    title = f"Best value by {findings.depth_words}"
    if len(findings.depths) < 2:
        one = f"it is {findings.depths[0]} in every trial" if findings.depths else "the study does not search it"
        return Omitted("Best value by depth", f"{one}, so there is nothing to compare")
    shown = shown_range(findings)
    position = {depth: index for index, depth in enumerate(findings.depths)}
    figure, axes = canvas()
    rows = [row for row in findings.rows if row.setting.depth in position]
    for kind, some in by_kind(rows).items():
        scatter(axes, *_places(some, position, findings), kind=kind, total=len(rows))
    best = {depth: findings.at_depth(depth)[0].value for depth in findings.depths if findings.at_depth(depth)}
    axes.plot([position[d] for d in best], list(best.values()), color=BLACK, linewidth=1.2, marker="_", markersize=16)
    for depth, value in best.items():
        axes.annotate(
            number(value), (position[depth], value), (0, 4), textcoords="offset points", ha="center", fontsize=7.5
        )
    axes.set(xlabel=findings.depth_words, ylabel=findings.metric, ylim=shown)
    axes.set_xlim(-0.6, len(position) - 0.4)
    slanted = max(map(len, position)) > WIDE_LABEL
    axes.set_xticks(
        list(position.values()), list(position), rotation=20 if slanted else 0, ha="right" if slanted else "center"
    )
    axes.grid(visible=False, axis="x")
    legend(axes)
    said = ", ".join(f"{number(value)} at {depth}" for depth, value in best.items())
    return Picture(
        "best-by-depth",
        title,
        "Each mark is a trial, moved sideways to be seen. The line joins the best complete trial of each depth. "
        "A pruned trial stands at its last value; one without a value, or far off, stands at the bad end.",
        f"Best {findings.metric} by {findings.depth_words}: {said or 'no complete trial yet'}.",
        figure,
    )


def _places(rows: list[TrialRow], position: dict[str, int], findings: Findings) -> tuple[list[float], list[float]]:
    shown = shown_range(findings)
    at: dict[str, list[TrialRow]] = defaultdict(list)
    for row in rows:
        at[str(row.setting.depth)].append(row)
    x, y = [], []
    for depth, some in at.items():
        x += list(position[depth] + jitter(len(some), 0.6))
        y += [clipped(row, shown, maximize=findings.maximize) for row in some]
    return x, y
