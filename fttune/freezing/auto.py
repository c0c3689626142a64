"""Policies that look at gradients, as pure functions of what was measured in the epochs so far.

Auto-RGN and Auto-SNR: Lee et al., "Surgical Fine-Tuning Improves Adaptation to Distribution Shifts" (ICLR 2023, arXiv
2210.11466), section 5. AutoFreeze: Liu et al. (arXiv 2102.01386), section 4.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

SNR_THRESHOLD = 0.5  # of the largest; below it a part rests for an epoch
AUTOFREEZE_PERCENTILE = 0.5  # the paper's N = 50


@dataclass(frozen=True)
class PartGradient:
    """What one part's gradients did in one epoch.

    `relative` is the root mean square over the steps of the gradient's norm, over the norm of the weights; `total` is
    the norm of the sum of the gradients; `snr` the mean over elements of mean^2 / variance. The last two are 0 unless
    a policy asks for them.
    """

    relative: float
    total: float = 0.0
    snr: float = 0.0


Epoch = Mapping[str, PartGradient]


def rgn_multipliers(epoch: Epoch) -> dict[str, float]:
    """Return each part's multiple of the lr: its relative gradient norm over the largest one, in 0..1."""
    largest = max((part.relative for part in epoch.values()), default=0.0)
    return {name: part.relative / largest if largest > 0 else 1.0 for name, part in epoch.items()}


def snr_multipliers(epoch: Epoch) -> dict[str, float]:
    """Return 1 for each part whose signal-to-noise ratio reaches `SNR_THRESHOLD` of the largest one, else 0."""
    largest = max((part.snr for part in epoch.values()), default=0.0)
    return {name: float(part.snr >= SNR_THRESHOLD * largest) for name, part in epoch.items()}


def autofreeze_count(stages: Sequence[str], epochs: Sequence[Epoch]) -> int:
    """Return how many stages, counted from the input, AutoFreeze has stopped training after some epochs.

    After each epoch, the change of a stage's accumulated gradient is | |g(t-1)| - |g(t)| | / |g(t-1)|; stages are
    frozen from the front while theirs is below the median of those that still train. Frozen ones stay frozen.
    """
    frozen = 0
    for before, now in itertools.pairwise(epochs):
        changes = [_change(before[stage], now[stage]) for stage in stages[frozen:]]
        limit = sorted(changes)[int(len(changes) * AUTOFREEZE_PERCENTILE)] if changes else 0.0
        for change in changes:
            if change >= limit:
                break
            frozen += 1
    return frozen


def _change(before: PartGradient, now: PartGradient) -> float:
    return abs(before.total - now.total) / before.total if before.total > 0 else 0.0
