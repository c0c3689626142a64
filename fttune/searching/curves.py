"""The values that trials reported on the way, as pruners look at them.

With one objective they are Optuna's intermediate values. Optuna refuses these to studies of several objectives, and
its TPE fails on a pruned trial that has some. There they are an attribute of the trial, and a pruner is handed a view
of the study that has the first objective alone: the reported values are that one's.
"""

import copy
from collections.abc import Container, Mapping

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

CURVE = "fttune.curve"


def report(trial: Trial, value: float, *, step: int) -> None:
    """Store what a trial has reached at a step, unless that is stored already."""
    if len(trial.study.directions) == 1:
        trial.report(value, step=step)
        return
    curve = trial.storage.get_trial(trial._trial_id).user_attrs.get(CURVE, {})
    if str(step) not in curve:  # keys of JSON are text
        trial.set_user_attr(CURVE, {**curve, str(step): value})


def curve_of(trial: FrozenTrial) -> Mapping[int, float]:
    """Return what a trial has reported, by step."""
    own = trial.user_attrs.get(CURVE)
    return trial.intermediate_values if own is None else {int(step): value for step, value in own.items()}


def with_curve(trial: FrozenTrial) -> FrozenTrial:
    """Return the trial with what it has reported as Optuna's intermediate values."""
    if CURVE not in trial.user_attrs:
        return trial
    seen = copy.copy(trial)
    seen.intermediate_values = dict(curve_of(trial))
    return seen


def first_objective(stored: optuna.Study) -> optuna.Study:
    """Return a study as pruners are to read it: with its first objective alone, where it has several."""
    return stored if len(stored.directions) == 1 else _FirstObjective(stored)


class _FirstObjective(optuna.Study):
    def __init__(self, stored: optuna.Study) -> None:
        super().__init__(stored.study_name, stored._storage, pruner=stored.pruner)
        self._directions = stored.directions[:1]
        self._ended: dict[int, FrozenTrial] = {}  # they do not change any more, and are asked for after every epoch

    def get_trials(self, deepcopy: bool = True, states: Container[TrialState] | None = None) -> list[FrozenTrial]:
        return [self._with_curve(trial) for trial in super().get_trials(deepcopy, states)]

    @property
    def best_trial(self) -> FrozenTrial:
        complete = self.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if not complete:
            raise ValueError("no trial is complete")
        sign = -1.0 if self.direction is StudyDirection.MAXIMIZE else 1.0
        return min(complete, key=lambda trial: (sign * trial.values[0], trial.number))

    def _with_curve(self, trial: FrozenTrial) -> FrozenTrial:
        if not trial.state.is_finished():
            return with_curve(trial)
        if trial.number not in self._ended:
            self._ended[trial.number] = with_curve(trial)
        return self._ended[trial.number]
