"""Configurations that did not fit into memory: a constraint of the search, as Optuna knows constraints.

A trial that ran out of memory is told as pruned, without a value, and carries the constraint as violated. So it is in
the store for whoever reads it. What samplers make of that differs:

- TPE counts it among the bad trials, after all that are pruned, whatever the others say of the constraint.
- GP learns from complete trials alone, and wants all of these or none to say something of a constraint. So it is shown
  such a trial as complete, with the worst values so far, and all others as satisfying it.
- CMA-ES learns nothing from it, and draws again until its generation is full of complete trials.
- Random and grid proposals look at no trial.
"""

import copy
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from optuna.trial import FrozenTrial, Trial, TrialState

from fttune.config import Study

MEMORY = "memory"
_KEY = f"constraints:{MEMORY}"  # where Optuna stores it
VIOLATED, SATISFIED = 1.0, -1.0  # Optuna: feasible where none is above 0; GP puts the border in between


def record_memory(trial: Trial, *, ran_out: bool) -> None:
    """Store that a trial ran out of memory; or that it did not, where an earlier attempt at it did."""
    known = trial.storage.get_trial_system_attrs(trial._trial_id).get(_KEY)
    if ran_out and known is None:
        trial.set_constraint(MEMORY, VIOLATED)
    elif known is not None:  # which `set_constraint` does not change
        trial.storage.set_trial_system_attr(trial._trial_id, _KEY, VIOLATED if ran_out else SATISFIED)


@contextmanager
def unused_constraints() -> Iterator[None]:
    """Tell trials without the warning of CMA-ES, at each that carries a constraint, that it does not use it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Constraints have been set")
        yield


def ran_out(trial: FrozenTrial) -> bool:
    """Return whether a trial ran out of memory."""
    return trial.constraints.get(MEMORY, SATISFIED) > 0


def shown_to_sampler(trials: list[FrozenTrial], study: Study) -> list[FrozenTrial]:
    """Return trials as the sampler of a study is to see them."""
    if study.sampler.type != "gp" or not any(map(ran_out, trials)):
        return trials
    complete = [trial.values for trial in trials if trial.state is TrialState.COMPLETE]
    if not complete:
        return trials
    signs = np.array([-1.0 if objective.direction == "maximize" else 1.0 for objective in study.objectives])
    worst = ((np.array(complete) * signs).max(axis=0) * signs).tolist()
    return [_shown(trial, worst) for trial in trials]


def _shown(trial: FrozenTrial, worst: Sequence[float]) -> FrozenTrial:
    violated = ran_out(trial)
    if not (violated or trial.state is TrialState.COMPLETE):
        return trial
    shown = copy.copy(trial)
    shown.system_attrs = {**trial.system_attrs, _KEY: VIOLATED if violated else SATISFIED}
    if violated:
        shown.state, shown.values = TrialState.COMPLETE, list(worst)
    return shown
