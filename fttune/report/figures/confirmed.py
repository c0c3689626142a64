"""What a confirmation found: candidates with their intervals, and the confusion matrix of the recommended one."""

import numpy as np
from matplotlib.axes import Axes

from fttune.report.answer import recommended
from fttune.report.figures.picture import BLUE, GREY, RED, Omitted, Picture, canvas
from fttune.report.findings import Findings
from fttune.report.statistics import interval
from fttune.report.wording import number, spread

INTERVALS, CONFUSION = "Candidates under fresh seeds", "Confusion matrix of the test split"
UNCONFIRMED = "the study is not confirmed"
MOST_NUMBERED = 12  # classes whose cells hold numbers
MOST_NAMED = 40


def intervals(findings: Findings) -> Picture | Omitted:
    """Return the means over seeds with their 95 % intervals; it needs a confirmation."""
    found = findings.confirmation
    if found is None:
        return Omitted(INTERVALS, UNCONFIRMED)
    finite = [one for one in found.candidates if None not in one.val][::-1]
    has_test = any(one.test for one in finite)
    figure, panels = canvas(height=1.4 + 0.38 * len(finite), columns=1 + has_test, sharey=True)
    first, second = panels if has_test else (panels, None)
    chosen = recommended(found).trial
    for index, one in enumerate(finite):
        colour = RED if one.trial == chosen else BLUE
        _row(first, index, [value for value in one.val if value is not None], colour)
        if second is not None:
            _row(second, index, one.test, colour)
    names = [f"trial {one.trial}{' (baseline)' if one.baseline else ''}" for one in finite]
    first.set_yticks(range(len(finite)), names)
    first.set(xlabel=found.metric, ylim=(-0.6, len(finite) - 0.4))
    for label, one in zip(first.get_yticklabels(), finite, strict=True):
        label.set_fontweight("bold" if one.trial == chosen else "normal")
    if second is not None:
        second.set(xlabel=f"test/{found.test_metric}")
    for axes in (first, second) if second is not None else (first,):
        axes.locator_params(axis="x", nbins=4)
        axes.grid(visible=False, axis="y")
    said = "; ".join(f"{one.name} {spread([v for v in one.val if v is not None])}" for one in reversed(finite))
    return Picture(
        "candidates",
        INTERVALS,
        "Dots are single seeds, bars the 95 % interval of their mean (Student's t). The winner stands on top, the "
        "recommended candidate is bold. Overlapping intervals say little: the comparison in the table is paired.",
        f"{found.metric} over {len(found.seeds)} seeds: {said}.",
        figure,
    )


def confusion(findings: Findings) -> Picture | Omitted:
    """Return what the recommended candidate takes for what; it needs the predictions of a confirmation."""
    if findings.confirmation is None:
        return Omitted(CONFUSION, UNCONFIRMED)
    tested = findings.tested
    if tested is None:
        reason = "MLflow holds no predictions of this confirmation" if findings.confirmation.opened else "no test split"
        return Omitted(CONFUSION, reason)
    counts = np.array(tested.counts, dtype=float)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    figure, axes = canvas(height=4.2)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if len(tested.classes) <= MOST_NUMBERED:
        for (row, column), share in np.ndenumerate(shares):
            text = f"{share:.0%}" if counts[row, column] else ""
            axes.text(
                column, row, text, ha="center", va="center", fontsize=7, color="white" if share > 0.6 else "black"
            )
    else:
        figure.colorbar(image, ax=axes, label="share of the class", pad=0.02, aspect=30)
    if len(tested.classes) <= MOST_NAMED:
        small = 7.5 if len(tested.classes) <= MOST_NUMBERED else 5
        long = max(map(len, tested.classes)) > 3
        axes.set_xticks(range(len(counts)), tested.classes, rotation=90 if long else 0, fontsize=small)
        axes.set_yticks(range(len(counts)), tested.classes, fontsize=small)
    axes.set(xlabel="taken for", ylabel="class")
    axes.grid(visible=False)
    worst = int(np.argmin(np.diag(shares)))
    recall = ", ".join(
        f"{name} {shares[index, index]:.0%}" for index, name in enumerate(tested.classes[:MOST_NUMBERED])
    )
    return Picture(
        "confusion",
        CONFUSION,
        f"Trial {tested.trial}, the recommended one, over {tested.seeds} seeds; a row is a class and adds up to 100 %. "
        f"The hardest class is {tested.classes[worst]}: {number(100 * shares[worst, worst])} % of it are found.",
        f"Share of each class that is found: {recall}.",
        figure,
    )


def _row(axes: Axes, index: int, values: "tuple[float, ...] | list[float]", colour: str) -> None:
    if not values:
        return
    found = interval(values)
    if len(values) > 1:
        axes.plot([found.low, found.high], [index, index], color=colour, linewidth=2, solid_capstyle="round")
    axes.plot(found.mean, index, marker="o", color=colour, markersize=6)
    axes.plot(values, [index - 0.22] * len(values), linestyle="none", marker=".", color=GREY, markersize=4)
