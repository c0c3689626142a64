from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from sqlalchemy import event

from fttune.config.workspace import Workspace
from fttune.errors import StoreError
from fttune.searching import Asked, Outcome, open_storage, open_study
from fttune.searching.memory import WriteThrough
from tests.recipes import tiny_study
from tests.searching.inline import search

NAMES = ("number", "state", "params", "distributions", "values", "user_attrs", "system_attrs")


def contents(trials: list[optuna.trial.FrozenTrial]) -> list[list[Any]]:
    """Every field, the reports as text: a diverged trial's last one is NaN, which does not equal itself."""
    return [[*(getattr(trial, name) for name in NAMES), repr(trial.intermediate_values)] for trial in trials]


@contextmanager
def transactions(engine: Any) -> Iterator[list[None]]:
    """Every commit of the database, reads included."""
    seen: list[None] = []

    def commits(_: object) -> None:
        seen.append(None)

    event.listen(engine, "commit", commits)
    yield seen
    event.remove(engine, "commit", commits)


def reporting(asked: Asked) -> Outcome:
    """A trial of five epochs, each offered to the pruner; every third is pruned or diverges."""
    for epoch in range(1, 6):
        if asked.judge(epoch, 0.1 * epoch + 0.01 * asked.number, epoch) == "prune":
            return Outcome("pruned", trainable_parameters=1, best_epoch=epoch)
    return Outcome("complete", 1.0 / (1 + asked.number), 1, 5) if asked.number % 3 else Outcome("diverged", cause="nan")


def test_a_trial_costs_two_transactions_beyond_asking_it_and_its_parameters(
    tmp_path: Path, workspace: Workspace
) -> None:
    study = tiny_study(tmp_path, sampler__type="tpe", budget__n_trials=12, batch=12)
    storage = open_storage(workspace.optuna_uri, locks=workspace.locks)
    stored = open_study(study, storage, {"a": 1})
    at_start: list[int] = []
    with transactions(storage.engine) as seen:
        search(study, stored, lambda asked: (at_start.append(len(seen)), reporting(asked))[1])
    assert at_start[0] == 12 + 1  # the first one's number is compared
    assert len(seen) - at_start[0] == 12 * 2


def test_a_report_is_one_transaction_more(tmp_path: Path, workspace: Workspace) -> None:
    study = tiny_study(tmp_path, pruner={"type": "median", "startup_trials": 12}, budget__n_trials=1)
    storage = open_storage(workspace.optuna_uri, locks=workspace.locks)
    stored = open_study(study, storage, {"a": 1})
    at_start: list[int] = []
    with transactions(storage.engine) as seen:
        search(
            study,
            stored,
            lambda asked: (at_start.append(len(seen)), asked.judge(1, 0.5, 1), Outcome("complete", 0.5))[2],
        )
    assert len(seen) - at_start[0] == 1 + 2


@pytest.mark.parametrize("pruner", ["none", "median", "successive_halving", "hyperband"])
def test_what_is_in_memory_is_what_plain_optuna_reads(pruner: str, tmp_path: Path, workspace: Workspace) -> None:
    baselines = [{"optimizer.lr": 0.01, "freeze.unfrozen_stages": 0}]
    study = tiny_study(tmp_path, sampler__type="tpe", pruner__type=pruner, budget__n_trials=12, baselines=baselines)
    stored = open_study(study, open_storage(workspace.optuna_uri, locks=workspace.locks), {"a": 1})
    search(study, stored, reporting)
    plain = optuna.load_study(study_name="tiny", storage=workspace.optuna_uri)
    again = open_study(study, open_storage(workspace.optuna_uri, locks=workspace.locks), {"a": 1})
    assert contents(stored.trials) == contents(plain.trials) == contents(again.trials)
    assert stored.user_attrs == plain.user_attrs == again.user_attrs
    assert stored.best_trial.number == plain.best_trial.number


def test_a_trial_that_another_program_stored_meanwhile_ends_the_search(tmp_path: Path, workspace: Workspace) -> None:
    study = tiny_study(tmp_path)
    stored = open_study(study, open_storage(workspace.optuna_uri, locks=workspace.locks), {"a": 1})
    optuna.load_study(study_name="tiny", storage=workspace.optuna_uri).ask()
    with pytest.raises(StoreError, match="study tiny: another program stored trial 0"):
        search(study, stored, reporting)


def test_an_asked_trial_is_stored_with_its_parameters_at_once(tmp_path: Path, workspace: Workspace) -> None:
    study = tiny_study(tmp_path)
    storage = open_storage(workspace.optuna_uri, locks=workspace.locks)
    open_study(study, storage, {"a": 1})
    memory = WriteThrough(storage, "tiny")
    stored = optuna.load_study(study_name="tiny", storage=memory)
    plain = optuna.load_study(study_name="tiny", storage=workspace.optuna_uri)
    with memory.asking(lambda trials: trials):
        asked = stored.ask()
        asked.suggest_float("x", 0, 1)
        assert plain.trials == []
    assert [(t.number, t.state, t.params) for t in plain.trials] == [(0, TrialState.RUNNING, asked.params)]
