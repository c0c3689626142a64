"""From a few measurements to what a training or a study will take. Arithmetic alone: measures nothing, reads nothing.

Every figure says whether it was measured or is estimated from what was. Not known beforehand, and so left to a range:
which depths the sampler will ask for. Not counted: what pruning, early stopping and repeated recipes save.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fttune.report.plan import How, Range

# As measured for docs/log.md on two cores: imports, the tables of both stores, and the winner as an MLflow model; and
# what Optuna and MLflow take for one trial.
START_SECONDS = 10.0
TRIAL_SECONDS = 0.1


@dataclass(frozen=True)
class Depth:
    """What a number of unfrozen stages costs: seconds per update, per evaluated image, and per epoch beside those.

    `step` and `evaluation` are with frozen stages run once, `plain_step` and `plain_evaluation` with nothing shared.
    """

    unfrozen_stages: int
    step: float
    evaluation: float
    plain_step: float
    plain_evaluation: float
    epoch: float
    how: How


@dataclass(frozen=True)
class Work:
    """The amounts of work: images that train and that are evaluated in an epoch, `passed` through frozen stages once.

    `fixed` are the depths of trials that are known before (baselines, or the one training of an experiment); the other
    trials may have any of `depths`. Each trial trains in all `folds`.
    """

    train: int
    evaluated: int
    passed: int
    batch_size: int
    epochs: int
    trials: int
    fixed: tuple[int, ...]
    depths: tuple[int, ...]
    folds: int = 1

    @property
    def steps(self) -> int:
        """Updates in an epoch."""
        return math.ceil(self.train / self.batch_size)


@dataclass(frozen=True)
class Once:
    """Seconds of what is done once, or once per trial: the pass of one image through frozen stages, a checkpoint."""

    image_pass: float
    checkpoint: float


def epoch_seconds(depth: Depth, work: Work, *, shared: bool) -> float:
    """Return the seconds of an epoch at a depth."""
    step, evaluation = (depth.step, depth.evaluation) if shared else (depth.plain_step, depth.plain_evaluation)
    return work.steps * step + work.evaluated * evaluation + depth.epoch


def total_seconds(depths: Sequence[Depth], work: Work, once: Once, *, shared: bool) -> Range:
    """Return the seconds of all trials with all that is around them; `depths` holds each that a trial may have."""
    trial = {
        depth.unfrozen_stages: work.folds * (work.epochs * epoch_seconds(depth, work, shared=shared) + once.checkpoint)
        + TRIAL_SECONDS
        for depth in depths
    }
    known = [trial[depth] for depth in work.fixed[: work.trials]]
    base = START_SECONDS + (work.passed * once.image_pass if shared else 0.0) + sum(known)
    open_trials, choices = work.trials - len(known), [trial[depth] for depth in work.depths]
    mean = sum(choices) / len(choices)
    return Range(*(base + open_trials * each for each in (min(choices), mean, max(choices))))


def all_depths(measured: Sequence[Depth], wanted: Sequence[int], suffix: Mapping[int, float]) -> tuple[Depth, ...]:
    """Return every wanted depth: measured ones as they are, the others estimated between their neighbours.

    `suffix` says for each depth how long its unfrozen stages take by themselves: training costs lie on a line between
    two measured depths in proportion to it.
    """
    known = {depth.unfrozen_stages: depth for depth in measured}
    return tuple(known.get(number) or _between(measured, number, suffix) for number in wanted)


def _between(measured: Sequence[Depth], number: int, suffix: Mapping[int, float]) -> Depth:
    below = max((d for d in measured if d.unfrozen_stages < number), key=lambda d: d.unfrozen_stages)
    above = min((d for d in measured if d.unfrozen_stages > number), key=lambda d: d.unfrozen_stages)
    first, last = suffix[below.unfrozen_stages], suffix[above.unfrozen_stages]
    share = (suffix[number] - first) / (last - first) if last > first else 0.5

    def line(a: float, b: float) -> float:
        return a + share * (b - a)

    return Depth(
        number,
        step=line(below.step, above.step),
        evaluation=line(below.evaluation, above.evaluation),
        plain_step=line(below.plain_step, above.plain_step),
        plain_evaluation=line(below.plain_evaluation, above.plain_evaluation),
        epoch=line(below.epoch, above.epoch),
        how="estimated",
    )


def chosen_depths(depths: Sequence[int]) -> tuple[int, ...]:
    """Return the depths to measure of those in ascending order: the shallowest, a middle one and the deepest."""
    return tuple(dict.fromkeys((depths[0], depths[(len(depths) - 1) // 2], depths[-1])))


def suffix_seconds(stage_seconds: Sequence[float], stages: int) -> dict[int, float]:
    """Return how long the last d stages take, for each depth d; with nothing known of stages, all count the same."""
    each = list(stage_seconds) or [1.0] * stages
    return {depth: sum(each[stages - depth :]) for depth in range(stages + 1)}
