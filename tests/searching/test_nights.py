"""A night's total: raised once, found again by a night that was killed, and bounded in what it owes."""

from datetime import date, timedelta

import optuna
import pytest

from fttune.config.nightly import Nightly
from fttune.searching import Aim, aim_of, next_aim, raise_total

MONDAY = date(2026, 11, 23)
FOUR = Nightly(trials_per_night=4)


def test_a_first_night_adds_its_trials_to_what_is_there() -> None:
    assert next_aim(None, 0, MONDAY, FOUR) == Aim(MONDAY, 4)
    assert next_aim(None, 10, MONDAY, FOUR) == Aim(MONDAY, 14)


@pytest.mark.parametrize("counted", [10, 12, 14])
def test_the_same_night_keeps_its_total_however_far_it_came(counted: int) -> None:
    assert next_aim(Aim(MONDAY, 14), counted, MONDAY, FOUR) == Aim(MONDAY, 14)


@pytest.mark.parametrize(("counted", "total"), [(14, 18), (12, 18), (10, 18), (2, 10)])
def test_the_next_night_adds_what_was_left_but_no_more_than_a_nights_trials(counted: int, total: int) -> None:
    assert next_aim(Aim(MONDAY, 14), counted, MONDAY + timedelta(1), FOUR).total == total


def test_a_weekly_study_gets_what_was_left_until_it_is_due_again() -> None:
    weekly = Nightly(trials_per_night=4, every="week")
    before = Aim(MONDAY, 14)
    assert [next_aim(before, 12, MONDAY + timedelta(days), weekly) for days in range(7)] == [before] * 7
    assert next_aim(before, 14, MONDAY + timedelta(7), weekly) == Aim(MONDAY + timedelta(7), 18)


def test_the_total_is_kept_with_the_study() -> None:
    stored = optuna.create_study()
    stored.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=3)
    assert aim_of(stored) is None
    assert raise_total(stored, MONDAY, FOUR) == 7
    stored.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)  # and then it is killed
    assert raise_total(stored, MONDAY, FOUR) == 7
    assert aim_of(stored) == Aim(MONDAY, 7)
