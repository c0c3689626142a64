"""Trials that ran out of memory, told to real studies; in the measured ones two of five depths do not fit."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import TrialState

from fttune.config.workspace import Workspace
from fttune.searching import Asked, Outcome, facts_of, front, open_storage, open_study
from fttune.searching.avoiding import Avoiding, will_not_fit
from fttune.searching.constraints import ran_out
from fttune.searching.samplers import sampler_for
from tests.recipes import study_of_several, tiny_study
from tests.searching.inline import search
from tests.searching.test_memory import contents, transactions

DEPTH, LR = "freeze.unfrozen_stages", "optimizer.lr"
FITS = 2
FEW = 10


def value(params: Any) -> float:
    """The deepest that fits is best, at an lr of 0.01."""
    return 0.5 + 0.1 * params[DEPTH] - 0.05 * (math.log10(params[LR]) + 2) ** 2


def of_deep_ones(state: str) -> Callable[[Asked], Outcome]:
    def run(asked: Asked) -> Outcome:
        if asked.values[DEPTH] > FITS:
            return Outcome(state, cause="training.batch_size is 8: not even one sample fits")  # type: ignore[arg-type]
        return Outcome("complete", value(asked.values), 1 + asked.values[DEPTH], 1)

    return run


def searched(root: Path, **fields: Any) -> optuna.Study:
    """Run a study in a store of its own, in memory."""
    root.mkdir(exist_ok=True)
    study = tiny_study(root, **fields)
    stored = open_study(study, open_storage("sqlite:///:memory:", locks=root / "locks"), {"a": 1})
    search(study, stored, of_deep_ones("out_of_memory"))
    return stored


def deep(trials: list[optuna.trial.FrozenTrial]) -> int:
    return sum(trial.params[DEPTH] > FITS for trial in trials)


def baseline(root: Path, seed: int, *, trials: int) -> int:
    """How many deep proposals plain Optuna makes when such trials fail, after the first ones; the same seeds."""
    study = tiny_study(root, sampler={"type": "tpe", "seed": seed})
    plain = optuna.create_study(direction="maximize")
    for number in range(trials):
        plain.sampler = sampler_for(study, number)
        trial = plain.ask()
        study.suggest(trial)
        if trial.params[DEPTH] > FITS:
            plain.tell(trial, state=TrialState.FAIL)
        else:
            plain.tell(trial, value(trial.params))
    return deep(plain.trials[FEW:])


@pytest.mark.parametrize("seed", [0, 1])
def test_tpe_soon_proposes_nothing_that_does_not_fit(seed: int, tmp_path: Path) -> None:
    stored = searched(tmp_path / "own", sampler={"type": "tpe", "seed": seed}, budget__n_trials=32, batch=1)
    ignoring = baseline(tmp_path, seed, trials=32)
    assert deep(stored.trials[FEW:]) <= 1 < 10 <= ignoring
    assert stored.best_trial.params[DEPTH] == FITS


@pytest.mark.parametrize("sampler", ["random", "gp", "cmaes"])
def test_other_samplers_avoid_it_too(sampler: str, tmp_path: Path) -> None:
    stored = searched(tmp_path, sampler={"type": sampler, "seed": 0}, budget__n_trials=16, batch=1)
    assert deep(stored.trials[FEW:]) <= 1
    assert stored.best_trial.params[DEPTH] <= FITS


@pytest.mark.parametrize("sampler", ["tpe", "gp", "cmaes", "random"])
def test_a_study_that_goes_on_proposes_what_an_uninterrupted_one_does(sampler: str, tmp_path: Path) -> None:
    fields = {"sampler": {"type": sampler, "seed": 3}, "batch": 4}
    whole = searched(tmp_path / "whole", budget__n_trials=14, **fields)
    storage = open_storage("sqlite:///:memory:", locks=tmp_path)
    for n_trials in (4, 8, 14):
        study = tiny_study(tmp_path, budget__n_trials=n_trials, **fields)
        stored = open_study(study, storage, {"a": 1})
        search(study, stored, of_deep_ones("out_of_memory"))
    assert deep(whole.trials) > 0
    assert [trial.params for trial in stored.trials] == [trial.params for trial in whole.trials]


def test_it_counts_as_pruned_without_a_value_and_carries_the_constraint(tmp_path: Path, workspace: Workspace) -> None:
    study = tiny_study(tmp_path, budget__n_trials=8)
    storage = open_storage(workspace.optuna_uri, locks=workspace.locks)
    stored = open_study(study, storage, {"a": 1})
    search(study, stored, of_deep_ones("out_of_memory"))
    plain = optuna.load_study(study_name="tiny", storage=workspace.optuna_uri)
    assert contents(plain.trials) == contents(stored.trials)
    assert len(plain.trials) == 8
    assert deep(plain.trials) > 0
    for trial in plain.trials:
        fits = trial.params[DEPTH] <= FITS
        assert trial.state is (TrialState.COMPLETE if fits else TrialState.PRUNED)
        assert trial.constraints == ({} if fits else {"memory": 1.0})
        assert fits or trial.value is None
        assert facts_of(trial).state == ("complete" if fits else "out_of_memory")  # type: ignore[union-attr]
    assert plain.best_trial.params[DEPTH] <= FITS


def test_its_constraint_is_the_only_transaction_more(tmp_path: Path, workspace: Workspace) -> None:
    study = tiny_study(tmp_path, budget__n_trials=1)
    storage = open_storage(workspace.optuna_uri, locks=workspace.locks)
    stored = open_study(study, storage, {"a": 1})
    at_start: list[int] = []
    with transactions(storage.engine) as seen:
        search(study, stored, lambda _: (at_start.append(len(seen)), Outcome("out_of_memory", cause="none"))[1])
    assert len(seen) - at_start[0] == 2 + 1


def test_what_it_had_reported_before_is_no_value(tmp_path: Path, workspace: Workspace) -> None:
    study = tiny_study(tmp_path, pruner={"type": "median", "startup_trials": 9}, budget__n_trials=1)
    stored = open_study(study, open_storage(workspace.optuna_uri, locks=workspace.locks), {"a": 1})
    search(study, stored, lambda asked: (asked.judge(1, 0.9, 1), Outcome("out_of_memory", cause="none"))[1])
    assert (stored.trials[0].state, stored.trials[0].value) == (TrialState.PRUNED, None)


def test_only_trials_that_fit_are_on_the_front(tmp_path: Path, workspace: Workspace) -> None:
    study = study_of_several(tmp_path, sampler__type="tpe", budget__n_trials=24)
    stored = open_study(study, open_storage(workspace.optuna_uri, locks=workspace.locks), {"a": 1})

    def run(asked: Asked) -> Outcome:
        if asked.values[DEPTH] > FITS:
            return Outcome("out_of_memory", cause="none")
        return Outcome("complete", value(asked.values), 1, 1, others=(1.0 + asked.values[DEPTH],))

    search(study, stored, run)
    assert deep(stored.trials[:FEW]) > 0
    assert deep(stored.trials[FEW:]) <= 1
    assert {trial.number for trial in front(stored)} == {trial.number for trial in stored.best_trials}


def test_a_trial_that_fits_after_a_crash_is_not_held_to_have_failed(tmp_path: Path, workspace: Workspace) -> None:
    """A kill between the constraint and the end of a trial; the next attempt finds more memory."""
    study = tiny_study(tmp_path, budget__n_trials=1)
    storage = open_storage(workspace.optuna_uri, locks=workspace.locks)
    stored = open_study(study, storage, {"a": 1})

    class KilledError(BaseException):
        pass

    def kill(*_: object) -> bool:
        raise KilledError

    memory = stored._storage
    memory.set_trial_state_values = kill  # type: ignore[method-assign, assignment]
    with pytest.raises(KilledError):
        search(study, stored, lambda _: Outcome("out_of_memory", cause="none"))
    assert ran_out(optuna.load_study(study_name="tiny", storage=workspace.optuna_uri).trials[0])
    again = open_study(study, storage, {"a": 1})
    search(study, again, lambda _: Outcome("complete", 0.5, 1, 1))
    trials = optuna.load_study(study_name="tiny", storage=workspace.optuna_uri).trials
    assert [(trial.state, ran_out(trial)) for trial in trials] == [(TrialState.COMPLETE, False)]


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({LR: 0.5, DEPTH: 3}, True),  # the rate does not matter
        ({LR: 0.1, DEPTH: 4}, True),  # more takes no less
        ({LR: 0.1, DEPTH: 2}, False),
        ({LR: 0.1, DEPTH: "all"}, False),  # nobody here knows how many that are
        ({LR: 0.1, DEPTH: 3.0}, False),  # a share
        ({LR: 0.1}, False),
        ({LR: 0.1, DEPTH: 3, "training.precision": "fp32"}, False),  # nothing is known of what acts in other places
    ],
)
def test_what_needs_as_much_memory_will_not_fit(params: dict[str, Any], expected: bool) -> None:
    assert will_not_fit(params, [{LR: 0.1, DEPTH: 3}]) is expected


def test_where_only_rates_are_searched_nothing_is_avoided() -> None:
    assert not will_not_fit({LR: 0.1, "seed": 1}, [{LR: 0.1, "seed": 1}])


class Always(RandomSampler):
    """Proposes one point again and again."""

    def sample_relative(self, *_: Any) -> dict[str, Any]:
        return {DEPTH: 4}

    def sample_independent(self, *_: Any) -> Any:
        return 4


def test_a_proposal_is_made_even_where_nothing_seems_to_fit() -> None:
    failed: list[dict[str, Any]] = [{DEPTH: 0}]
    always: BaseSampler = Always()
    study = optuna.create_study(sampler=Avoiding(always, always, failed=failed, order=[DEPTH]))
    assert study.ask({DEPTH: optuna.distributions.IntDistribution(0, 4)}).params == {DEPTH: 4}
