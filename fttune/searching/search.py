"""Ask, run, tell until the budget is spent. Knows Optuna and the budget; where trials run, the executor knows."""

import json
import math
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import takewhile

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from fttune.config import Study
from fttune.config.distributions import encoded
from fttune.errors import TooManyFailures
from fttune.searching.avoiding import Avoiding
from fttune.searching.constraints import record_memory, unused_constraints
from fttune.searching.executors import Asked, Ended, Executor, Handle, Outcome
from fttune.searching.history import History
from fttune.searching.pruning import Pruning, pruning_of
from fttune.searching.samplers import drawing_sampler_for, sampler_for
from fttune.searching.store import FACTS, TrialFacts, facts_of
from fttune.searching.warm_start import enqueue
from fttune.training import Verdict

MAX_REPEATS = 3
GIVEN_UP = "the search ended before this trial did"


Abandon = Callable[[Asked, str], None]
Reuse = Callable[[Asked, Outcome, int], None]
Together = Callable[[Asked], Hashable]


@dataclass(frozen=True)
class Hooks:
    """What a search calls of whoever runs and logs its trials.

    `together` returns what trials of a block agree on that are submitted as one cohort. `abandon` is called for a trial
    that is about to be told as failed, since the budget leaves no room for it, with the cause; `reuse` for one that is
    about to be told the value of another with the same recipe, with its outcome and the other's number; `told` with a
    trial's number and its outcome once they are stored.
    """

    together: Together = lambda asked: asked.number
    abandon: Abandon = lambda *_: None
    reuse: Reuse = lambda *_: None
    told: Callable[[int, Outcome], None] = lambda *_: None


NO_HOOKS = Hooks()


def search(
    study: Study,
    stored: optuna.Study,
    executor: Executor,
    hooks: Hooks = NO_HOOKS,
) -> None:
    """Run trials until `study.total_trials` are complete or pruned, or the time is up.

    Trials are asked in blocks of `batch` consecutive numbers before any of the block runs. Trials that an earlier
    process left running come first, under their own numbers. Those that the budget leaves no room for are told as
    failed, with their cause. A trial whose recipe equals that of a complete one does not run: it is told that one's
    value. Whatever runs where, trials are told in the order of their numbers; with successive halving and hyperband, in
    that order on the way to each rung.

    Raises:
        TooManyFailures: `budget.max_failed` trials in a row failed.
    """
    for baseline in study.baselines:
        stored.enqueue_trial({n: encoded(value) for n, value in baseline.items()}, skip_if_exists=True)
    enqueue(stored)
    history = History(study, stored)
    failed_in_a_row = _failed_last(stored)
    while not history.is_spent() and (block := _next_block(study, stored, history)):
        pruning = pruning_of(study, stored)
        asked = {t.number: Asked(t.number, resumed, study.values(t.params), pruning.judge(t)) for t, resumed in block}
        running = _Block(study, history, executor, pruning, asked, hooks.reuse)
        for trial, outcome in running.outcomes([trial for trial, _ in block], hooks.together):
            hooks.told(trial.number, outcome)
            failed_in_a_row = failed_in_a_row + 1 if outcome.state == "failed" else 0
            if failed_in_a_row >= study.budget.max_failed:
                _give_up(study, stored, hooks.abandon)
                raise TooManyFailures(
                    f"{failed_in_a_row} trials in a row failed (budget.max_failed), the last one, "
                    f"trial {trial.number}, because: {outcome.cause}"
                )
    _give_up(study, stored, hooks.abandon)


def _never(*_: float) -> Verdict:
    raise AssertionError("a trial that has ended is not judged")


@dataclass
class _Block:
    """Trials that were asked together, on their way to their outcomes.

    What a trial computes in a cohort depends, in its last bits, on who is in it. So trials of the block that trained
    and ended before this process began stand in the cohorts that they were in, and are not run again.
    """

    study: Study
    history: History
    executor: Executor
    pruning: Pruning
    asked: Mapping[int, Asked]
    reuse: Reuse
    _elapsed: dict[int, float] = field(default_factory=lambda: defaultdict(float))
    _seconds: dict[int, float] = field(default_factory=dict)
    _later: set[int] = field(default_factory=set)

    def outcomes(self, trials: Sequence[Trial], together: Together) -> Iterator[tuple[Trial, Outcome]]:
        """Run the block; yield its trials in the order of their numbers, each once it has been told.

        Where trials pause at rungs, that is the order of those that end on the way to the same one.
        """
        ended = self.history.trained_beside(trials[0].number)
        # A recipe that is there already, or will be, does not train: it takes no part in a cohort.
        block: list[Trial | FrozenTrial] = sorted([*trials, *ended], key=lambda trial: -trial.number)
        first_with = {self.history.recipe(trial): trial.number for trial in block}
        alone = {t.number for t in trials if self.history.twin(t) or first_with[self.history.recipe(t)] != t.number}
        beside = [Asked(t.number, True, self.study.values(t.params), _never) for t in ended]
        members = sorted([*self.asked.values(), *beside], key=lambda one: one.number)
        for cohort in _cohorts([one for one in members if one.number not in alone], together):
            if running := [one for one in cohort if one.number in self.asked]:
                self.executor.submit(running, attempt=1)
        self._later = alone
        left = trials
        while left := (yield from self._to_next_rung(left)):
            going_on = [self.asked[trial.number] for trial in left if trial.number not in self._later]
            self.executor.submit(going_on, attempt=1)
        self.executor.cancel(Handle(tuple(self.asked)), hard=True)

    def _to_next_rung(self, trials: Sequence[Trial]) -> Generator[tuple[Trial, Outcome], None, list[Trial]]:
        """Run trials until each has ended or waits at a rung; decide on those, and return those that are to go on.

        A trial with the recipe of one that waits, waits for what becomes of it.
        """
        events = self.executor.events()
        early: dict[int, Ended] = {}
        paused: list[Trial] = []
        postponed: list[Trial] = []
        for trial in trials:
            number, started = trial.number, time.monotonic()
            if self.history.is_spent():
                return []
            if (twin := self.history.twin(trial)) is not None:
                self._later.discard(number)
                yield trial, _reused(trial, self.asked[number], twin, self.reuse)
                continue
            recipe = self.history.recipe(trial)
            if recipe is not None and recipe in map(self.history.recipe, paused):
                postponed.append(trial)
                continue
            if number in self._later:
                self._later.discard(number)
                self.executor.submit([self.asked[number]], attempt=1)
            while number not in early:
                ended = next(events)
                early[ended.number] = ended
            self._elapsed[number] += time.monotonic() - started
            if (seconds := early[number].seconds) is not None:
                self._seconds[number] = self._seconds.get(number, 0.0) + seconds
            outcome = early[number].outcome
            if outcome.state == "paused":
                paused.append(trial)
            else:
                yield trial, _told(trial, outcome, self._elapsed[number], self._seconds.get(number), recipe)
        self.pruning.decide(paused)
        return sorted(paused + postponed, key=lambda trial: trial.number)


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
    sampler = sampler_for(study, number, at_random=history.repeats(number) > MAX_REPEATS)
    if history.ran_out:
        instead, order = drawing_sampler_for(study, number), study.searched.order
        sampler = Avoiding(sampler, instead, failed=history.ran_out, order=order)
    stored.sampler = sampler
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
    value, *others = twin.values
    outcome = Outcome("complete", value, found.trainable_parameters, found.best_epoch, others=tuple(others))
    reuse(asked, outcome, twin.number)
    _record(trial, replace(found, seconds=0.0, reused_from=twin.number))
    _tell(trial, outcome)
    return outcome


def _told(trial: Trial, outcome: Outcome, elapsed: float, seconds: float | None, recipe: str | None) -> Outcome:
    """Store how a trial ended; `seconds` are None where no other trial was at work meanwhile."""
    facts = TrialFacts(
        state=outcome.state,
        seconds=elapsed if seconds is None else seconds,
        elapsed_seconds=None if seconds is None else elapsed,
        trainable_parameters=outcome.trainable_parameters,
        best_epoch=outcome.best_epoch,
        cause=outcome.cause,
        recipe=recipe,
    )
    _record(trial, facts)
    record_memory(trial, ran_out=outcome.state == "out_of_memory")
    with unused_constraints():
        _tell(trial, outcome)
    return outcome


def _record(trial: Trial, facts: TrialFacts) -> None:
    trial.set_user_attr(FACTS, json.dumps(asdict(facts)))


def _tell(trial: Trial, outcome: Outcome) -> None:
    if outcome.state == "complete":
        assert outcome.value is not None, "a complete trial has a value"
        trial.study.tell(trial, [outcome.value, *outcome.others])
    elif outcome.state == "failed":
        trial.study.tell(trial, state=TrialState.FAIL)
    else:
        if outcome.state in ("diverged", "out_of_memory"):
            # Optuna gives a pruned trial its last report as value; a NaN there leaves it without one, as it should be.
            # With several objectives it knows of no report, and gives none.
            last = trial.storage.get_trial(trial._trial_id).last_step
            if last is not None:
                trial.report(math.nan, step=last + 1)
        trial.study.tell(trial, state=TrialState.PRUNED)


def _failed_last(stored: optuna.Study) -> int:
    """Return how many trials in a row failed last, in earlier processes too: each may have died of its trial."""
    ended = (t for t in reversed(stored.get_trials(deepcopy=False)) if t.state.is_finished())
    ran = (t for t in ended if (facts := facts_of(t)) is None or facts.cause != GIVEN_UP)
    return sum(1 for _ in takewhile(lambda trial: trial.state is TrialState.FAIL, ran))


def _give_up(study: Study, stored: optuna.Study, abandon: Abandon) -> None:
    """Tell the asked trials that will not run; they do not count, and nothing stays running."""
    for trial in stored.get_trials(deepcopy=False):
        if trial.state is TrialState.RUNNING:
            abandon(Asked(trial.number, True, study.values(trial.params), lambda *_: "prune"), GIVEN_UP)
            _record(Trial(stored, trial._trial_id), TrialFacts(state="failed", seconds=0.0, cause=GIVEN_UP))
            stored.tell(trial.number, state=TrialState.FAIL)
