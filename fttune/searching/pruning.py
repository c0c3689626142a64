"""When a trial stops early: the judge that is asked after each of its epochs, for every kind of pruner.

Medians, and no pruner at all, look at one trial after the other. Successive halving and hyperband decide on a block of
trials at once: all train to a rung and pause there, the best go on, the others are pruned. Optuna's own pruners decide
on each trial as it arrives, so that the first ones of a study always go on. With several objectives all look at the
first one.
"""

import math
from collections.abc import Sequence
from typing import Literal, Protocol

import optuna
from optuna.pruners import _filter_study
from optuna.trial import FrozenTrial, Trial

from fttune.config import Study
from fttune.config.pruners import HyperbandPruner, NoPruner, SuccessiveHalvingPruner
from fttune.searching.curves import curve_of, first_objective, report, with_curve
from fttune.searching.executors import Judge
from fttune.training import Verdict

PRUNED_AT = "fttune.pruned_at"


class Pruning(Protocol):
    """Decides on the trials of one block."""

    def judge(self, trial: Trial) -> Judge:
        """Return what is asked after each epoch of a trial."""
        ...

    def decide(self, paused: Sequence[Trial]) -> None:
        """Decide on the trials that wait at a rung; nobody of the block is on the way to one."""
        ...


def pruning_of(study: Study, stored: optuna.Study) -> Pruning:
    """Return the pruning of a block. Nothing is decided twice: what an earlier process reported counts."""
    if isinstance(study.pruner, SuccessiveHalvingPruner | HyperbandPruner):
        return Rungs(study.pruner, stored, batch=study.batch)
    return OneByOne(stored, pruner=None if isinstance(study.pruner, NoPruner) else stored.pruner)


class OneByOne:
    """Optuna's pruner decides on each trial by itself, after every epoch.

    Without a pruner nothing is reported: each report is a transaction, and MLflow has the curve.
    """

    def __init__(self, stored: optuna.Study, *, pruner: optuna.pruners.BasePruner | None) -> None:
        self._pruner, self._seen = pruner, first_objective(stored)

    def judge(self, trial: Trial) -> Judge:
        """Report each epoch and ask Optuna."""
        if (pruner := self._pruner) is None:
            return lambda *_: "go"
        frozen = trial.storage.get_trial(trial._trial_id)
        reported, pruned_at = max(curve_of(frozen), default=0), frozen.user_attrs.get(PRUNED_AT)

        def judge(epoch: int, value: float, _: int) -> Verdict:
            if pruned_at is not None:
                return "prune" if epoch >= pruned_at else "go"
            if epoch < reported:
                return "go"
            if epoch > reported:
                report(trial, value, step=epoch)
            if not pruner.prune(self._seen, with_curve(trial.storage.get_trial(trial._trial_id))):
                return "go"
            trial.set_user_attr(PRUNED_AT, epoch)
            return "prune"

        return judge

    def decide(self, paused: Sequence[Trial]) -> None:
        """Do nothing: no trial pauses."""


class Rungs:
    """Successive halving (Jamieson & Talwalkar 2016), in brackets for hyperband (Li et al., JMLR 2018).

    The rungs of bracket s are `min_epochs * reduction_factor ** (s + k)` for k = 0, 1, ..., in epochs since the last
    phase of the policy began, so that a recipe is not judged by what it does before its own last part. The values there
    are the only ones that are reported of a trial, under the number of these epochs as step.

    A trial goes on when its value at the rung is among the best `1 / reduction_factor` of all trials of its bracket
    that came so far, those of its own block among them (as ASHA counts, Li et al. 2020); at least the best one does.
    All this is a function of what is stored, so that a search which starts again decides the same. That a trial is
    pruned is stored when it is decided: later a recipe that waited for another one may have come to the rung too.
    """

    def __init__(self, pruner: SuccessiveHalvingPruner | HyperbandPruner, stored: optuna.Study, *, batch: int) -> None:
        self._first, self._factor = pruner.min_epochs, pruner.reduction_factor
        self._stored, self._batch = stored, batch
        self._waits_at: dict[int, int] = {}
        self._decided: dict[tuple[int, int], Literal["go", "prune"]] = {}

    def judge(self, trial: Trial) -> Judge:
        """Report the value at a rung, and pause there until `decide` has decided."""
        frozen = trial.storage.get_trial(trial._trial_id)
        rung = self._first * self._factor ** _bracket(self._stored, frozen)
        reported, pruned_at = max(curve_of(frozen), default=0), frozen.user_attrs.get(PRUNED_AT)

        def judge(_: int, value: float, settled: int) -> Verdict:
            if not self._is_rung(settled, first=rung):
                return "go"
            if settled == pruned_at:
                return "prune"
            if (decided := self._decided.get((trial.number, settled))) is not None:
                return decided
            if settled > reported:
                report(trial, value, step=settled)
            self._waits_at[trial.number] = settled
            return "pause"

        return judge

    def decide(self, paused: Sequence[Trial]) -> None:
        """Let the best of each bracket go on."""
        for trial in paused:
            frozen = self._stored._storage.get_trial(trial._trial_id)
            rung = self._waits_at[trial.number]
            others = _filter_study(self._stored, frozen).get_trials(deepcopy=False)
            end = (trial.number // self._batch + 1) * self._batch
            reported = (curve_of(other).get(rung, math.nan) for other in others if other.number < end)
            values = [value for value in reported if not math.isnan(value)]  # a diverged trial's last report is NaN
            goes_on = is_among_best(
                curve_of(frozen)[rung],
                values,
                share=self._factor,
                maximize=self._stored.directions[0] is optuna.study.StudyDirection.MAXIMIZE,
            )
            self._decided[trial.number, rung] = "go" if goes_on else "prune"
            if not goes_on:
                trial.set_user_attr(PRUNED_AT, rung)

    def _is_rung(self, settled: int, *, first: int) -> bool:
        while first < settled:
            first *= self._factor
        return settled == first


def is_among_best(value: float, values: Sequence[float], *, share: int, maximize: bool) -> bool:
    """Return whether a value of `values` is among their best `1 / share`, or is the best one; ties are."""
    best_first = sorted(values, reverse=maximize)
    last = best_first[max(1, len(values) // share) - 1]
    return value >= last if maximize else value <= last


def _bracket(stored: optuna.Study, trial: FrozenTrial) -> int:
    """Return the bracket that Optuna's hyperband puts a trial into, by its number; samplers see that one's trials."""
    bracket: int = getattr(_filter_study(stored, trial), "_bracket_id", 0)
    return bracket
