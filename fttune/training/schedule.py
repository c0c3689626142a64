"""The learning rate's factor at each step: linear warm-up, then constant, cosine or stepwise."""

import math

from fttune.config.sections import Training


def lr_factor(training: Training, *, step: int, steps_per_epoch: int) -> float:
    """Return what the base lr is multiplied with at a step, counted from 0 over the whole run; in (0, 1].

    Warm-up rises linearly to 1 over `warmup_epochs`. Cosine (Loshchilov & Hutter, ICLR 2017) falls to 0 at the end
    of the run; step multiplies by `step_factor` after every `step_epochs`, counted from the start of the run.
    """
    warmup = round(training.warmup_epochs * steps_per_epoch)
    total = training.epochs * steps_per_epoch
    if step < warmup:
        return (step + 1) / warmup
    if training.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))
    if training.schedule == "step":
        assert training.step_epochs is not None, "required by the configuration's rules"
        assert training.step_factor is not None, "has a default for schedule step"
        return float(training.step_factor ** (step // (training.step_epochs * steps_per_epoch)))
    return 1.0
