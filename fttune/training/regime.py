"""What holds in the next epoch, from the policy and what the epochs so far have shown."""

import dataclasses
import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from fttune.config.policy import PhasePlan
from fttune.freezing import (
    Freezing,
    PartGradient,
    apply_phase,
    autofreeze_count,
    has_running_norms,
    named_parameters,
    rgn_multipliers,
    snr_multipliers,
)
from fttune.training.loop import Regime
from fttune.training.plan import span_of
from fttune.training.run import Run
from fttune.training.schedule import plateau_factor


@dataclass(frozen=True)
class Past:
    """One finished epoch: the monitored value, smaller is better, and each trained part's gradients."""

    loss: float
    gradients: Mapping[str, PartGradient]


def next_regime(run: Run, past: Sequence[Past], before: Regime | None) -> Regime | None:
    """Return what holds in the epoch after `past`, None when the run is over, and make it hold.

    What stops training loses its gradient and its optimizer state, so that it does not move by one bit, and begins
    anew should it train again; what goes on training keeps its state.
    """
    training = run.experiment.training
    losses = [epoch.loss for epoch in past]
    span = span_of(run.policy, len(past) + 1, epochs=training.epochs, losses=losses)
    if span is None:
        return None
    phase = _narrowed(run, run.policy.phases[span.index], past)
    freezing = before.freezing if before and before.phase == phase else apply_phase(run.parts, run.policy, phase)
    if before is not None and before.freezing.names - freezing.names:
        _forget(run, freezing)
    moved = (before.moved if before else frozenset()) | frozenset(freezing.trained)
    lr = run.experiment.optimizer.learning_rate
    rates = run.policy.rates(phase, lr)
    rates = {part: rate * _multiplier(run, part, past) for part, rate in rates.items()}
    factor = plateau_factor(training, losses[span.first - 1 :], "minimize")
    return Regime(span, phase, freezing, phase.base(lr), rates, factor, moved, _boundary(run, moved))


def _boundary(run: Run, moved: Collection[str]) -> int:
    """Return how many stages, from the input, make of an image what they made of it when the run began."""
    if not run.runs_by_stages:
        return 0
    still = (
        stage not in moved and not (run.policy.norm_stats == "updated" and has_running_norms(run.parts[stage]))
        for stage in run.policy.stages
    )
    return sum(itertools.takewhile(bool, still))


def _narrowed(run: Run, phase: PhasePlan, past: Sequence[Past]) -> PhasePlan:
    """Return the phase without the stages that AutoFreeze has stopped."""
    if run.policy.auto != "autofreeze":
        return phase
    count = autofreeze_count(phase.stages, [epoch.gradients for epoch in past])
    return dataclasses.replace(phase, stages=phase.stages[count:])


def _multiplier(run: Run, part: str, past: Sequence[Past]) -> float:
    """Return a part's multiple of its lr under Auto-RGN and Auto-SNR; in the first epoch all have 1."""
    if not past or run.policy.auto not in ("rgn", "snr"):
        return 1.0
    multipliers = rgn_multipliers if run.policy.auto == "rgn" else snr_multipliers
    return multipliers(past[-1].gradients).get(part, 1.0)


def _forget(run: Run, freezing: Freezing) -> None:
    for part in run.parts.values():
        for name, parameter in named_parameters(part):
            if name not in freezing.names:
                parameter.grad = None
                run.optimizer.state.pop(parameter, None)
