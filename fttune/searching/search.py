"""Ask, run, tell until the budget is spent. Knows Optuna and the budget; what a trial does, the objective knows."""

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Protocol

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from fttune.config import Study
from fttune.config.distributions import Scalar, encoded
from fttune.config.recipe import trial_digest
from fttune.errors import TooManyFailures
from fttune.searching.samplers import sampler_for
from fttune.searching.store import COUNTED, FACTS, TrialFacts, counted, facts_of

PRUNED_AT = "fttune.pruned_at"
RECIPE = "fttune.recipe"
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
    failed_in_a_row = 0
    while not is_spent(study, stored) and (block := _next_block(study, stored)):
        for trial, resumed in block:
            if is_spent(study, stored):
                break
            asked = Asked(trial.number, resumed, study.values(trial.params), _pruning(trial))
            twin = _twin(trial)
            outcome = _reused(trial, asked, twin, reuse) if twin else _run(trial, asked, objective)
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
    return counted(stored) >= study.total_trials or _out_of_time(study, stored)


def _next_block(study: Study, stored: optuna.Study) -> list[tuple[Trial, bool]]:
    """Return the block to run: what is left running of it, and the rest of it asked now."""
    running = [t for t in stored.get_trials(deepcopy=False) if t.state is TrialState.RUNNING]
    block = [(_attach(study, stored, t), True) for t in running]
    room = study.total_trials - counted(stored) - len(running)
    first = running[0].number if running else _next_number(stored)
    end = (first // study.batch + 1) * study.batch
    while room > 0 and _next_number(stored) < end:
        block.append((_ask(study, stored), False))
        room -= 1
    return block


def _next_number(stored: optuna.Study) -> int:
    trials = stored.get_trials(deepcopy=False)
    waiting = [t.number for t in trials if t.state is TrialState.WAITING]
    return min(waiting, default=len(trials))


def _ask(study: Study, stored: optuna.Study) -> Trial:
    number = _next_number(stored)
    stored.sampler = _sampler(study, stored, number)
    if study.sampler.type == "grid" and (point := _next_grid_point(study, stored)) is not None:
        stored.enqueue_trial(point)
    trial = stored.ask()
    _suggest(study, trial)
    return trial


def _sampler(study: Study, stored: optuna.Study, number: int) -> optuna.samplers.BaseSampler:
    return sampler_for(study, number, at_random=_repeats(stored, number) > MAX_REPEATS)


def _attach(study: Study, stored: optuna.Study, frozen: FrozenTrial) -> Trial:
    """Return a running trial of an earlier process as it was: number and parameters stay."""
    stored.sampler = _sampler(study, stored, frozen.number)
    trial = Trial(stored, frozen._trial_id)
    if RECIPE not in frozen.user_attrs:
        _redraw(study, trial, frozen)
    _suggest(study, trial)
    return trial


def _redraw(study: Study, trial: Trial, frozen: FrozenTrial) -> None:
    """Draw again what was drawn one by one before a kill amid asking: the generator then goes on as it would have."""
    for name in study.searched.order:
        drawn = frozen.distributions.get(name)
        if drawn is None or drawn.single() or trial._is_fixed_param(name, drawn):
            continue
        if not trial._is_relative_param(name, drawn):
            trial.study.sampler.sample_independent(trial.study, frozen, name, drawn)


def _suggest(study: Study, trial: Trial) -> None:
    """Give a trial its parameters, and the digest of the recipe that they make; a refused one has none."""
    values = study.suggest(trial)
    if RECIPE not in trial.user_attrs and (digest := trial_digest(study, values)) is not None:
        trial.set_user_attr(RECIPE, digest)


def _repeats(stored: optuna.Study, number: int) -> int:
    """Return how many trials in a row just before `number` were proposals of a recipe that was there already.

    A recipe is there when an earlier trial is complete, or will run before: both are known again after a restart.
    """
    earlier = [t for t in stored.get_trials(deepcopy=False)[:number] if t.state in (*COUNTED, TrialState.RUNNING)]
    seen: set[str] = set()
    repeats = 0
    for trial in earlier:
        digest = trial.user_attrs.get(RECIPE)
        repeats = repeats + 1 if digest in seen else 0
        if digest is not None and trial.state is not TrialState.PRUNED:
            seen.add(digest)
    return repeats


def _twin(trial: Trial) -> FrozenTrial | None:
    """Return the first complete trial with the recipe of this one."""
    digest = trial.user_attrs.get(RECIPE)
    complete = trial.study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    return next((t for t in complete if digest is not None and t.user_attrs.get(RECIPE) == digest), None)


def _next_grid_point(study: Study, stored: optuna.Study) -> dict[str, Scalar] | None:
    """Return the first baseline or point that no trial has, a failed one's again. None while one is waiting."""
    trials = [t for t in stored.get_trials(deepcopy=False) if t.state is not TrialState.FAIL]
    if any(t.state is TrialState.WAITING for t in trials):
        return None
    done = [t.params for t in trials]
    return next((params for params in study.grid_params if params not in done), None)


def _reused(trial: Trial, asked: Asked, twin: FrozenTrial, reuse: Reuse) -> Outcome:
    """End a trial with the value of another that trained the same recipe."""
    found = facts_of(twin)
    assert found is not None, "a complete trial has facts"
    outcome = Outcome("complete", twin.value, found.trainable_parameters, found.best_epoch)
    reuse(asked, outcome, twin.number)
    _record(trial, replace(found, seconds=0.0, reused_from=twin.number))
    _tell(trial, outcome)
    return outcome


def _run(trial: Trial, asked: Asked, objective: Objective) -> Outcome:
    started = time.monotonic()
    outcome = objective(asked)
    facts = TrialFacts(
        state=outcome.state,
        seconds=time.monotonic() - started,
        trainable_parameters=outcome.trainable_parameters,
        best_epoch=outcome.best_epoch,
        cause=outcome.cause,
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
            last = trial.study.get_trials(deepcopy=False)[trial.number].last_step or 0
            trial.report(math.nan, step=last + 1)
        trial.study.tell(trial, state=TrialState.PRUNED)


def _pruning(trial: Trial) -> Callable[[int, float], bool]:
    """Return the trial's `prune`. What an earlier process reported is not reported, nor asked, a second time."""
    frozen = trial.study.get_trials(deepcopy=False)[trial.number]
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


def _out_of_time(study: Study, stored: optuna.Study) -> bool:
    if study.budget.timeout_minutes is None:
        return False
    facts = [facts_of(trial) for trial in stored.get_trials(deepcopy=False)]
    return sum(f.seconds for f in facts if f) >= 60 * study.budget.timeout_minutes


def _give_up(study: Study, stored: optuna.Study, abandon: Abandon) -> None:
    """Tell the asked trials that will not run; they do not count, and nothing stays running."""
    cause = "the search ended before this trial did"
    for trial in stored.get_trials(deepcopy=False):
        if trial.state is TrialState.RUNNING:
            abandon(Asked(trial.number, True, study.values(trial.params), lambda *_: False), cause)
            _record(Trial(stored, trial._trial_id), TrialFacts(state="failed", seconds=0.0, cause=cause))
            stored.tell(trial.number, state=TrialState.FAIL)
