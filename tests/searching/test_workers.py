"""Which worker runs what, and what becomes of trials whose worker dies; workers here are threads behind real pipes."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

import pytest

from fttune.errors import WorkFailed
from fttune.searching import Asked, Outcome
from fttune.searching.executors import Ended, Handle
from fttune.searching.workers import MAX_FAILED_STARTS, Question, Raised, Ready, Said, Task, Workers

DONE = Outcome("complete", 1.0)
Play = Callable[["Connection[Any, Any]", Task], bool]  # returns whether the worker lives on


class Threaded:
    """A worker whose other end is a thread that plays a part, task after task, once it may begin."""

    def __init__(self, play: Play, begin: Callable[[], bool] = lambda: True) -> None:
        self.connection, self._theirs = Pipe()
        self.killed = self.stopped = False
        threading.Thread(target=self._serve, args=(play, begin), daemon=True).start()

    def _serve(self, play: Play, begin: Callable[[], bool]) -> None:
        try:
            if begin():
                self._theirs.send(Ready())
            else:
                self._theirs.close()
            while (task := self._theirs.recv()) is not None:
                if not play(self._theirs, task):
                    break
        except (EOFError, OSError):
            pass
        self._theirs.close()

    def stop(self) -> None:
        self.stopped = True
        self.connection.send(None)

    def kill(self) -> None:
        self.killed = True
        self.connection.close()

    def cause(self) -> str:
        return "killed by SIGSEGV"


@dataclass
class Heard:
    """A listener that remembers; trials of `without_retry` are given up when their worker is lost."""

    without_retry: set[int] = field(default_factory=set)
    told: list[Any] = field(default_factory=list)
    lost_trials: list[tuple[list[int], str]] = field(default_factory=list)
    settled: int = 0

    def said(self, what: Any) -> None:
        self.told.append(what)

    def answer(self, trials: Any, what: Any) -> Any:
        if what == "impossible":
            raise ValueError("no answer")
        return [asked.number for asked in trials], what

    def settle(self) -> None:
        self.settled += 1

    def lost(self, trials: Any, cause: str) -> dict[int, Outcome]:
        numbers = [asked.number for asked in trials]
        self.lost_trials.append((numbers, cause))
        return {n: Outcome("failed", cause=cause) for n in numbers if n in self.without_retry}


def asked(number: int, **values: Any) -> Asked:
    return Asked(number, False, values, lambda *_: "go")


def completes(connection: "Connection[Any, Any]", task: Task) -> bool:
    for one in task.trials:
        connection.send(Ended(one.number, task.attempt, DONE, 0.5))
    return True


@pytest.fixture
def pool() -> Iterator[Callable[..., tuple[Workers, Heard, list[tuple[int, Task]]]]]:
    """Make workers that play one part after another; with what is heard, and which place began which task."""
    made: list[Workers] = []

    def pool(*plays: Play, count: int = 1, heard: Heard | None = None, **options: Any):
        heard, begun, parts = heard or Heard(), [], iter(plays)

        def start(place: int) -> Threaded:
            play = next(parts, completes)

            def noted(connection: "Connection[Any, Any]", task: Task) -> bool:
                begun.append((place, task))
                return play(connection, task)

            return Threaded(noted)

        made.append(Workers(start, heard, count=count, **{"stalled_seconds": 60.0, **options}))
        return made[-1], heard, begun

    yield pool
    for workers in made:
        workers.close()


def numbers_of(begun: list[tuple[int, Task]]) -> list[tuple[int, ...]]:
    return [tuple(one.number for one in task.trials) for _, task in begun]


def test_a_cohort_stays_together_and_its_judges_stay_here(pool) -> None:
    workers, heard, begun = pool(count=2)
    assert workers.slots() == 2
    handle = workers.submit([asked(3), asked(5)], attempt=1)
    assert handle == Handle((3, 5), 1)
    assert [(e.number, e.attempt, e.outcome, e.seconds) for e in workers.events()] == [
        (3, 1, DONE, 0.5),
        (5, 1, DONE, 0.5),
    ]
    assert numbers_of(begun) == [(3, 5)]
    assert heard.settled == 2
    with pytest.raises(AssertionError, match="another process"):
        begun[0][1].trials[0].judge(1, 0.5, 1)


def test_what_trials_say_and_ask_reaches_the_listener(pool) -> None:
    answers = []

    def talks(connection, task) -> bool:
        connection.send(Said("an epoch"))
        for question in ("go on?", "impossible"):
            connection.send(Question(question))
            answers.append(connection.recv())
        return completes(connection, task)

    workers, heard, _ = pool(talks)
    workers.submit([asked(1), asked(2)], attempt=1)
    assert [ended.number for ended in workers.events()] == [1, 2]
    assert heard.told[0] == "an epoch"
    assert answers[0] == ([1, 2], "go on?")
    assert isinstance(answers[1], Raised) and str(answers[1].error) == "no answer"


def test_trials_of_a_dead_worker_begin_another_attempt_and_those_that_had_ended_do_not(pool) -> None:
    def dies_after_the_first(connection, task) -> bool:
        connection.send(Ended(task.trials[0].number, task.attempt, DONE))
        return False

    workers, heard, begun = pool(dies_after_the_first)
    workers.submit([asked(1), asked(2), asked(3)], attempt=1)
    assert [(ended.number, ended.attempt) for ended in workers.events()] == [(1, 1), (2, 2), (3, 2)]
    assert heard.lost_trials == [([2, 3], "killed by SIGSEGV")]
    assert numbers_of(begun) == [(1, 2, 3), (2, 3)]
    assert all(one.resumed for one in begun[1][1].trials)


def test_trials_of_a_dead_worker_stay_together_once_and_are_then_tried_each_by_itself(pool) -> None:
    workers, heard, begun = pool(lambda *_: False, lambda *_: False)
    cohort = (asked(1), asked(2))
    workers.submit([replace(one, cohort=cohort) for one in cohort], attempt=1)
    assert [(ended.number, ended.attempt) for ended in workers.events()] == [(1, 3), (2, 3)]
    assert [numbers for numbers, _ in heard.lost_trials] == [[1, 2], [1, 2]]
    assert numbers_of(begun) == [(1, 2), (1, 2), (1,), (2,)]
    firsts, seconds = ([one.cohort for one in task.trials] for _, task in begun[:2])
    assert [[(o.number, o.resumed) for o in cohort] for cohort in firsts] == 2 * [[(1, False), (2, False)]]
    assert [[(o.number, o.resumed) for o in cohort] for cohort in seconds] == 2 * [[(1, True), (2, True)]]


def test_a_trial_without_an_attempt_left_ends_as_failed_and_others_go_on(pool) -> None:
    workers, heard, _ = pool(lambda *_: False, heard=Heard(without_retry={1}))
    workers.submit([asked(1), asked(2)], attempt=1)
    assert [(ended.number, ended.outcome.state) for ended in workers.events()] == [(1, "failed"), (2, "complete")]
    assert heard.lost_trials == [([1, 2], "killed by SIGSEGV")]


def test_a_silent_worker_is_ended_and_its_trial_tried_again(pool) -> None:
    silent = threading.Event()
    workers, heard, _ = pool(lambda *_: not silent.wait(20), stalled_seconds=0.6)
    workers.submit([asked(7)], attempt=1)
    assert [(ended.number, ended.attempt) for ended in workers.events()] == [(7, 2)]
    assert heard.lost_trials == [([7], "no progress for 0.01 minutes")]
    silent.set()


def test_a_paused_trial_goes_on_where_it_pauses_and_is_resumed_elsewhere_once_that_worker_is_gone(pool) -> None:
    def pauses(connection, task) -> bool:
        for one in task.trials:
            connection.send(Ended(one.number, task.attempt, Outcome("paused")))
        return True

    workers, _, begun = pool(pauses, pauses, count=2)
    workers.submit([asked(0)], attempt=1)
    workers.submit([asked(1)], attempt=1)
    assert sorted(ended.number for ended in workers.events()) == [0, 1]
    at = {task.trials[0].number: place for place, task in begun}
    for _ in range(3):
        workers.submit([asked(0), asked(1)], attempt=1)
        assert sorted(ended.number for ended in workers.events()) == [0, 1]
    assert all(at[task.trials[0].number] == place for place, task in begun)
    assert len(begun) == 8
    workers.submit([asked(5)], attempt=1)
    workers.cancel(Handle((0,)), hard=True)  # it pauses: its worker has other work
    assert [ended.number for ended in workers.events()] == [5]
    workers.submit([asked(0)], attempt=1)
    assert [ended.number for ended in workers.events()] == [0]
    assert begun[-1][1].trials[0].resumed, "its worker no longer counts on it"


def test_trials_that_share_go_to_one_worker(pool) -> None:
    both = threading.Barrier(2, timeout=20)

    def meets(connection, task) -> bool:
        both.wait()
        return completes(connection, task)

    workers, _, begun = pool(meets, meets, count=2, shares=lambda one: one.values["depth"])
    for number in range(8):
        workers.submit([asked(number, depth=number % 2)], attempt=1)
    assert sorted(ended.number for ended in workers.events()) == list(range(8))
    first = {task.trials[0].number % 2: place for place, task in begun[:2]}
    assert all(first[task.trials[0].number % 2] == place for place, task in begun)
    assert len(first.values()) == 2


def test_cancelled_trials_have_no_event_and_those_beside_them_begin_again(pool) -> None:
    going = threading.Event()

    def waits(connection, task) -> bool:
        connection.send(Ended(task.trials[0].number, task.attempt, DONE))
        return not going.wait(20)

    workers, heard, begun = pool(waits)
    workers.submit([asked(1), asked(2), asked(3)], attempt=1)
    workers.submit([asked(4)], attempt=1)
    events = workers.events()
    assert next(events).number == 1
    workers.cancel(Handle((2, 4)), hard=True)
    assert [ended.number for ended in events] == [3]
    assert numbers_of(begun) == [(1, 2, 3), (3,)]
    assert heard.lost_trials == []
    going.set()


def test_what_ends_a_worker_ends_the_search(pool) -> None:
    workers, _, _ = pool(lambda connection, _: bool(connection.send(Raised(OSError("the disk is full")))))
    workers.submit([asked(0)], attempt=1)
    with pytest.raises(OSError, match="the disk is full"):
        list(workers.events())


def test_interrupted_workers_are_stopped_in_order_and_heard_to_their_end(pool) -> None:
    begun_work = threading.Event()

    def stops(connection, _task) -> bool:
        begun_work.set()
        assert connection.recv() is None
        connection.send(Said("closed in order"))
        return False

    workers, heard, _ = pool(stops)
    workers.submit([asked(0)], attempt=1)
    while not begun_work.is_set():
        workers._hand_out()
        workers._receive() if not workers._slots[0].task else begun_work.wait(20)
    workers.close()
    assert heard.told == ["closed in order"]
    assert heard.lost_trials == []


def test_workers_end_even_when_what_they_say_cannot_be_logged() -> None:
    class Deaf(Heard):
        def said(self, what: Any) -> None:
            raise OSError(f"cannot log {what}")

    def stops(connection: "Connection[Any, Any]", _: Task) -> bool:
        connection.recv()
        connection.send(Said("closed in order"))
        return False

    started: list[Threaded] = []
    workers = Workers(lambda _: started.append(Threaded(stops)) or started[-1], Deaf(), count=2, stalled_seconds=60.0)
    for number in (0, 1):
        workers.submit([asked(number)], attempt=1)
    while sum(slot.task is not None for slot in workers._slots) < 2:
        workers._hand_out()
        if any(not slot.ready for slot in workers._slots):
            workers._receive()
    with pytest.raises(OSError, match="cannot log closed in order"):
        workers.close()
    assert [worker.killed for worker in started] == [True, True]


def test_a_worker_for_which_there_is_no_room_yet_holds_no_trial() -> None:
    room, heard = threading.Event(), Heard()

    def start(place: int) -> Threaded:
        return Threaded(completes, room.wait if place == 0 else lambda: True)

    workers = Workers(start, heard, count=2, stalled_seconds=60.0)
    for number in range(4):
        workers.submit([asked(number)], attempt=1)
    assert sorted(ended.number for ended in workers.events()) == [0, 1, 2, 3]
    assert not room.is_set()
    workers.close()
    room.set()


def test_workers_that_die_before_they_begin_end_the_search_and_blame_no_trial() -> None:
    started, heard = [], Heard()

    def start(place: int) -> Threaded:
        started.append(place)
        return Threaded(completes, lambda: False)

    workers = Workers(start, heard, count=2, stalled_seconds=60.0)
    workers.submit([asked(0)], attempt=1)
    with pytest.raises(WorkFailed, match=f"{MAX_FAILED_STARTS} workers in a row .* killed by SIGSEGV"):
        list(workers.events())
    assert len(started) == MAX_FAILED_STARTS
    assert heard.lost_trials == []
    workers.close()


def test_a_search_without_any_worker_ends_after_a_while() -> None:
    never = threading.Event()
    workers = Workers(lambda _: Threaded(completes, lambda: never.wait(20)), Heard(), count=1, stalled_seconds=0.3)
    workers.submit([asked(0)], attempt=1)
    with pytest.raises(WorkFailed, match=r"no worker has begun for 0\.005 minutes"):
        list(workers.events())
    workers.close()
    never.set()
