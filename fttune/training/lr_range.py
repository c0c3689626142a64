"""The learning rate range test (Smith, WACV 2017, arXiv 1506.01186): train a few batches while the lr rises from low
to high, watch the loss, and propose a range to search. Knows neither figures nor files.

How the range is chosen (`propose`): its upper end is a tenth of the lr at the lowest smoothed loss, fastai's rule
`minimum` (`lr_find`), which stays clear of the limit of stability although the loss takes some steps to show it. Its
lower end is a tenth of the lr at which the loss began to fall (Smith's base lr; here a tenth of the way down), and at
most a tenth of the upper end: a run of many steps learns where a sweep of few cannot yet show it.
"""

import itertools
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fttune.config import Experiment
from fttune.data import Part
from fttune.training.device import choose_device
from fttune.training.feeds import Feed
from fttune.training.inputs import Inputs
from fttune.training.loop import set_rates, train_mode
from fttune.training.randomness import augmentation_generator, epoch_rows, own_random_state, seed_dropout
from fttune.training.regime import next_regime
from fttune.training.run import prepare_run
from fttune.training.step import Step

MIN_STEPS = 50
WINDOW = 0.1  # of the sweep's steps: what the smoothed loss averages over, and how many its start is judged by
GIVE_UP = 4.0  # times the best smoothed loss; fastai's
LEAST_FALL = 0.05  # of the loss at the start
CHANCE = 4.0  # standard errors of a mean over the window
MARGIN = 10.0

TrainStep = Callable[[int, float], float]


@dataclass(frozen=True)
class RangeTest:
    """The lr of each step, the loss before its update, and that loss smoothed; `ended` says why there are no more."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    ended: str


@dataclass(frozen=True)
class LrRange:
    """A range of learning rates to search, both of one significant digit."""

    low: float
    high: float


def lr_range_test(
    experiment: Experiment,
    inputs: Inputs,
    *,
    low: float,
    high: float,
    steps: int,
    on_step: Callable[[int, float, float], None] = lambda *_: None,
) -> RangeTest:
    """Train a recipe's initial model for at most `steps` batches with lr rising exponentially from `low` to `high`.

    Optimizer, batches, freezing, precision and the ratios between the parts' rates are the recipe's, of its first
    phase; its schedule and its lr are not used. `on_step` is told step (from 0), lr and loss. Torch's global
    generators are as before afterwards.

    Raises:
        BadInput, WeightsError: the recipe cannot be trained here, as `fine_tune` says.
    """
    with own_random_state(choose_device(experiment.training).device):
        return sweep(_train_step(experiment, inputs), low=low, high=high, steps=steps, on_step=on_step)


def sweep(
    train_step: TrainStep,
    *,
    low: float,
    high: float,
    steps: int,
    on_step: Callable[[int, float, float], None] = lambda *_: None,
) -> RangeTest:
    """Call `train_step(step, lr)` with lr from `low` to `high`, until a loss shows that the lr is too large.

    That is a loss that is not finite (it is left out), or a smoothed one above `GIVE_UP` times the best and above the
    mean of the sweep's first tenth: momentum makes a loss swing below the start at rates that are not too large.
    """
    first = _first(steps)
    rates: list[float] = []
    losses: list[float] = []
    smoothed: list[float] = []
    for step in range(steps):
        lr = low * (high / low) ** (step / (steps - 1))
        loss = train_step(step, lr)
        if not math.isfinite(loss):
            return RangeTest(tuple(rates), tuple(losses), tuple(smoothed), f"the loss became {loss} at lr {lr:.2g}")
        on_step(step, lr, loss)
        rates.append(lr)
        losses.append(loss)
        smoothed = smooth(losses, window=WINDOW * steps)
        if step >= first and smoothed[-1] > max(GIVE_UP * min(smoothed[first:]), statistics.fmean(losses[:first])):
            cause = f"the loss rose above {GIVE_UP:g} times its best, and above its start, at lr {lr:.2g}"
            return RangeTest(tuple(rates), tuple(losses), tuple(smoothed), cause)
    return RangeTest(
        tuple(rates),
        tuple(losses),
        tuple(smoothed),
        f"all {steps} steps were made and the loss did not blow up; a larger --high shows more",
    )


def smooth(losses: Sequence[float], *, window: float) -> list[float]:
    """Return the exponential moving average with bias correction (Kingma & Ba 2015), over about `window` values."""
    beta = 1 - 1 / max(window, 1.0)
    average, smoothed = 0.0, []
    for count, loss in enumerate(losses, start=1):
        average = beta * average + (1 - beta) * loss
        smoothed.append(average / (1 - beta**count))
    return smoothed


def propose(test: RangeTest, *, steps: int) -> LrRange | None:
    """Return the range to search by the rule above, None when the loss never fell.

    A fall is more than `LEAST_FALL` of the loss at the start (the mean of the sweep's first tenth) and more than chance
    makes of the losses' noise; `steps` is the length of the whole sweep.
    """
    first = _first(steps)
    if len(test.losses) <= first:
        return None
    start = statistics.fmean(test.losses[:first])
    lowest = min(range(first, len(test.losses)), key=test.smoothed.__getitem__)
    fall = start - test.smoothed[lowest]
    chance = CHANCE * _noise(test.losses[: lowest + 1]) / math.sqrt(first)
    if fall <= max(LEAST_FALL * start, chance):
        return None
    began = max((i + 1 for i in range(lowest) if test.smoothed[i] > start - fall / 10), default=0)
    top = test.rates[lowest] / MARGIN
    return LrRange(_one_digit(min(test.rates[began], top) / MARGIN), _one_digit(top))


def _first(steps: int) -> int:
    """Return how many steps a sweep's start is judged by."""
    return max(1, round(WINDOW * steps))


def _noise(losses: Sequence[float]) -> float:
    """Return the standard deviation of a loss around its trend, from the median jump between neighbours."""
    jumps = [abs(after - before) for before, after in itertools.pairwise(losses)]
    return 1.4826 * statistics.median(jumps) / math.sqrt(2)


def _one_digit(value: float) -> float:
    """Return a number rounded down to one significant digit, so that an upper end stays below what was found."""
    digit, _, exponent = f"{value:.14e}".partition("e")
    return float(f"{digit[0]}e{exponent}")


def _train_step(experiment: Experiment, inputs: Inputs) -> TrainStep:
    """Return what trains one batch of a recipe at an lr. All that this file knows of runs and regimes is in here."""
    run = prepare_run(experiment, inputs)
    regime = next_regime(run, [], None)
    assert regime is not None, "a run has an epoch"
    step = Step(run, regime.freezing, after=0)
    train_mode(run, regime.freezing)
    feed = Feed(run, inputs.data.train)
    batches = _batches(experiment, inputs.data.train, run.device.device)

    def train(_: int, lr: float) -> float:
        rows, draws = next(batches)
        set_rates(run, regime.rates, factor=lr / regime.lr)
        loss, _hits = step(*feed.batch(rows, draws))
        return loss.item()

    return train


def _batches(experiment: Experiment, part: Part, device: torch.device) -> Iterator[tuple[Tensor, torch.Generator]]:
    """Yield the batches of epoch 1, 2, ... of a recipe, each with the generator that augments it."""
    for epoch in itertools.count(1):
        seed_dropout(device, seed=experiment.seed, epoch=epoch)
        draws = augmentation_generator(seed=experiment.seed, epoch=epoch)
        for rows in torch.split(epoch_rows(part, seed=experiment.seed, epoch=epoch), experiment.training.batch_size):
            yield rows, draws
