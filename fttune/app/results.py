"""A stored study as rows for the report room."""

from typing import TYPE_CHECKING

from fttune import searching
from fttune.report import TrialRow

if TYPE_CHECKING:
    import optuna


def front_rows(stored: "optuna.Study") -> list[TrialRow]:
    """Return the trials that no other one dominates, in the order of `rows_of`."""
    return [_row(trial) for trial in searching.front(stored)]


def rows_of(stored: "optuna.Study") -> list[TrialRow]:
    """Return every trial: complete ones best first (of several objectives the front), then the others by number."""
    best = searching.ranked(stored)
    order = {trial.number: position for position, trial in enumerate(best)}
    trials = sorted(stored.get_trials(deepcopy=False), key=lambda t: (order.get(t.number, len(best)), t.number))
    return [_row(trial) for trial in trials]


def _row(trial: "optuna.trial.FrozenTrial") -> TrialRow:
    facts = searching.facts_of(trial)
    return TrialRow(
        number=trial.number,
        state=facts.state if facts else trial.state.name.lower(),
        value=trial.values[0] if trial.values else None,
        values=tuple(trial.values or ()),
        params=trial.params,
        best_epoch=facts.best_epoch if facts else None,
        trainable_parameters=facts.trainable_parameters if facts else None,
        seconds=facts.seconds if facts else None,
        reused_from=facts.reused_from if facts else None,
        cause=facts.cause if facts else None,
    )
