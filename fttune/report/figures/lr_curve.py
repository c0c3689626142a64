"""The lr range test: loss over learning rate as a PNG, and as a small chart of text."""

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from fttune.files import write_atomically

CHART_COLUMNS, CHART_ROWS = 64, 12


def draw_lr_curve(
    file: Path,
    title: str,
    *,
    rates: Sequence[float],
    losses: Sequence[float],
    smoothed: Sequence[float],
    proposed: tuple[float, float] | None,
) -> None:
    """Write a PNG of the loss over the lr on a log axis, the proposed range shaded. Raises OSError."""
    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.plot(rates, losses, color="tab:blue", alpha=0.3, linewidth=1, label="loss of a batch")
    axes.plot(rates, smoothed, color="tab:blue", linewidth=2, label="smoothed")
    if proposed:
        label = f"proposed: {proposed[0]:.0e} to {proposed[1]:.0e}"
        axes.axvspan(*proposed, color="tab:green", alpha=0.15, label=label)
    axes.set_xscale("log")
    bottom, top = min(smoothed), max(smoothed)
    room = 0.05 * (top - bottom) or 1.0
    axes.set_ylim(bottom - room, top + room)  # single batches may jump far beyond what is of interest
    axes.set(title=title, xlabel="learning rate", ylabel="training loss")
    axes.grid(visible=True, which="major", alpha=0.3)
    axes.legend()
    write_atomically(file, lambda temporary: figure.savefig(temporary, format="png"))


def lr_chart(rates: Sequence[float], smoothed: Sequence[float], proposed: tuple[float, float] | None) -> str:
    """Return the smoothed loss over log lr as text; `=` under the axis marks the proposed range."""
    left, right = math.log(rates[0]), math.log(rates[-1])
    bottom, top = min(smoothed), max(smoothed)

    def column(lr: float) -> int:
        return round((math.log(lr) - left) / (right - left or 1.0) * (CHART_COLUMNS - 1))

    rows = [[" "] * CHART_COLUMNS for _ in range(CHART_ROWS)]
    for lr, loss in zip(rates, smoothed, strict=True):
        height = round((top - loss) / (top - bottom or 1.0) * (CHART_ROWS - 1))
        rows[height][column(lr)] = "*"
    labels = {0: f"{top:.3g}", CHART_ROWS - 1: f"{bottom:.3g}"}
    lines = [f"{labels.get(index, ''):>8} |{''.join(row).rstrip()}" for index, row in enumerate(rows)]
    axis = ["-"] * CHART_COLUMNS
    if proposed:
        first, last = (min(max(column(lr), 0), CHART_COLUMNS - 1) for lr in proposed)
        axis[first : last + 1] = "=" * (last + 1 - first)
    ends = f"{rates[0]:.1e}{'lr':^{CHART_COLUMNS - 14}}{rates[-1]:.1e}"
    return "\n".join([*lines, f"{'':>8} +{''.join(axis)}", f"{'':>10}{ends}"])
