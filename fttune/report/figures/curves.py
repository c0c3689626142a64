"""The metric over epochs: the best trials, and some of the others, pruned ones up to where they were stopped."""

from matplotlib.axes import Axes

from fttune.report.figures.marks import MARKS, worth_showing
from fttune.report.figures.picture import BLUE, GREY, ORANGE, RED, Omitted, Picture, canvas, legend
from fttune.report.findings import Curve, Findings

TITLE = "Learning curves"
BEST = 5
COLOURS = {"complete": GREY, "pruned": ORANGE, "diverged": RED, "out_of_memory": RED, "running": GREY, "failed": RED}


def draw(findings: Findings) -> Picture | Omitted:
    """Return the figure; it needs curves."""
    curves = [curve for curve in findings.curves if curve.epochs]
    if not curves:
        return Omitted(TITLE, f"MLflow holds no {'fold' if findings.folds else 'epoch'} of any trial yet")
    best = [row.number for row in findings.observed[:BEST]]
    figure, axes = canvas()
    seen: set[str] = set()
    for curve in sorted(curves, key=lambda c: (c.number in best, c.state != "complete")):
        _line(axes, curve, best, seen)
    axes.set_ylim(worth_showing([value for curve in curves for value in curve.values], maximize=findings.maximize))
    _numbers(axes, [curve for curve in curves if curve.number in best])
    axes.set(xlabel="fold" if findings.folds else "epoch", ylabel=findings.metric)
    axes.xaxis.get_major_locator().set_params(integer=True)
    legend(axes, columns=4)
    whole = len([row for row in findings.rows if row.reused_from is None])
    some = f"{len(curves)} of {whole} trials: the best and an even sample" if len(curves) < whole else "Every trial"
    pruned, steps = sum(curve.state == "pruned" for curve in curves), "folds" if findings.folds else "epochs"
    return Picture(
        "learning-curves",
        "Values by fold" if findings.folds else TITLE,
        f"{some}. The best carry their numbers; a triangle marks where a trial was pruned, a cross where it diverged.",
        f"{findings.metric} over {steps} of {len(curves)} trials, {pruned} of them pruned.",
        figure,
    )


def _line(axes: Axes, curve: Curve, best: list[int], seen: set[str]) -> None:
    is_best = curve.number in best
    label = f"best {len(best)}" if is_best else curve.state
    if label in seen:
        label = ""
    seen.add(label)
    axes.plot(
        curve.epochs,
        curve.values,
        color=BLUE if is_best else COLOURS.get(curve.state, GREY),
        linewidth=1.6 if is_best else 0.8,
        alpha=1.0 if is_best else 0.55,
        marker="." if len(curve.epochs) == 1 else None,
        label=label or None,
    )
    if curve.state in ("pruned", "diverged"):
        mark = MARKS[curve.state]
        axes.plot(curve.epochs[-1], curve.values[-1], marker=mark.shape, color=mark.colour, markersize=5, alpha=0.8)


def _numbers(axes: Axes, curves: list[Curve]) -> None:
    """Write the trials' numbers beside the ends of their curves, no two on top of each other."""
    low, high = axes.get_ylim()
    apart = 0.045 * (high - low)
    right, lowest = axes.get_xlim()[1], -float("inf")
    for curve in sorted(curves, key=lambda one: one.values[-1]):
        lowest = max(curve.values[-1], lowest + apart)
        axes.annotate(
            str(curve.number),
            (curve.epochs[-1], curve.values[-1]),
            (right, lowest),
            fontsize=7,
            va="center",
            color=BLUE,
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": BLUE, "linewidth": 0.4, "shrinkA": 0, "shrinkB": 0},
        )
