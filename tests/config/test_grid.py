import math

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from fttune.config.distributions import Categorical, Float, Int
from fttune.config.grid import grid_size, grid_values


def real(low, high, **more) -> Float:
    return Float(type="float", low=low, high=high, **more)


def whole(low, high, **more) -> Int:
    return Int(type="int", low=low, high=high, **more)


finite = st.floats(-1e300, 1e300, allow_subnormal=False)
positive = st.floats(1e-300, 1e300)
counts = st.integers(1, 40)


def check(distribution, values):
    assert values == sorted(set(values))
    assert values[0] == distribution.low
    assert distribution.low <= values[-1] <= distribution.high
    assert len(values) <= grid_size({"x": distribution})


@settings(deadline=None, max_examples=120)
@given(finite, finite, counts)
@example(-1e300, 1e300, 3)
@example(0.1, 0.1, 5)
def test_points_on_a_linear_axis_are_those_of_linspace(a, b, points):
    distribution = real(min(a, b), max(a, b), points=points)
    values = grid_values(distribution)
    check(distribution, values)
    assert values[-1] == (distribution.high if points > 1 else distribution.low)
    if len(values) == points:
        scale = max(abs(distribution.low), abs(distribution.high))
        np.testing.assert_allclose(
            values, np.linspace(values[0], values[-1], points), rtol=0, atol=1e-11 * scale + 1e-300
        )


@settings(deadline=None, max_examples=120)
@given(positive, positive, counts)
@example(1e-5, 1e-1, 5)
@example(0.1, 0.1, 3)
def test_points_on_a_log_axis_are_those_of_geomspace_with_exact_ends(a, b, points):
    distribution = real(min(a, b), max(a, b), points=points, log=True)
    values = grid_values(distribution)
    check(distribution, values)
    assert values[-1] == (distribution.high if points > 1 else distribution.low)
    if len(values) == points:
        np.testing.assert_allclose(values, np.geomspace(values[0], values[-1], points), rtol=1e-11)


def test_decades_and_tenths_are_round_numbers():
    assert grid_values(real(1e-5, 1.0, points=6, log=True)) == [1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0]
    assert grid_values(real(0, 1, points=11)) == [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1]


@settings(deadline=None, max_examples=100)
@given(st.integers(-1000, 1000), st.integers(1, 50), st.integers(1, 30), st.integers(0, 4))
@example(0, 1, 10, 1)
def test_steps_of_a_float_are_the_decimal_numbers_that_were_written(low, step, count, digits):
    scale = 10**digits
    distribution = real(low / scale, (low + count * step) / scale, step=step / scale)
    assert grid_values(distribution) == [(low + i * step) / scale for i in range(count + 1)]
    assert grid_size({"x": distribution}) == count + 1


@settings(deadline=None, max_examples=100)
@given(st.integers(-1000, 1000), st.integers(0, 60), st.integers(1, 9))
def test_steps_of_whole_numbers_are_those_of_range(low, count, step):
    distribution = whole(low, low + count * step, step=step)
    assert grid_values(distribution) == list(range(low, low + count * step + 1, step))
    assert grid_size({"x": distribution}) == count + 1
    assert grid_values(whole(low, low + count)) == list(range(low, low + count + 1))


@settings(deadline=None, max_examples=120)
@given(st.integers(1, 10**28), st.integers(1, 10**28), counts, st.booleans())
@example(1, 10**15 + 1, 4, True)
@example(1, 3, 40, False)
def test_points_of_whole_numbers_are_whole_different_and_keep_both_ends(a, b, points, log):
    distribution = whole(min(a, b), max(a, b), points=points, log=log)
    values = grid_values(distribution)
    assert all(type(value) is int for value in values)
    check(distribution, values)
    assert points == 1 or values[-1] == distribution.high


def test_points_of_whole_numbers_are_the_rounded_even_ones():
    assert grid_values(whole(0, 10, points=3)) == [0, 5, 10]
    assert grid_values(whole(1, 1000, points=4, log=True)) == [1, 10, 100, 1000]
    assert grid_values(whole(0, 3, points=100)) == [0, 1, 2, 3]


def test_choices_are_their_own_grid_and_a_float_without_points_has_none():
    assert grid_values(Categorical(type="categorical", choices=("b", 2, 0.5))) == ["b", 2, 0.5]
    assert grid_values(real(0, 1)) == []
    assert grid_size({"x": real(0, 1)}) == 0


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=4))
def test_the_size_of_a_grid_is_the_product_of_its_sides(sides):
    space = {str(i): real(0, 1, points=side) for i, side in enumerate(sides)}
    assert grid_size(space) == math.prod(len(grid_values(distribution)) for distribution in space.values())


def test_a_huge_grid_is_counted_without_being_made():
    assert grid_size({"x": whole(0, 10**29), "y": real(0, 1, step=1e-9)}) == (10**29 + 1) * (10**9 + 1)


@settings(deadline=None, max_examples=100)
@given(finite, finite, positive)
def test_steps_that_miss_the_high_end_are_refused(a, b, step):
    assume(a < b)
    try:
        distribution = real(a, b, step=step)
    except ValueError:
        return
    assume(grid_size({"x": distribution}) < 1000)
    assert grid_values(distribution)[-1] == b


@pytest.mark.parametrize("step", [0.3, 2.0, 0.7])
def test_a_range_is_whole_steps_long(step):
    with pytest.raises(ValueError, match="in whole steps"):
        real(0, 1, step=step)
