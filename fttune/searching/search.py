"""Ask, run, tell until the budget is spent. Knows Optuna and the budget; where trials run, the executor knows."""

import json
import math
import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from fttune.config import Study
from fttune.config.distributions import encoded
from fttune.errors import TooManyFailures
from fttune.searching.executors import Asked, Executor, Handle, Outcome
from fttune.searching.history import History
from fttune.searching.samplers import sampler_for
from fttune.searching.store import FACTS, TrialFacts, facts_of

PRUNED_AT = "fttune.pruned_at"
MAX_REPEATS = 3


Abandon = Callable[[Asked, str], None]
Reuse = Callable[[Asked, Outcome, int], None]
Together = Callable[[Asked], Hashable]


def search(
    study: Study,
    stored: optuna.Study,
    executor: Executor,
    *,
    together: Together = lambda asked: asked.number,
    abandon: Abandon = lambda *_: None,
    reuse: Reuse = lambda *_: None,
) -> None:
    """Run trials until `study.total_trials` are complete or pruned, or the time is up.

    Trials are asked in blocks of `batch` consecutive numbers before any of the block runs. Those of a block with the
    same `together` are submitted as one cohort. Trials that an earlier process left running come first, under their
    own numbers. Those that the budget leaves no room for are told as failed, with their cause, after `abandon` was
    called for each. A trial whose recipe equals that of a complete one does not run: it is told that one's value, after
    `reuse` was called with its outcome and the other's number. Whatever runs where, trials are told in the order of
    their numbers.

    Raises:
        TooManyFailures: `budget.max_failed` trials in a row failed.
    """
    for baseline in study.baselines:
        stored.enqueue_trial({n: encoded(value) for n, value in baseline.items()}, skip_if_exists=True)
    history = History(study, stored)
    failed_in_a_row = 0
    while not history.is_spent() and (block := _next_block(study, stored, history)):
        for trial, outcome in _outcomes(study, block, executor, history, together=together, reuse=reuse):
            failed_in_a_row = failed_in_a_row + 1 if outcome.state == "failed" else 0
            if failed_in_a_row >= study.budget.max_failed:
                _give_up(study, stored, abandon)
                raise TooManyFailures(
                    f"{failed_in_a_row} trials in a row failed (budget.max_failed), the last one, "
                    f"trial {trial.number}, because: {outcome.cause}"
                )
    _give_up(study, stored, abandon)


def _outcomes(
    study: Study,
    block: Sequence[tuple[Trial, bool]],
    executor: Executor,
    history: History,
    *,
    together: Together,
    reuse: Reuse,
) -> Iterator[tuple[Trial, Outcome]]:
    """Run a block; yield its trials in the order of their numbers, each once it has been told."""
    asked = {t.number: Asked(t.number, resumed, study.values(t.params), _pruning(study, t)) for t, resumed in block}
    # A recipe that is there already, or will be, does not train: it takes no part in a cohort.
    first_with = {history.recipe(t): t.number for t, _ in reversed(block)}
    alone = {t.number for t, _ in block if history.twin(t) or first_with[history.recipe(t)] != t.number}
    for cohort in _cohorts(asked.values(), lambda one: one.number if one.number in alone else together(one)):
        executor.submit(cohort, attempt=1)
    events = executor.events()
    early: dict[int, Outcome] = {}
    for trial, _ in block:
        if history.is_spent():
            break
        number, started = trial.number, time.monotonic()
        if (twin := history.twin(trial)) is not None:
            executor.cancel(Handle((number,)), hard=True)
            yield trial, _reused(trial, asked[number], twin, reuse)
            continue
        while number not in early:
            ended = next(events)
            early[ended.number] = ended.outcome
        yield trial, _told(trial, early[number], time.monotonic() - started, history.recipe(trial))
    executor.cancel(Handle(tuple(asked)), hard=True)


def _cohorts(asked: Iterable[Asked], together: Together) -> list[tuple[Asked, ...]]:
    """Return trials grouped by what they have in common; each knows its cohort."""
    groups: dict[Hashable, list[Asked]] = defaultdict(list)
    for one in asked:
        groups[together(one)].append(one)
    return [tuple(replace(one, cohort=tuple(group)) for one in group) for group in groups.values()]


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


def _told(trial: Trial, outcome: Outcome, seconds: float, recipe: str | None) -> Outcome:
    """Store how a trial ended."""
    facts = TrialFacts(
        state=outcome.state,
        seconds=seconds,
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
