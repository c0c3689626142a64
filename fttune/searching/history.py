"""What a search knows of its stored trials: kept up to date as they end, so that no trial costs a pass over all.

Everything here is a function of the stored trials, so a search that starts again knows what it knew. Also which of the
trials a sampler sees in a long study.
"""

from bisect import insort
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from fttune.config import Study
from fttune.config.distributions import Scalar
from fttune.config.recipe import trial_digest
from fttune.searching.constraints import ran_out, shown_to_sampler
from fttune.searching.memory import WriteThrough
from fttune.searching.samplers import seen_by
from fttune.searching.store import COUNTED, facts_of


class History:
    """The trials of a study, of which this process alone changes any.

    Each question first takes in the trials that were asked or have ended since the last one: a look at those that were
    unfinished then, and at the new ones.
    """

    def __init__(self, study: Study, stored: optuna.Study) -> None:
        memory = stored._storage
        assert isinstance(memory, WriteThrough), "studies come from open_study"
        self._study, self.memory = study, memory
        self._size = 0
        self._unfinished: dict[int, FrozenTrial] = {}
        self._counted = 0
        self._seconds = 0.0
        self._ranks: list[tuple[float, int]] = []
        self._first_with: dict[str, int] = {}
        self._recipes: dict[int, str | None] = {}
        self._taken: set[frozenset[tuple[str, Scalar]]] = set()
        self._repeats = _Repeats()
        self._ran_out: list[Mapping[str, Scalar]] = []

    def is_spent(self) -> bool:
        """Return whether the budget of trials or of time is used up, by trials that have ended."""
        minutes = self._study.budget.timeout_minutes
        return self.counted >= self._study.total_trials or (minutes is not None and self.seconds >= 60 * minutes)

    @property
    def counted(self) -> int:
        """How many trials count towards the budget: complete and pruned ones."""
        self._update()
        return self._counted

    @property
    def seconds(self) -> float:
        """How long the search took for all trials that have ended."""
        self._update()
        return self._seconds

    @property
    def running(self) -> list[FrozenTrial]:
        """The trials that were asked and have not ended, by number."""
        self._update()
        return [trial for trial in self._unfinished.values() if trial.state is TrialState.RUNNING]

    @property
    def next_number(self) -> int:
        """The number that the next trial to be asked gets: an enqueued one's, else a new one."""
        return min(self._waiting(), default=self._size)

    def recipe(self, trial: Trial | FrozenTrial) -> str | None:
        """Return the digest of the recipe that an asked trial's parameters make; a refused one has none."""
        if trial.number not in self._recipes:
            self._recipes[trial.number] = trial_digest(self._study, self._study.values(trial.params))
        return self._recipes[trial.number]

    def twin(self, trial: Trial | FrozenTrial) -> FrozenTrial | None:
        """Return the first complete trial with the recipe of this one."""
        self._update()
        digest = self.recipe(trial)
        number = None if digest is None else self._first_with.get(digest)
        return None if number is None else self.memory.get_trial(number)

    def trained_beside(self, number: int) -> list[FrozenTrial]:
        """Return the trials of the block of `number` that have ended, but for those that took over a value."""
        first = number // self._study.batch * self._study.batch
        trials = map(self.memory.get_trial, range(first, min(first + self._study.batch, self.memory.size)))
        ended = ((trial, facts_of(trial)) for trial in trials if trial.state.is_finished())
        return [trial for trial, facts in ended if facts is not None and facts.reused_from is None]

    @property
    def ran_out(self) -> Sequence[Mapping[str, Scalar]]:
        """The parameters of the trials that ran out of memory."""
        self._update()
        return self._ran_out

    def repeats(self, number: int) -> int:
        """Return how many trials in a row just before `number` were proposals of a recipe that was there already.

        A recipe is there when an earlier trial is complete, or will run before: both are known again after a restart.
        """
        self._update()
        walk = self._repeats
        for trial in map(self.memory.get_trial, range(walk.size, number)):
            if not trial.state.is_finished() and walk is self._repeats:
                walk = walk.branch()  # what follows may still change
            walk.add(trial, self._recipe_of(trial))
        return walk.in_a_row

    def next_grid_point(self) -> dict[str, Scalar] | None:
        """Return the first baseline or point that no trial has, a failed one's again. None while one is waiting."""
        if self._waiting():
            return None
        running = {frozenset(trial.params.items()) for trial in self.running}
        found = (i for i, key in enumerate(self._grid_keys) if key not in self._taken and key not in running)
        position = next(found, None)
        return None if position is None else self._study.grid_params[position]

    def seen(self, number: int) -> Callable[[list[FrozenTrial]], list[FrozenTrial]]:
        """Return what picks of all trials those that the sampler of trial `number` sees (`samplers.seen_by`)."""
        self._update()
        newest, best = seen_by(self._study)
        first = max(0, number - newest)
        older = (rank for _, rank in self._ranks if rank < first)
        kept = sorted(islice(older, best))
        return lambda trials: shown_to_sampler([*(trials[rank] for rank in kept), *trials[first:]], self._study)

    def _waiting(self) -> list[int]:
        self._update()
        return [number for number, trial in self._unfinished.items() if trial.state is TrialState.WAITING]

    def _update(self) -> None:
        numbers = [*self._unfinished, *range(self._size, self.memory.size)]
        self._size = self.memory.size
        for trial in map(self.memory.get_trial, numbers):
            if trial.state.is_finished():
                self._unfinished.pop(trial.number, None)
                self._take(trial)
            else:
                self._unfinished[trial.number] = trial

    def _take(self, trial: FrozenTrial) -> None:
        """Take in a trial that has ended."""
        self._recipes.pop(trial.number, None)
        facts = facts_of(trial)
        self._seconds += facts.spent if facts else 0.0
        if trial.state not in COUNTED:
            return
        self._counted += 1
        self._taken.add(frozenset(trial.params.items()))
        if ran_out(trial):
            self._ran_out.append(trial.params)
        if trial.state is TrialState.COMPLETE:
            value = trial.values[0]
            insort(self._ranks, (-value if self._study.direction == "maximize" else value, trial.number))
            if facts and facts.recipe:
                first = self._first_with.get(facts.recipe, trial.number)
                self._first_with[facts.recipe] = min(first, trial.number)

    def _recipe_of(self, trial: FrozenTrial) -> str | None:
        facts = facts_of(trial)
        return facts.recipe if facts else self.recipe(trial)

    @cached_property
    def _grid_keys(self) -> list[frozenset[tuple[str, Scalar]]]:
        return [frozenset(params.items()) for params in self._study.grid_params]


@dataclass
class _Repeats:
    """A walk over the first `size` trials: how many repeats stand at its end, and which recipes are there.

    `before` are those of the walk that it branched off.
    """

    size: int = 0
    in_a_row: int = 0
    there: set[str] = field(default_factory=set)
    before: Set[str] = frozenset()

    def branch(self) -> "_Repeats":
        return _Repeats(self.size, self.in_a_row, before=self.there)

    def add(self, trial: FrozenTrial, recipe: str | None) -> None:
        self.size += 1
        if trial.state not in (*COUNTED, TrialState.RUNNING):
            return
        self.in_a_row = self.in_a_row + 1 if recipe in self.there or recipe in self.before else 0
        if recipe is not None and trial.state is not TrialState.PRUNED:
            self.there.add(recipe)
