"""The gradient-driven policies against their formulas, worked out by hand."""

import pytest

from fttune.freezing import PartGradient, autofreeze_count, rgn_multipliers, snr_multipliers


def totals(*rows):
    return [{name: PartGradient(0.0, total=value) for name, value in zip("abcd", row, strict=True)} for row in rows]


def test_rgn_scales_by_the_largest_relative_gradient():
    epoch = {"stem": PartGradient(0.5), "layer1": PartGradient(2.0), "head": PartGradient(1.0)}
    assert rgn_multipliers(epoch) == {"stem": 0.25, "layer1": 1.0, "head": 0.5}
    assert rgn_multipliers({"stem": PartGradient(0.0)}) == {"stem": 1.0}


def test_snr_rests_parts_below_half_of_the_largest():
    epoch = {name: PartGradient(1.0, snr=snr) for name, snr in [("a", 1.0), ("b", 0.5), ("c", 0.49)]}
    assert snr_multipliers(epoch) == {"a": 1.0, "b": 1.0, "c": 0.0}


@pytest.mark.parametrize(
    ("rows", "count"),
    [
        ([], 0),
        ([(1, 1, 1, 1)], 0),
        # Changes 0.01, 0.02, 0.5, 0.9: the median is 0.5, so the first two stop.
        ([(1, 1, 1, 1), (1.01, 0.98, 0.5, 1.9)], 2),
        # A front stage that still changes keeps all behind it training.
        ([(1, 1, 1, 1), (2, 1, 1, 1)], 0),
        # Then c and d remain: c changed by 0, d by 1, so c stops too; frozen ones stay frozen whatever they do.
        ([(1, 1, 1, 1), (1.01, 0.98, 0.5, 1.9), (9, 9, 0.5, 3.8)], 3),
    ],
)
def test_autofreeze_stops_a_prefix_whose_gradients_have_settled(rows, count):
    assert autofreeze_count("abcd", totals(*rows)) == count


def test_the_last_stage_never_stops():
    rows = [[1.0, 1.0, 1.0, 1.0]] * 20
    assert autofreeze_count("abcd", totals(*rows)) <= 3
