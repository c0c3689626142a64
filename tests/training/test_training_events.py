import time

import pytest

from fttune.training.events import Entry, EpochEnded, EventLog, Notice


def test_listeners_hear_every_entry_in_order_and_the_list_keeps_them():
    first, second = [], []
    log = EventLog(first.append, second.append)
    log.append("pets", Notice("a"))
    log.append("pets/7", Notice("b"))
    expected = [Entry("pets", Notice("a")), Entry("pets/7", Notice("b"))]
    assert first == second == log.entries == expected


def test_an_entry_is_kept_even_when_a_listener_fails():
    def fail(_):
        raise OSError("down")

    log = EventLog(fail)
    with pytest.raises(OSError, match="down"):
        log.append("pets", Notice("a"))
    assert log.entries == [Entry("pets", Notice("a"))]


def test_the_end_of_an_epoch_knows_its_time_in_milliseconds():
    before = time.time() * 1000
    assert before - 1 <= EpochEnded(1, {}).unix_ms <= time.time() * 1000
