"""The lr range test as a command: a recipe's inputs, the sweep, the figure. Nothing is tracked; the figure is kept."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fttune.app.session import Display
from fttune.app.train import untracked_inputs
from fttune.config import Experiment
from fttune.config.workspace import Workspace
from fttune.errors import BadInput, WorkFailed
from fttune.files import obstacle, told
from fttune.report.figures.lr_curve import draw_lr_curve, lr_chart
from fttune.training import check_recipe
from fttune.training.lr_range import MIN_STEPS, LrRange, RangeTest, lr_range_test, propose

MAX_STEPS = 100_000
SPOKEN = 10  # lines of progress


@dataclass(frozen=True)
class Sweep:
    """From which lr to which, in how many steps."""

    low: float = 1e-6
    high: float = 1.0
    steps: int = 100

    def check(self) -> None:
        """Refuse a sweep that cannot be made. Raises BadInput."""
        for name, value in (("--low", self.low), ("--high", self.high)):
            if not (math.isfinite(value) and value > 0):
                raise BadInput(f"{name}: must be a finite number > 0, got {value:g}; try 1e-6 to 1")
        if self.high <= self.low:
            raise BadInput(f"--high: must be above --low ({self.low:g}), got {self.high:g}; try 1e-6 to 1")
        if not MIN_STEPS <= self.steps <= MAX_STEPS:
            raise BadInput(f"--steps: must be {MIN_STEPS}..{MAX_STEPS}, got {self.steps}; 100 is a good number")


@dataclass(frozen=True)
class FoundRange:
    """What a range test found: its curve, the range to search (None: the loss never fell), the figure and a chart."""

    test: RangeTest
    proposed: LrRange | None
    figure: Path
    chart: str


def find_lr_range(
    experiment: Experiment,
    sweep: Sweep,
    *,
    workspace: Workspace,
    out: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
    display: Display | None = None,
) -> FoundRange:
    """Make the range test of a recipe and draw it to `out`, by default `mlruns/lr/<experiment>.png`.

    `say` is told how it goes; `display` gets notices, and follows the training of `weights: experiment:<name>`, which
    is tracked.

    Raises:
        BadInput: the sweep, the recipe or the figure's place cannot be used.
        WorkFailed: the first loss was not finite.
    """
    sweep.check()
    figure = (out or workspace.mlruns / "lr" / f"{experiment.name}.png").absolute()
    _require_place(figure)
    inputs = untracked_inputs(experiment, workspace, display=display)
    check_recipe(experiment, inputs)

    def progress(step: int, lr: float, loss: float) -> None:
        if (step + 1) * SPOKEN // sweep.steps > step * SPOKEN // sweep.steps:
            say(f"step {step + 1}/{sweep.steps}, lr {lr:.2e}, loss {loss:.4g}")

    test = lr_range_test(experiment, inputs, low=sweep.low, high=sweep.high, steps=sweep.steps, on_step=progress)
    if not test.rates:
        raise WorkFailed(f"{experiment.name}: {test.ended}, the first one; a smaller --low may help")
    proposed = propose(test, steps=sweep.steps)
    ends = (proposed.low, proposed.high) if proposed else None
    with told(figure):
        draw_lr_curve(
            figure,
            f"{experiment.name}: lr range test",
            rates=test.rates,
            losses=test.losses,
            smoothed=test.smoothed,
            proposed=ends,
        )
    return FoundRange(test, proposed, figure, lr_chart(test.rates, test.smoothed, ends))


def yaml_line(proposed: LrRange) -> str:
    """Return the line for a study's `space`."""
    low, high = (f"{value:.1e}" for value in (proposed.low, proposed.high))
    return f"optimizer.lr: {{type: float, low: {low}, high: {high}, log: true}}"


def _require_place(figure: Path) -> None:
    """Refuse a figure's file that cannot be written, without making it. Raises BadInput."""
    if figure.suffix != ".png":
        raise BadInput(f"--out: must be a file that ends in .png, got {str(figure)!r}")
    if figure.is_dir() or obstacle(figure.parent):
        raise BadInput(f"--out: {str(figure)!r} cannot be written; name a file in a folder that can")
