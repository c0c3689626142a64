"""The ridge finds the best rate that made the trials, and says when it does not know."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fttune.report.ridge import Ridge, surface_of, trend
from tests.report.examples import BEST_LR, complete, study, trial


def test_the_ridge_lies_where_values_are_best_for_either_direction() -> None:
    found = surface_of(study(complete(120)))
    assert found is not None
    assert [ridge.depth for ridge in found.ridges] == ["0", "1", "2"]
    for ridge in found.ridges:
        assert ridge.lr == pytest.approx(BEST_LR[int(ridge.depth)], rel=0.3)
    losses = [replace(row, value=1 - (row.value or 0)) for row in complete(120)]
    other = surface_of(study(losses, metric="val/loss", direction="minimize"))
    assert other is not None
    assert [ridge.lr for ridge in other.ridges] == [ridge.lr for ridge in found.ridges]


def test_huge_losses_of_trials_near_divergence_do_not_move_the_ridge() -> None:
    rows = [replace(row, value=1 - (row.value or 0)) for row in complete(120)]
    wild = [replace(row, value=1e6) if (row.setting.lr or 0) > 0.5 else row for row in rows]
    found = surface_of(study(wild, metric="val/loss", direction="minimize"))
    assert found is not None
    assert found.ridges[2].lr == pytest.approx(BEST_LR[2], rel=0.4)


def test_where_no_trial_is_near_the_surface_says_nothing() -> None:
    rows = [trial(n, lr=lr) for n, lr in enumerate((0.001, 0.0011, 0.0012, 0.9, 0.95, 1.0))]
    found = surface_of(study(rows))
    assert found is not None
    assert np.isnan(found.values[0]).any()
    assert not np.isnan(found.values[0, [0, -1]]).any()


def test_few_trials_or_one_lr_have_no_ridge() -> None:
    few = surface_of(study([trial(n, lr=0.01 * (n + 1)) for n in range(4)]))
    assert few is not None and few.ridges == ()
    assert surface_of(study([trial(n, lr=0.01) for n in range(9)])) is None


def test_the_trend_is_told_only_where_intervals_do_not_overlap() -> None:
    high, low = Ridge("0", 0.1, 0.05, 0.2, 9), Ridge("1", 0.01, 0.005, 0.02, 9)
    assert trend([high, low]) == "falls"
    assert trend([low, high]) == "rises"
    assert trend([high, replace(low, high=0.06)]) == "no clear trend"
    assert trend([high]) == "unknown"


@given(st.lists(st.tuples(st.floats(-5, 0), st.floats(-1e3, 1e3)), min_size=1, max_size=30))
def test_any_trials_give_a_surface_within_their_values_or_none(pairs: list[tuple[float, float]]) -> None:
    rows = [replace(trial(n, lr=10**power), value=value) for n, (power, value) in enumerate(pairs)]
    found = surface_of(study(rows))
    if found is not None:
        inside = found.values[~np.isnan(found.values)]
        assert inside.min() >= min(value for _, value in pairs) - 1e-6
        assert inside.max() <= max(value for _, value in pairs) + 1e-6
        assert all(ridge.low <= ridge.lr <= ridge.high for ridge in found.ridges)
