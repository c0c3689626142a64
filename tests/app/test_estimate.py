"""The arithmetic of a plan, against sums written out by hand and rules that hold for all inputs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fttune.app.estimate import (
    START_SECONDS,
    TRIAL_SECONDS,
    Depth,
    Once,
    Work,
    all_depths,
    chosen_depths,
    epoch_seconds,
    suffix_seconds,
    total_seconds,
)

SHALLOW = Depth(0, step=0.01, evaluation=0.001, plain_step=0.5, plain_evaluation=0.1, epoch=0.2, how="measured")
DEEP = Depth(2, step=1.0, evaluation=0.02, plain_step=1.2, plain_evaluation=0.1, epoch=0.3, how="measured")
WORK = Work(train=65, evaluated=20, passed=85, batch_size=32, epochs=4, trials=5, fixed=(0, 2), depths=(0, 2))


def test_an_epoch_is_its_updates_the_evaluation_and_what_comes_at_its_end():
    assert epoch_seconds(SHALLOW, WORK, shared=True) == pytest.approx(3 * 0.01 + 20 * 0.001 + 0.2)
    assert epoch_seconds(SHALLOW, WORK, shared=False) == pytest.approx(3 * 0.5 + 20 * 0.1 + 0.2)


def test_a_study_is_its_start_the_pass_the_baselines_and_the_open_trials_at_any_depth():
    found = total_seconds([SHALLOW, DEEP], WORK, Once(image_pass=0.05, checkpoint=0.4), shared=True)
    cheap, dear = 4 * 0.25 + 0.4 + TRIAL_SECONDS, 4 * (3.0 + 0.4 + 0.3) + 0.4 + TRIAL_SECONDS
    before = START_SECONDS + 85 * 0.05 + cheap + dear
    assert found.low == pytest.approx(before + 3 * cheap)
    assert found.high == pytest.approx(before + 3 * dear)
    assert found.even == pytest.approx(before + 3 * (cheap + dear) / 2)


def test_with_nothing_shared_there_is_no_pass():
    once = Once(image_pass=1000.0, checkpoint=0.0)
    found = total_seconds([SHALLOW, DEEP], WORK, once, shared=False)
    trials = (4 * (1.5 + 2.0 + 0.2), 4 * (3.6 + 2.0 + 0.3))
    assert found.even == pytest.approx(START_SECONDS + 5 * TRIAL_SECONDS + sum(trials) + 3 * sum(trials) / 2)


def test_baselines_beyond_the_budget_do_not_count():
    work = Work(65, 20, 85, 32, epochs=4, trials=1, fixed=(0, 2, 2), depths=(0, 2))
    found = total_seconds([SHALLOW, DEEP], work, Once(0.0, 0.0), shared=True)
    assert found.low == found.high == pytest.approx(START_SECONDS + TRIAL_SECONDS + 4 * 0.25)


def test_between_two_measured_depths_costs_lie_in_proportion_to_the_time_of_the_stages_added():
    suffix = suffix_seconds([1.0, 3.0, 1.0], 3)
    assert suffix == {0: 0, 1: 1.0, 2: 4.0, 3: 5.0}
    found = all_depths([DEEP, SHALLOW], [0, 1, 2], suffix)
    assert [depth.how for depth in found] == ["measured", "estimated", "measured"]
    assert found[1].step == pytest.approx(0.01 + (1.0 - 0.01) / 4)
    assert found[1].plain_evaluation == pytest.approx(0.1)


@given(st.lists(st.floats(0, 10), min_size=4, max_size=12), st.floats(0, 5), st.floats(0, 5))
def test_an_estimated_depth_never_leaves_the_interval_of_its_neighbours(stages, first, last):
    ends = [Depth(d, s, s, s, s, s, "measured") for d, s in ((0, first), (len(stages), last))]
    steps = [depth.step for depth in all_depths(ends, range(len(stages) + 1), suffix_seconds(stages, len(stages)))]
    low, high = sorted((first, last))
    assert all(low - 1e-9 <= step <= high + 1e-9 for step in steps)
    assert steps == pytest.approx(sorted(steps, reverse=first > last))


@given(st.lists(st.integers(0, 40), min_size=1, unique=True).map(sorted))
def test_the_ends_and_one_between_are_measured(depths):
    chosen = chosen_depths(depths)
    assert {depths[0], depths[-1]} <= set(chosen) <= set(depths)
    assert len(chosen) == min(3, len(depths))
    assert list(chosen) == sorted(chosen)
