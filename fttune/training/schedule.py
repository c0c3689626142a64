"""The learning rate's factor at each step. Pure functions of the step, and of the monitored values so far: no
scheduler holds state, so a run that starts again needs nothing restored.
"""

import math
from collections.abc import Sequence

from fttune.config.sections import Training

# The defaults of torch's OneCycleLR (Smith & Topin, arXiv 1708.07120).
RISING_SHARE, FIRST_FACTOR, LAST_FACTOR = 0.3, 1 / 25, 1 / 25 / 1e4


def lr_factor(training: Training, *, step: int, steps_per_epoch: int, epochs: int | None = None) -> float:
    """Return what the base lr is multiplied with at a step, counted from 0 over all `epochs`; in (0, 1].

    Args:
        training: names the schedule and its fields.
        step: from 0.
        steps_per_epoch: batches of an epoch.
        epochs: the length of the schedule; default `training.epochs`.

    Warm-up rises linearly to 1 over `warmup_epochs`. Cosine (Loshchilov & Hutter, ICLR 2017) and polynomial, as
    `(1 - progress) ** power`, then fall to 0 at the end; step multiplies by `step_factor` after every `step_epochs`,
    counted from the start of the run. One cycle is torch's OneCycleLR with its defaults, without its cycling of
    momentum: the base lr is its maximum. Plateau is 1 here, and `plateau_factor` comes on top.
    """
    warmup = round(training.warmup_epochs * steps_per_epoch)
    total = (epochs or training.epochs) * steps_per_epoch
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / (total - warmup)
    if training.schedule == "cosine":
        return _cosine(1.0, 0.0, progress)
    if training.schedule == "polynomial":
        assert training.power is not None, "has a default for schedule polynomial"
        return float((1 - progress) ** training.power)
    if training.schedule == "step":
        assert training.step_epochs is not None, "required by the configuration's rules"
        assert training.step_factor is not None, "has a default for schedule step"
        return float(training.step_factor ** (step // (training.step_epochs * steps_per_epoch)))
    return _one_cycle(step, total) if training.schedule == "one_cycle" else 1.0


def plateau_factor(training: Training, values: Sequence[float], direction: str) -> float:
    """Return what schedule plateau multiplies the lr with after some epochs; 1 for any other schedule.

    Args:
        training: names the schedule and its fields.
        values: the monitored metric of every epoch so far, in order.
        direction: of that metric, minimize or maximize.

    It is torch's ReduceLROnPlateau with `threshold=0, eps=0`: after more than `plateau_patience_epochs` in a row that
    are not strictly better than the best before, the lr is multiplied by `plateau_factor`, and the count begins anew.
    Epochs that end within the warm-up are not looked at.
    """
    if training.schedule != "plateau":
        return 1.0
    assert training.plateau_factor is not None, "has a default for schedule plateau"
    assert training.plateau_patience_epochs is not None, "has a default for schedule plateau"
    best, waited, reductions = math.inf, 0, 0
    for value in values[math.floor(training.warmup_epochs) :]:
        loss = value if direction == "minimize" else -value
        waited = 0 if loss < best else waited + 1
        best = min(best, loss)
        if waited > training.plateau_patience_epochs:
            reductions, waited = reductions + 1, 0
    return float(training.plateau_factor**reductions)


def _one_cycle(step: int, total: int) -> float:
    peak = RISING_SHARE * total - 1  # torch's, not always a whole step
    if step <= peak:
        return _cosine(FIRST_FACTOR, 1.0, step / peak)
    return _cosine(1.0, LAST_FACTOR, (step - peak) / (total - 1 - peak))


def _cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * progress))
