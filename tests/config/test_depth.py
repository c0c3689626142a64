from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fttune.config.depth import is_depth, resolved_depth


@pytest.mark.parametrize(
    ("depth", "stages", "count"),
    [
        ("all", 5, 5),
        (1.0, 5, 5),
        (0.0, 5, 0),
        (1, 5, 1),
        (0, 5, 0),
        (0.5, 5, 3),
        (0.3, 5, 2),
        (0.1, 5, 1),
        (0.09, 5, 0),
    ],
)
def test_a_share_is_rounded_half_up_and_a_count_stays(depth, stages, count):
    assert resolved_depth(depth, stages) == count


@given(st.floats(0, 1), st.integers(1, 40))
def test_a_share_is_the_nearest_count(share, stages):
    count = resolved_depth(share, stages)
    assert 0 <= count <= stages
    assert abs(count - Fraction(str(share)) * stages) <= Fraction(1, 2)


def test_only_counts_shares_and_all_are_depths():
    assert all(map(is_depth, [0, 7, 0.0, 1.0, "all"]))
    assert not any(map(is_depth, [-1, 1.1, -0.1, float("nan"), True, "ALL", None, [1]]))
