"""Where trials run: the search submits cohorts and takes outcomes, whatever computes them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from fttune.training import Verdict

# Takes an epoch, counted from 1, its metric, and how many epochs ago the last phase of the policy began.
Judge = Callable[[int, float, int], Verdict]


@dataclass(frozen=True)
class Asked:
    """One trial to run.

    `values` are the fields of the space, to be filled into the experiment. `resumed` says that an earlier process has
    begun this trial. `judge` is asked after each epoch. `cohort` are the trials that were submitted together with it,
    itself among them.
    """

    number: int
    resumed: bool
    values: Mapping[str, Any]
    judge: Judge
    cohort: "tuple[Asked, ...]" = field(default=(), repr=False, compare=False)


@dataclass(frozen=True)
class Outcome:
    """How a trial ended; `value` belongs to complete trials, `cause` to failed, diverged and out-of-memory ones.

    `others` are the values of the study's further objectives, in their order, where it has several.
    A paused one has not ended: submitted again it goes on, its judge asked anew about the epoch after which it paused.
    """

    state: Literal["complete", "pruned", "diverged", "out_of_memory", "failed", "paused"]
    value: float | None = None
    trainable_parameters: int | None = None
    best_epoch: int | None = None
    cause: str | None = None
    others: tuple[float, ...] = ()


class Objective(Protocol):
    """Runs one trial; a failure of the trial is an outcome, an exception ends the search."""

    def __call__(self, asked: Asked) -> Outcome: ...


@dataclass(frozen=True)
class Handle:
    """Trials that were submitted: their numbers, and which attempt at them it is."""

    numbers: tuple[int, ...]
    attempt: int = 1


@dataclass(frozen=True)
class Ended:
    """A trial has ended, or has paused; an event of an older attempt than the last one submitted is to be ignored.

    `seconds` is how long it was at work, where others are at the same time; else the search knows.
    """

    number: int
    attempt: int
    outcome: Outcome
    seconds: float | None = None


class Executor(Protocol):
    """Runs cohorts: trials that may share work. What a trial computes does not depend on its cohort."""

    def submit(self, cohort: Sequence[Asked], attempt: int) -> Handle:
        """Take trials to run."""
        ...

    def events(self) -> Iterator[Ended]:
        """Yield what happens to submitted trials, as it happens, until none is left."""
        ...

    def cancel(self, handle: Handle, *, hard: bool) -> None:
        """Drop the trials of a handle that have not begun; `hard` also ends those that have, without an event."""
        ...

    def slots(self) -> int:
        """Return how many trials can run at the same time."""
        ...

    def close(self) -> None:
        """Give back whatever is held; submitted trials are dropped in order, so that they can go on later."""
        ...


class Inline:
    """Runs trials in this process, one after another by their numbers, each when its event is waited for."""

    def __init__(self, objective: Objective) -> None:
        self._objective = objective
        self._waiting: dict[int, tuple[Asked, int]] = {}

    def submit(self, cohort: Sequence[Asked], attempt: int) -> Handle:
        """Queue trials."""
        self._waiting |= {asked.number: (asked, attempt) for asked in cohort}
        return Handle(tuple(asked.number for asked in cohort), attempt)

    def events(self) -> Iterator[Ended]:
        """Run the queued trial with the lowest number, yield how it ended, and so on. What a trial raises is raised."""
        while self._waiting:
            asked, attempt = self._waiting.pop(min(self._waiting))
            yield Ended(asked.number, attempt, self._objective(asked))

    def cancel(self, handle: Handle, *, hard: bool) -> None:  # noqa: ARG002 (none runs while its caller does)
        """Drop queued trials."""
        for number in handle.numbers:
            self._waiting.pop(number, None)

    def slots(self) -> int:
        """Return 1."""
        return 1

    def close(self) -> None:
        """Drop all queued trials."""
        self._waiting.clear()
