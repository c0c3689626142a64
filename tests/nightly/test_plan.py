"""The plan of a night: who is due, in which order, for how long."""

import json
from datetime import date, timedelta

import pytest

from fttune.config.nightly import Nightly
from fttune.nightly.plan import Standing, plan

TONIGHT = date(2026, 11, 27)


def standing(study: str, *, days_ago: int | None = 1, ended: bool = True, **nightly: object) -> Standing:
    last = None if days_ago is None else TONIGHT - timedelta(days_ago)
    return Standing(study, Nightly.model_validate(nightly), 16, last, ended)


def test_hours_are_shared_by_weight() -> None:
    found = plan([standing("a", weight=3.0), standing("b", weight=1.0), standing("c", weight=2.0)], TONIGHT, 12.0)
    assert {one.study: one.hours for one in found.shares} == pytest.approx({"a": 6.0, "b": 2.0, "c": 4.0})


def test_what_was_not_finished_comes_first_then_what_never_ran_then_what_ran_longest_ago() -> None:
    given = [
        standing("yesterday"),
        standing("heavy", weight=2.0),
        standing("older", days_ago=3),
        standing("never", days_ago=None),
        standing("cut-off", ended=False),
    ]
    found = plan(given, TONIGHT, 8.0)
    assert [one.study for one in found.shares] == ["cut-off", "never", "older", "heavy", "yesterday"]


@pytest.mark.parametrize(("days", "runs"), [(0, False), (1, False), (6, False), (7, True), (30, True)])
def test_a_weekly_study_runs_once_in_seven_days(days: int, runs: bool) -> None:
    found = plan([standing("slow", days_ago=days, every="week")], TONIGHT, 8.0)
    assert [one.study for one in found.shares] == (["slow"] if runs else [])
    assert [one.study for one in found.skipped] == ([] if runs else ["slow"])


def test_a_weekly_study_that_was_cut_off_goes_on_the_next_night() -> None:
    found = plan([standing("slow", days_ago=1, ended=False, every="week")], TONIGHT, 8.0)
    assert [one.study for one in found.shares] == ["slow"]


def test_a_night_that_ended_runs_nothing_twice() -> None:
    found = plan([standing("a", days_ago=0), standing("b", days_ago=0, ended=False)], TONIGHT, 8.0)
    assert [one.study for one in found.shares] == ["b"]


def test_a_plan_is_a_table_and_json() -> None:
    found = plan([standing("a"), standing("b", days_ago=2, every="week")], TONIGHT, 8.0)
    text = found.as_text()
    assert "night of 2026-11-27, 8 hours" in text
    assert "not due before 2026-12-02" in text
    facts = json.loads(found.as_json())
    assert facts["night"] == "2026-11-27"
    assert [(one["study"], one["hours"], one["trials"]) for one in facts["shares"]] == [("a", 8.0, 16)]
