from hypothesis import given
from hypothesis import strategies as st

from fttune.report.front import front

POINTS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=20)


def test_the_front_holds_what_no_cheaper_point_beats() -> None:
    assert front([(3, 1), (1, 5), (2, 6), (2, 3), (4, 1)]) == [1, 3, 0]
    assert front([]) == []


@given(POINTS)
def test_every_point_is_matched_by_one_of_the_front_that_no_other_beats(points: list[tuple[int, int]]) -> None:
    found = [points[index] for index in front(points)]
    assert all(any(a <= c and b <= d for a, b in found) for c, d in points)
    assert all(not (a <= c and b <= d) for a, b in found for c, d in found if (a, b) != (c, d))
    assert found == sorted(found)
