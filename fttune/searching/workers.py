"""Trials in other processes: which worker runs what, and what becomes of the trials of one that dies or falls silent.

Knows neither how a worker is reached nor what it does: a worker is a connection, over which tasks go out, and what
trials say, ask and come to comes back. A worker has one task at a time, and a connection belongs to one worker: what
an attempt says after it was given up reaches nobody.
"""

import time
from collections import deque
from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import wait
from typing import Any, Protocol

from fttune.errors import WorkFailed
from fttune.interruption import uninterrupted
from fttune.searching.executors import Asked, Ended, Handle, Outcome
from fttune.training import Verdict

STOP_SECONDS = 25.0  # for a worker that is to finish its step and write its state
MAX_FAILED_STARTS = 5  # in a row: whatever ends workers before they begin ends the next one too


@dataclass(frozen=True)
class Task:
    """Trials to run one after another, by their numbers; `attempt` is that of the first."""

    trials: tuple[Asked, ...]
    attempt: int


@dataclass(frozen=True)
class Ready:
    """A worker has prepared itself: from now on it may be given tasks."""


@dataclass(frozen=True)
class Said:
    """Something that a worker says of a trial at work, for the listener."""

    what: Any


@dataclass(frozen=True)
class Question:
    """Something that a worker asks the listener, and waits for."""

    what: Any


@dataclass(frozen=True)
class Raised:
    """What ended a worker, or the answer to a question; it is raised on the other side."""

    error: BaseException


class Line(Protocol):
    """A connection: what comes in can be waited for at its file descriptor."""

    def send(self, what: Any, /) -> None: ...
    def recv(self) -> Any: ...
    def fileno(self) -> int: ...


class Worker(Protocol):
    """A process that says Ready once it runs, and takes tasks from its connection."""

    @property
    def connection(self) -> Line: ...

    def stop(self) -> None:
        """Order it to finish the step under way, to write where it stands, and to end."""
        ...

    def kill(self) -> None:
        """End it at once where it still lives, and close its connection."""
        ...

    def cause(self) -> str:
        """Return what it died of, once its connection has ended."""
        ...


class Listener(Protocol):
    """The driver's side of what happens to trials in workers."""

    def said(self, what: Any) -> None:
        """Take what a worker says of a trial."""
        ...

    def answer(self, trials: Sequence[Asked], what: Any) -> Any:
        """Return the answer to a question of a worker that is at work on trials. What it raises is raised there."""
        ...

    def settle(self) -> None:
        """Settle what a trial has said, which has ended or paused, before the search is told."""
        ...

    def lost(self, trials: Sequence[Asked], cause: str) -> dict[int, Outcome]:
        """Take note of an attempt at trials that ended with its worker; return the outcomes of those to give up."""
        ...


@dataclass
class _Slot:
    """A place for one worker; `moved` is when it last said something, `held` are the trials that pause in it."""

    number: int
    worker: Worker | None = None
    ready: bool = False
    task: Task | None = None
    left: set[int] = field(default_factory=set)
    held: set[int] = field(default_factory=set)
    shared: Hashable = None
    moved: float = 0.0

    def trials_left(self) -> list[Asked]:
        return [asked for asked in self.task.trials if asked.number in self.left] if self.task else []


class Workers:
    """Runs cohorts in up to `count` workers: where a trial pauses, else where the last one had the same `shares`.

    `start` makes the worker of a place, counted from 0. One whose task does not move on for `stalled_seconds` is
    ended, as if it had died: its trials begin another attempt, together once more, then each by itself, so that the one
    to blame is found, unless the listener gives them up.
    A worker has no task before it is ready, which may take as long as there is no room for it.

    Raises:
        WorkFailed: several workers in a row died before they were ready, or none was for `stalled_seconds`.
    """

    def __init__(
        self,
        start: Callable[[int], Worker],
        listener: Listener,
        *,
        count: int,
        stalled_seconds: float,
        shares: Callable[[Asked], Hashable] = lambda _: None,
    ) -> None:
        self._start, self._listener, self._shares = start, listener, shares
        self._stalled_seconds = stalled_seconds
        self._slots = [_Slot(number) for number in range(count)]
        self._waiting: deque[Task] = deque()
        self._begun: set[int] = set()
        self._ended: deque[Ended] = deque()
        self._failed_starts = 0

    def submit(self, cohort: Sequence[Asked], attempt: int) -> Handle:
        """Queue trials: together, but for those that pause in a worker."""
        held = {number for slot in self._slots for number in slot.held}
        together = tuple(asked for asked in cohort if asked.number not in held)
        alone = [(asked,) for asked in cohort if asked.number in held]
        self._waiting.extend(Task(trials, attempt) for trials in (*alone, together) if trials)
        return Handle(tuple(asked.number for asked in cohort), attempt)

    def events(self) -> Iterator[Ended]:
        """Hand out what is queued, and yield how trials end, in whatever order they do."""
        while self._waiting or self._ended or any(slot.task for slot in self._slots):
            self._hand_out()
            if not self._ended:
                self._receive()
            while self._ended:
                yield self._ended.popleft()

    def cancel(self, handle: Handle, *, hard: bool) -> None:
        """Drop queued trials; `hard` also ends the workers that are at work on some, without an event."""
        numbers = set(handle.numbers)
        kept = [replace(task, trials=_without(task.trials, numbers)) for task in self._waiting]
        self._waiting = deque(task for task in kept if task.trials)
        for slot in self._slots if hard else ():
            slot.held -= numbers
            if slot.left & numbers:
                others = _without(slot.trials_left(), numbers)
                self._empty(slot)
                self._waiting.extendleft(_again(asked, 1) for asked in reversed(others))

    def slots(self) -> int:
        """Return how many workers there may be."""
        return len(self._slots)

    def close(self) -> None:
        """End all workers, whatever is raised; those with trials write where they stand first, and are heard."""
        live = [slot for slot in self._slots if slot.worker and slot.ready]
        for slot in live:
            assert slot.worker is not None, "just asked"
            with suppress(OSError):  # it has ended
                slot.worker.stop()
        end = time.monotonic() + STOP_SECONDS
        try:
            while (listening := [slot for slot in live if slot.worker]) and time.monotonic() < end:
                for slot in self._ready(listening, end - time.monotonic()):
                    self._take(slot, closing=True)
        finally:
            for slot in self._slots:
                self._empty(slot)
            self._waiting.clear()

    def _hand_out(self) -> None:
        """Give tasks to those who are ready, and start a worker for each task that is left."""
        for slot in self._slots:
            if slot.ready and slot.task is None and (task := self._next_for(slot)) is not None:
                self._waiting.remove(task)
                self._begin(slot, task)
        starting = sum(1 for slot in self._slots if slot.worker and not slot.ready)
        for slot in self._slots:
            if slot.worker is None and starting < len(self._waiting) and self._next_for(slot) is not None:
                with uninterrupted():
                    slot.worker, slot.moved = self._start(slot.number), time.monotonic()
                starting += 1

    def _next_for(self, slot: _Slot) -> Task | None:
        """Return the queued task that an idle worker should run: one of its own, else the first that is nobody's."""
        others = [other for other in self._slots if other is not slot and other.worker is not None]
        elsewhere = {number for other in others for number in other.held}
        free = [task for task in self._waiting if task.trials[0].number not in elsewhere]
        own = [task for task in free if task.trials[0].number in slot.held]
        taken = {other.shared for other in others}
        alike = [task for task in free if slot.worker and self._shares(task.trials[0]) == slot.shared]
        fresh = [task for task in free if self._shares(task.trials[0]) not in taken]
        return next((tasks[0] for tasks in (own, alike, fresh, free) if tasks), None)

    def _begin(self, slot: _Slot, task: Task) -> None:
        numbers = {asked.number for asked in task.trials}
        sent = tuple(_sendable(asked, self._begun) for asked in task.trials)
        self._begun |= numbers
        slot.held -= numbers
        assert slot.worker is not None, "it is ready"
        with uninterrupted():
            slot.task, slot.left, slot.moved = task, numbers, time.monotonic()
            slot.shared = self._shares(task.trials[0])
            with suppress(OSError):  # it has died meanwhile, which is noticed next
                slot.worker.connection.send(replace(task, trials=sent))

    def _receive(self) -> None:
        """Take what one or more workers have to say; end those that have been silent for too long."""
        live = [slot for slot in self._slots if slot.worker]
        busy = [slot for slot in live if slot.task]
        due = min(slot.moved for slot in busy or live) + self._stalled_seconds
        for slot in self._ready(live, max(0.0, due - time.monotonic())):
            self._take(slot)
        minutes = f"{self._stalled_seconds / 60:g} minutes"
        for slot in busy:
            if slot.task and time.monotonic() - slot.moved >= self._stalled_seconds:
                self._lose(slot, f"no progress for {minutes}")
        if not busy and time.monotonic() >= due and not any(slot.ready for slot in live):
            raise WorkFailed(f"no worker has begun for {minutes} (stalled_minutes): give them room, or ask for less")

    def _ready(self, slots: Sequence[_Slot], timeout: float) -> list[_Slot]:
        found = wait([slot.worker.connection.fileno() for slot in slots if slot.worker], timeout)
        return [slot for slot in slots if slot.worker and slot.worker.connection.fileno() in found]

    def _take(self, slot: _Slot, *, closing: bool = False) -> None:
        """Take one message of a worker."""
        assert slot.worker is not None, "it has said something"
        with uninterrupted():
            try:
                message = slot.worker.connection.recv()
            except (EOFError, OSError):
                if closing:
                    self._empty(slot)
                else:
                    self._lose(slot, slot.worker.cause())
                return
            slot.moved = time.monotonic()
            if isinstance(message, Ended):
                self._end(slot, message)
            elif isinstance(message, Ready):
                slot.ready, self._failed_starts = True, 0
            elif isinstance(message, Said):
                self._listener.said(message.what)
            elif isinstance(message, Question):
                self._answer(slot, message)
        if isinstance(message, Raised) and not closing:
            raise message.error

    def _answer(self, slot: _Slot, question: Question) -> None:
        assert slot.worker is not None, "it has asked"
        try:
            answer = self._listener.answer(slot.trials_left(), question.what)
        except Exception as error:  # noqa: BLE001 (it is raised where it was asked)
            answer = Raised(error)
        with suppress(OSError):  # it has died meanwhile, which is noticed next
            slot.worker.connection.send(answer)

    def _end(self, slot: _Slot, ended: Ended) -> None:
        slot.left.discard(ended.number)
        if ended.outcome.state == "paused":
            slot.held.add(ended.number)
        if not slot.left:
            slot.task = None
        self._listener.settle()
        self._ended.append(ended)

    def _lose(self, slot: _Slot, cause: str) -> None:
        """Begin another attempt at the trials of a worker that is no more; most deaths do not come again."""
        lost, attempt = slot.trials_left(), slot.task.attempt if slot.task else 1
        self._failed_starts += not slot.ready
        self._empty(slot)
        if self._failed_starts >= MAX_FAILED_STARTS:
            raise WorkFailed(f"{self._failed_starts} workers in a row ended before they began, the last one: {cause}")
        given_up = self._listener.lost(lost, cause) if lost else {}
        self._ended.extend(Ended(number, attempt, outcome) for number, outcome in given_up.items())
        again = _without(lost, given_up)
        if attempt == 1 and again:
            self._waiting.appendleft(Task(tuple(replace(asked, resumed=True) for asked in again), attempt + 1))
        else:
            self._waiting.extendleft(_again(asked, attempt + 1) for asked in reversed(again))

    @staticmethod
    def _empty(slot: _Slot) -> None:
        """End a worker, if there is one; its place is free."""
        if slot.worker is not None:
            slot.worker.kill()
        slot.worker, slot.ready, slot.task, slot.shared = None, False, None, None
        slot.left, slot.held = set(), set()


def _without(trials: Sequence[Asked], numbers: Collection[int]) -> tuple[Asked, ...]:
    return tuple(asked for asked in trials if asked.number not in numbers)


def _again(asked: Asked, attempt: int) -> Task:
    return Task((replace(asked, resumed=True, cohort=()),), attempt)


def _sendable(asked: Asked, begun: Collection[int]) -> Asked:
    """Return a trial without judges, who stay here and are asked from there; those that have begun are resumed."""
    cohort = tuple(_sendable(replace(one, cohort=()), begun) for one in asked.cohort)
    return replace(asked, judge=_elsewhere, resumed=asked.resumed or asked.number in begun, cohort=cohort)


def _elsewhere(*_: float) -> Verdict:
    raise AssertionError("the judge is in another process")
