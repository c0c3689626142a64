"""Ask, run, tell until the budget is spent. Knows Optuna and the budget; what a trial does, the objective knows."""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Protocol

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from fttune.config import Study
from fttune.config.distributions import encoded
from fttune.errors import TooManyFailures
from fttune.searching.history import History
from fttune.searching.samplers import sampler_for
from fttune.searching.store import FACTS, TrialFacts, facts_of

PRUNED_AT = "fttune.pruned_at"
MAX_REPEATS = 3


@dataclass(frozen=True)
class Asked:
    """One trial to run.

    `values` are the fields of the space, to be filled into the experiment. `resumed` says that an earlier process
    has begun this trial. `prune(epoch, value)` reports the metric of an epoch, counted from 1, and answers whether
    to stop there.
    """

    number: int
    resumed: bool
    values: Mapping[str, Any]
    prune: Callable[[int, float], bool]


@dataclass(frozen=True)
class Outcome:
    """How a trial ended; `value` belongs to complete trials, `cause` to failed and diverged ones."""

    state: Literal["complete", "pruned", "diverged", "failed"]
    value: float | None = None
    trainable_parameters: int | None = None
    best_epoch: int | None = None
    cause: str | None = None


Abandon = Callable[[Asked, str], None]
Reuse = Callable[[Asked, Outcome, int], None]


class Objective(Protocol):
    """Runs one trial; a failure of the trial is an outcome, an exception ends the search."""

    def __call__(self, asked: Asked) -> Outcome: ...


def search(
    study: Study,
    stored: optuna.Study,
    objective: Objective,
    *,
    abandon: Abandon = lambda *_: None,
    reuse: Reuse = lambda *_: None,
) -> None:
    """Run trials until `study.total_trials` are complete or pruned, or the time is up.

    Trials are asked in blocks of `batch` consecutive numbers before any of the block runs. Trials that an earlier
    process left running come first, under their own numbers. Those that the budget leaves no room for are told as
    failed, with their cause, after `abandon` was called for each. A trial whose recipe equals that of a complete one
    does not run: it is told that one's value, after `reuse` was called with its outcome and the other's number.

    Raises:
        TooManyFailures: `budget.max_failed` trials in a row failed.
    """
    for baseline in study.baselines:
        stored.enqueue_trial({n: encoded(value) for n, value in baseline.items()}, skip_if_exists=True)
    history = History(study, stored)
    failed_in_a_row = 0
    while not history.is_spent() and (block := _next_block(study, stored, history)):
        for trial, resumed in block:
            if history.is_spent():
                break
            asked = Asked(trial.number, resumed, study.values(trial.params), _pruning(study, trial))
            twin, recipe = history.twin(trial), history.recipe(trial)
            outcome = _reused(trial, asked, twin, reuse) if twin else _run(trial, asked, objective, recipe)
            failed_in_a_row = failed_in_a_row + 1 if outcome.state == "failed" else 0
            if failed_in_a_row >= study.budget.max_failed:
                _give_up(study, stored, abandon)
                raise TooManyFailures(
                    f"{failed_in_a_row} trials in a row failed (budget.max_failed), the last one, "
                    f"trial {trial.number}, because: {outcome.cause}"
                )

    _give_up(study, stored, abandon)


def is_spent(study: Study, stored: optuna.Study) -> bool:
    """Return whether the budget of trials or of time is used up."""
    return History(study, stored).is_spent()


def _next_block(study: Study, stored: optuna.Study, history: History) -> list[tuple[Trial, bool]]:
    """Return the block to run: what is left running of it, and the rest of it asked now."""
    running = history.running
    block = [(_attach(study, stored, history, t), True) for t in running]
    room = study.total_trials - history.counted - len(running)
    first = running[0].number if running else history.next_number
    end = (first // study.batch + 1) * study.batch
    while room > 0 and history.next_number < end:
        block.append((_ask(study, stored, history), False))
        room -= 1
    return block


def _ask(study: Study, stored: optuna.Study, history: History) -> Trial:
    number = history.next_number
    if study.sampler.type == "grid" and (point := history.next_grid_point()) is not None:
        stored.enqueue_trial(point)
    with _proposing(study, stored, history, number):
        trial = stored.ask()
        study.suggest(trial)
    return trial


@contextmanager
def _proposing(study: Study, stored: optuna.Study, history: History, number: int) -> Iterator[None]:
    """Make the study propose trial `number`: by its own sampler, which sees a bounded part of the history.

    What is asked within is stored at the end, at once.
    """
    stored.sampler = sampler_for(study, number, at_random=history.repeats(number) > MAX_REPEATS)
    with history.memory.asking(history.seen(number)):
        yield


def _attach(study: Study, stored: optuna.Study, history: History, frozen: FrozenTrial) -> Trial:
    """Return a running trial of an earlier process as it was: number and parameters stay."""
    with _proposing(study, stored, history, frozen.number):
        trial = Trial(stored, frozen._trial_id)
        if not _is_asked(study, frozen):
            _redraw(study, trial, frozen)
            study.suggest(trial)
    return trial


def _is_asked(study: Study, frozen: FrozenTrial) -> bool:
    """Return whether a trial has all of its parameters: a kill amid asking leaves some out."""
    values = study.values(frozen.params)
    try:
        study.searched.draw(lambda name, _: values[name])
    except KeyError:
        return False
    return True


def _redraw(study: Study, trial: Trial, frozen: FrozenTrial) -> None:
    """Draw again what was drawn one by one before a kill amid asking: the generator then goes on as it would have."""
    for name in study.searched.order:
        drawn = frozen.distributions.get(name)
        if drawn is None or drawn.single() or trial._is_fixed_param(name, drawn):
            continue
        if not trial._is_relative_param(name, drawn):
            trial.study.sampler.sample_independent(trial.study, frozen, name, drawn)


def _reused(trial: Trial, asked: Asked, twin: FrozenTrial, reuse: Reuse) -> Outcome:
    """End a trial with the value of another that trained the same recipe."""
    found = facts_of(twin)
    assert found is not None, "a complete trial has facts"
    outcome = Outcome("complete", twin.value, found.trainable_parameters, found.best_epoch)
    reuse(asked, outcome, twin.number)
    _record(trial, replace(found, seconds=0.0, reused_from=twin.number))
    _tell(trial, outcome)
    return outcome


def _run(trial: Trial, asked: Asked, objective: Objective, recipe: str | None) -> Outcome:
    started = time.monotonic()
    outcome = objective(asked)
    facts = TrialFacts(
        state=outcome.state,
        seconds=time.monotonic() - started,
        trainable_parameters=outcome.trainable_parameters,
        best_epoch=outcome.best_epoch,
        cause=outcome.cause,
        recipe=recipe,
    )
    _record(trial, facts)
    _tell(trial, outcome)
    return outcome


def _record(trial: Trial, facts: TrialFacts) -> None:
    trial.set_user_attr(FACTS, json.dumps(asdict(facts)))


def _tell(trial: Trial, outcome: Outcome) -> None:
    if outcome.state == "complete":
        trial.study.tell(trial, outcome.value)
    elif outcome.state == "failed":
        trial.study.tell(trial, state=TrialState.FAIL)
    else:
        if outcome.state == "diverged":
            # Optuna gives a pruned trial its last report as value; a NaN there leaves it without one, as it should be.
            last = trial.storage.get_trial(trial._trial_id).last_step
            if last is not None:
                trial.report(math.nan, step=last + 1)
        trial.study.tell(trial, state=TrialState.PRUNED)


def _pruning(study: Study, trial: Trial) -> Callable[[int, float], bool]:
    """Return the trial's `prune`. What an earlier process reported is not reported, nor asked, a second time.

    Without a pruner nothing is reported: each report is a transaction, and MLflow has the curve.
    """
    if study.pruner.type == "none":
        return lambda *_: False
    frozen = trial.storage.get_trial(trial._trial_id)
    reported = frozen.last_step or 0
    pruned_at = frozen.user_attrs.get(PRUNED_AT)

    def prune(epoch: int, value: float) -> bool:
        if pruned_at is not None:
            return bool(epoch >= pruned_at)
        if epoch < reported:
            return False
        if epoch > reported:
            trial.report(value, step=epoch)
        if not trial.should_prune():
            return False
        trial.set_user_attr(PRUNED_AT, epoch)
        return True

    return prune


def _give_up(study: Study, stored: optuna.Study, abandon: Abandon) -> None:
    """Tell the asked trials that will not run; they do not count, and nothing stays running."""
    cause = "the search ended before this trial did"
    for trial in stored.get_trials(deepcopy=False):
        if trial.state is TrialState.RUNNING:
            abandon(Asked(trial.number, True, study.values(trial.params), lambda *_: False), cause)
            _record(Trial(stored, trial._trial_id), TrialFacts(state="failed", seconds=0.0, cause=cause))
            stored.tell(trial.number, state=TrialState.FAIL)
