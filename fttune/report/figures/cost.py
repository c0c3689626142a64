"""What better values cost: trained parameters and seconds."""

from collections.abc import Sequence

from matplotlib.axes import Axes

from fttune.report.figures.marks import by_kind, clipped, scatter, shown_range
from fttune.report.figures.picture import BLACK, Omitted, Picture, canvas, legend
from fttune.report.figures.ticks import log_ticks
from fttune.report.findings import Findings
from fttune.report.front import front
from fttune.report.table import TrialRow
from fttune.report.wording import number

TITLE = "Cost against quality"


def draw(findings: Findings) -> Picture | Omitted:
    """Return the figure; it needs a trial that trained."""
    rows = [row for row in findings.rows if row.value is not None and row.reused_from is None]
    rows = [row for row in rows if row.seconds and row.trainable_parameters]
    if not any(row.state == "complete" for row in rows):
        return Omitted(TITLE, "no trial has both a value and a cost yet")
    figure, (by_size, by_time) = canvas(columns=2, sharey=True)
    cheapest = _panel(by_size, rows, [float(row.trainable_parameters or 0) for row in rows], findings)
    _panel(by_time, rows, [row.seconds or 0.0 for row in rows], findings)
    by_size.set(xlabel="trained parameters", ylabel=findings.metric, ylim=shown_range(findings))
    by_time.set(xlabel="seconds of the trial")
    legend(by_size, columns=2)
    said = "; ".join(f"{number(row.value)} with {row.trainable_parameters:,} parameters" for row in cheapest)
    return Picture(
        "cost",
        TITLE,
        "The steps join the trials that no cheaper one beats. Seconds are those that the search waited for a trial; "
        "together with others, or on work that an earlier one left, it took less than it would have alone.",
        f"{findings.metric} against cost. Not beaten by any with fewer trained parameters: {said}.",
        figure,
    )


def _panel(axes: Axes, rows: Sequence[TrialRow], costs: Sequence[float], findings: Findings) -> list[TrialRow]:
    """Draw one kind of cost; return the trials that no cheaper one beats."""
    cost = dict(zip((row.number for row in rows), costs, strict=True))
    shown = shown_range(findings)
    for kind, some in by_kind(rows).items():
        y = [clipped(row, shown, maximize=findings.maximize) for row in some]
        scatter(axes, [cost[row.number] for row in some], y, kind=kind, total=len(rows))
    done = [row for row in rows if row.state == "complete"]
    sign = -1.0 if findings.maximize else 1.0
    best = [done[index] for index in front([(cost[row.number], sign * (row.value or 0.0)) for row in done])]
    x = [*(cost[row.number] for row in best), max(costs)]
    y = [row.value or 0.0 for row in best]
    axes.step(x, [*y, y[-1]], where="post", color=BLACK, linewidth=1.2)
    if max(costs) > 3 * min(costs):
        axes.set_xscale("log")
        low, high = axes.get_xlim()
        log_ticks(axes.xaxis, low, high, most=4)
    return best
