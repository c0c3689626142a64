"""Several objectives: each further one against the first, with the trials that none beats in all of them."""

from collections.abc import Sequence

from matplotlib.axes import Axes

from fttune.report.figures.marks import by_kind, scatter, worth_showing
from fttune.report.figures.picture import BLACK, Omitted, Picture, canvas, legend
from fttune.report.figures.ticks import log_ticks
from fttune.report.findings import Aim, Findings
from fttune.report.table import TrialRow
from fttune.report.wording import number

TITLE = "Pareto front"


def draw(findings: Findings) -> Picture | Omitted:
    """Return the figure; it needs a complete trial."""
    done = [row for row in findings.rows if row.state == "complete"]
    if not done:
        return Omitted(TITLE, "no trial is complete yet")
    first, further = findings.aims[0], findings.aims[1:]
    figure, panels = canvas(columns=len(further), sharey=True, squeeze=False)
    best = [row for row in done if row.number in findings.front]
    for place, (axes, aim) in enumerate(zip(panels[0], further, strict=True), start=1):
        _panel(axes, done, best, place)
        _scale(axes, aim, [row.values[place] for row in done])
    maximize = first.direction == "maximize"
    panels[0][0].set(ylabel=first.name, ylim=worth_showing([row.values[0] for row in done], maximize=maximize))
    legend(panels[0][0], columns=3)
    said = "; ".join(f"trial {row.number}: {', '.join(map(number, row.values))}" for row in best)
    return Picture(
        "pareto-front",
        TITLE,
        "Ringed, with their numbers: the trials that no other one beats in one objective without losing in another. "
        "Costs are those of the plain path, where nothing is shared with other trials.",
        f"{first.name} against {', '.join(aim.name for aim in further)}. On the front: {said}.",
        figure,
    )


def _panel(axes: Axes, done: Sequence[TrialRow], best: Sequence[TrialRow], place: int) -> None:
    for kind, some in by_kind(done).items():
        x, y = [row.values[place] for row in some], [row.values[0] for row in some]
        scatter(axes, x, y, kind=kind, total=len(done))
    x, y = [row.values[place] for row in best], [row.values[0] for row in best]
    axes.scatter(x, y, s=60, facecolors="none", edgecolors=BLACK, linewidths=1.0, zorder=4, label="front")
    named = {row.values: str(row.number) for row in reversed(best)}  # of equal ones the first
    for values, name in named.items():
        axes.annotate(name, (values[place], values[0]), (4, 5), textcoords="offset points", fontsize=7)


def _scale(axes: Axes, aim: Aim, values: Sequence[float]) -> None:
    axes.set_xlabel(aim.name)
    if min(values) > 0 and max(values) > 3 * min(values):
        axes.set_xscale("log")
        low, high = axes.get_xlim()
        log_ticks(axes.xaxis, low, high, most=4)
