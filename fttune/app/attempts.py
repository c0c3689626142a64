"""Attempts at trials: which failed of what, and whether another one may help.

Counted are deaths of the process while the whole command lived, and failures of what a trial stands on: files, memory,
stores. What the recipe, the data or foreign code got wrong would only happen again.
"""

import traceback
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from fttune.errors import FttuneError
from fttune.files import write_text
from fttune.searching import Outcome, attempts, source_of
from fttune.searching.attempts import FailedAttempt
from fttune.training.events import WARM_START, RunClosed

if TYPE_CHECKING:
    import optuna

TRACEBACK = "traceback.txt"
PASSING = (OSError, *attempts.STORE_FAILURES)


class Watch(Protocol):
    """Who outlives this process and tells the next one of its end; see `cli/supervisor.py`."""

    @property
    def cause(self) -> str | None: ...
    @property
    def trials(self) -> tuple[int, ...]: ...
    @property
    def epochs(self) -> int: ...
    def note(self, trials: Sequence[int], epochs: int = 0) -> None: ...


class Tries(Protocol):
    """What trials ask about their attempts, and tell of them, where they train. See `Attempts`."""

    def at_work(self, numbers: Sequence[int]) -> AbstractContextManager[None]: ...
    def reached(self, epochs: int) -> None: ...
    def alone(self, number: int) -> bool: ...
    def used_up(self, number: int) -> str | None: ...
    def another(self, number: int, cause: str | None) -> bool: ...
    def tags(self, number: int) -> dict[str, str]: ...


@dataclass
class Attempts:
    """The attempts at the trials of a study; after `retries` more than the first without progress there is no other."""

    stored: "optuna.Study"
    retries: int
    watch: Watch | None = None
    _failed: dict[int, tuple[FailedAttempt, ...]] = field(default_factory=dict)
    _at_work: tuple[int, ...] = ()
    _epochs: int = 0

    def __post_init__(self) -> None:
        """Take note of what the process before died of, where this command has seen it die."""
        self._failed = attempts.failed_attempts(self.stored)
        if self.watch is None:
            return
        if self.watch.cause is not None:
            running = attempts.running(self.stored).intersection(self.watch.trials)
            together = len(self.watch.trials) > 1
            self.died(sorted(running), self.watch.cause, epochs=self.watch.epochs, together=together)
        self.watch.note(())

    def died(self, numbers: Sequence[int], cause: str, *, epochs: int, together: bool) -> None:
        """Take note of what the process that was at work on trials died of, `epochs` into it."""
        for number in numbers:
            self._note(number, FailedAttempt(cause, epochs, together))

    @contextmanager
    def at_work(self, numbers: Sequence[int]) -> Iterator[None]:
        """Within, these trials are held to be what the process dies of."""
        self._mark(numbers)
        try:
            yield
        finally:
            self._mark(())

    def reached(self, epochs: int) -> None:
        """Note that the trial at work has ended so many epochs."""
        if len(self._at_work) == 1:
            self._epochs = epochs
            if self.watch is not None:
                self.watch.note(self._at_work, epochs)

    def alone(self, number: int) -> bool:
        """Return whether a trial is to train apart from others: so it is found out which of them was to blame."""
        return bool(self._failed.get(number))

    def used_up(self, number: int) -> str | None:
        """Return why there is to be no other attempt at a trial, None while there is."""
        failed = self._failed.get(number, ())
        row = attempts.in_a_row(failed)
        return f"{failed[-1].cause} (attempt {len(failed)})" if row > self.retries else None

    def another(self, number: int, cause: str | None) -> bool:
        """Take note of an attempt that failed here; return whether there is to be another one."""
        self._note(number, FailedAttempt(cause or "", self._epochs))
        return self.used_up(number) is None

    def tags(self, number: int) -> dict[str, str]:
        """Return what a run of MLflow says of the attempts before, and of the trial that its configuration is from."""
        failed = self._failed.get(number, ())
        tags = {attempts.ATTEMPTS: str(len(failed) + 1), attempts.LAST_CAUSE: failed[-1].cause} if failed else {}
        source = source_of(self.stored, number)
        return tags | {WARM_START: source} if source else tags

    def _note(self, number: int, failed: FailedAttempt) -> None:
        self._failed[number] = (*self._failed.get(number, ()), failed)
        attempts.store_failed_attempts(self.stored, number, self._failed[number])

    def _mark(self, numbers: Sequence[int]) -> None:
        self._at_work, self._epochs = tuple(numbers), 0
        if self.watch is not None:
            self.watch.note(self._at_work)


def ended_by(error: BaseException) -> tuple[Outcome, RunClosed]:
    """Return how a trial ends by what it raised: failed, or interrupted by what may have passed at the next attempt."""
    cause = str(error) if isinstance(error, FttuneError) else f"{type(error).__name__}: {error}"
    state = "interrupted" if isinstance(error, PASSING) else "failed"
    return Outcome("failed", cause=cause), RunClosed(state, {"fttune.cause": cause})


def write_traceback(folder: Path, error: BaseException) -> Path:
    """Write where a trial failed, and return the file. Raises OSError."""
    file = folder / TRACEBACK
    text = "".join(traceback.format_exception(error))
    write_text(file, text)
    return file
