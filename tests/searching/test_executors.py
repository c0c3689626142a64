"""The executor that runs trials in this process."""

from fttune.searching import Asked, Inline, Outcome
from fttune.searching.executors import Ended, Handle


def asked(number: int) -> Asked:
    return Asked(number, False, {}, lambda *_: "go")


def test_trials_run_by_number_whatever_their_cohorts():
    executor = Inline(lambda one: Outcome("complete", float(one.number)))
    executor.submit([asked(1), asked(4)], attempt=1)
    executor.submit([asked(2), asked(3)], attempt=2)
    found = [(ended.number, ended.attempt, ended.outcome.value) for ended in executor.events()]
    assert found == [(1, 1, 1.0), (2, 2, 2.0), (3, 2, 3.0), (4, 1, 4.0)]


def test_nothing_runs_before_its_event_is_waited_for_and_cancelled_trials_never():
    ran: list[int] = []
    executor = Inline(lambda one: (ran.append(one.number), Outcome("failed", cause="x"))[1])
    handle = executor.submit([asked(0), asked(1), asked(2)], attempt=1)
    events = executor.events()
    assert (handle, ran) == (Handle((0, 1, 2), 1), [])
    assert next(events) == Ended(0, 1, Outcome("failed", cause="x"))
    executor.cancel(Handle((1,)), hard=True)
    assert [ended.number for ended in events] == [2]
    assert ran == [0, 2]


def test_a_closed_executor_has_dropped_its_trials():
    executor = Inline(lambda _: Outcome("complete", 1.0))
    executor.submit([asked(0)], attempt=1)
    assert executor.slots() == 1
    executor.close()
    assert list(executor.events()) == []
