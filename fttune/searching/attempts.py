"""Attempts at a trial that failed through no fault of its recipe, kept with the trial until it ends."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import optuna
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState
from sqlalchemy.exc import OperationalError

FAILED_ATTEMPTS = "fttune.failed_attempts"
ATTEMPTS = "fttune.attempts"
LAST_CAUSE = "fttune.last_cause"
STORE_FAILURES = (StorageInternalError, OperationalError)


@dataclass(frozen=True)
class FailedAttempt:
    """What an attempt failed of, after how many epochs; `together` with others, so that it may be innocent."""

    cause: str
    epochs: int = 0
    together: bool = False


def failed_attempts(stored: optuna.Study) -> dict[int, tuple[FailedAttempt, ...]]:
    """Return the failed attempts at each trial that has some, oldest first."""
    found = ((trial.number, trial.user_attrs.get(FAILED_ATTEMPTS)) for trial in stored.get_trials(deepcopy=False))
    return {number: tuple(FailedAttempt(**one) for one in failed) for number, failed in found if failed}


def running(stored: optuna.Study) -> set[int]:
    """Return the numbers of the trials that were asked and have not ended."""
    return {trial.number for trial in stored.get_trials(deepcopy=False, states=(TrialState.RUNNING,))}


def store_failed_attempts(stored: optuna.Study, number: int, failed: Sequence[FailedAttempt]) -> None:
    """Keep the failed attempts at a trial, and what people look for: the attempt that comes next, and why."""
    facts = {FAILED_ATTEMPTS: [asdict(one) for one in failed], ATTEMPTS: len(failed) + 1, LAST_CAUSE: failed[-1].cause}
    trial = optuna.trial.Trial(stored, stored.get_trials(deepcopy=False)[number]._trial_id)
    for name, value in facts.items():
        trial.set_user_attr(name, value)


def in_a_row(failed: Sequence[FailedAttempt]) -> int:
    """Return how many attempts in a row failed without coming further than those before; each of the trial alone."""
    furthest = count = 0
    for one in failed:
        if not one.together:
            count = 1 if one.epochs > furthest else count + 1
            furthest = max(furthest, one.epochs)
    return count
