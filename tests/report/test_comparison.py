"""Two sides against each other: against scipy, and a comparison that holds for whichever side comes first."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fttune.report.comparison import Contender, Side, compared
from fttune.report.statistics import Candidate, compare, gap, mcnemar, shared_seeds

SEEDS = (1, 2, 3, 4, 5)
OURS = (0.81, 0.84, 0.79, 0.83, 0.80)
THEIRS = (0.78, 0.80, 0.79, 0.80, 0.81)
VALUES = st.dictionaries(st.integers(0, 9), st.integers(0, 1000).map(lambda n: n / 1000), min_size=1)


def contender(side: str, val: tuple[float, ...], *, seeds: tuple[int, ...] = SEEDS, trial: int = 1) -> Contender:
    return Contender(side, "winner", f"trial {trial}", {"optimizer.lr": 0.1}, 100, seeds, val)


def side(*contenders: Contender, metric: str = "val/accuracy", direction: str = "maximize") -> Side:
    name = contenders[0].side
    best = replace(contenders[0], role="best trial", seeds=(0,), val=contenders[0].val[:1])
    return Side(name, metric, direction, best, contenders, f"confirm {name}", test_metric="accuracy")


def predicting(one: Side, *, hits: float, samples: int = 200, first: int = 0) -> Side:
    """The side with predictions of three classes, of which so large a share is right."""
    generator = np.random.default_rng(samples)
    names = [f"s{i}" for i in range(first, first + samples)]
    truth = np.array([f"c{i % 3}" for i in range(first, first + samples)])
    frame = pd.DataFrame({"class": truth}, index=names)
    for each in one.contenders:
        for seed in each.seeds:
            right = generator.random(samples) < hits
            frame[f"{each.name} seed {seed}"] = np.where(right, truth, "c0")
    return replace(one, predictions=frame)


def test_the_gap_of_shared_seeds_is_students_paired_one():
    found = gap(dict(zip(SEEDS, OURS, strict=True)), dict(zip(SEEDS, THEIRS, strict=True)))
    expected = stats.ttest_rel(OURS, THEIRS)
    low, high = expected.confidence_interval(0.95)
    assert (found.low, found.high, found.p) == pytest.approx((low, high, expected.pvalue))
    assert (found.seeds, found.mean) == (SEEDS, pytest.approx(np.mean(OURS) - np.mean(THEIRS)))


def test_the_gap_of_other_seeds_is_welchs():
    found = gap(dict(zip(SEEDS, OURS, strict=True)), dict(zip((6, 7, 8), THEIRS, strict=False)))
    expected = stats.ttest_ind(OURS, THEIRS[:3], equal_var=False)
    low, high = expected.confidence_interval(0.95)
    assert (found.low, found.high, found.p) == pytest.approx((low, high, expected.pvalue))
    assert found.seeds == ()


def test_only_what_both_have_is_paired_and_a_single_shared_seed_pairs_nothing():
    ours, theirs = dict(zip(SEEDS, OURS, strict=True)), dict(zip((3, 4, 9), THEIRS, strict=False))
    assert gap(ours, theirs).mean == pytest.approx(np.mean([OURS[2], OURS[3]]) - np.mean(THEIRS[:2]))
    assert shared_seeds(ours, theirs) == (3, 4)
    assert shared_seeds((1, 2), (2, 3)) == ()
    assert shared_seeds((1,), (1,)) == (1,)


def test_without_a_spread_there_is_neither_interval_nor_p_value():
    alone = gap({0: 0.9}, {0: 0.8})
    assert (alone.mean, alone.low, alone.p) == (pytest.approx(0.1), None, None)
    assert gap({0: 0.9}, {1: 0.8, 2: 0.7}).p is None
    assert gap({1: 0.9, 2: 0.7}, {1: 0.8, 2: 0.6}).p is None, "the same difference but for rounding"


@given(VALUES, VALUES)
def test_the_gap_of_two_is_that_of_the_two_exchanged_with_another_sign(ours, theirs):
    there, back = gap(ours, theirs), gap(theirs, ours)
    assert there.seeds == back.seeds
    assert there.mean == pytest.approx(-back.mean, abs=1e-12)
    assert (there.p is None) == (back.p is None)
    if there.p is not None:
        assert there.p == pytest.approx(back.p, rel=1e-6)
        assert there.low <= there.mean <= there.high


def test_the_recommended_recipes_are_compared_too_and_p_values_are_holms():
    cheap = replace(contender("a", THEIRS, trial=2), role="recommended")
    found = compared(side(contender("a", OURS), cheap), side(contender("b", OURS[::-1])))
    assert [(pair.first, pair.second) for pair in found.pairs] == [
        ("a trial 1", "b trial 1"),
        ("a trial 2", "b trial 1"),
    ]
    raw = sorted(stats.ttest_rel(ours, OURS[::-1]).pvalue for ours in (OURS, THEIRS))
    expected = [min(1, 2 * raw[0]), max(min(1, 2 * raw[0]), raw[1])]
    assert sorted(pair.val.p for pair in found.pairs) == pytest.approx(expected)


def test_test_predictions_are_paired_on_the_samples_that_both_have():
    ours = predicting(side(contender("a", OURS)), hits=0.9)
    theirs = predicting(side(contender("b", THEIRS)), hits=0.6, first=50)
    found = compared(ours, theirs)
    assert found.samples == 150
    both = [f"s{i}" for i in range(50, 200)]
    hits = {}
    for name, one in (("a", ours), ("b", theirs)):
        frame = one.predictions.loc[both]
        hits[name] = np.stack([frame[f"trial 1 seed {seed}"] == frame["class"] for seed in SEEDS])
    assert [one.test for one in found.contenders] == [pytest.approx(tuple(h.mean(1))) for h in hits.values()]
    (pair,) = found.pairs
    assert pair.test.mean == pytest.approx(hits["a"].mean() - hits["b"].mean())
    assert pair.test.mcnemar == pytest.approx(tuple(map(mcnemar, hits["a"], hits["b"])))
    assert pair.test.low < pair.test.mean < pair.test.high
    assert "a trial 1 is better than b trial 1 by test/accuracy" in found.as_text()
    assert "paired by seed and by sample (150 samples)" in found.as_text()


def test_without_shared_seeds_test_predictions_are_paired_by_sample_alone():
    ours = predicting(side(contender("a", OURS)), hits=0.9)
    theirs = predicting(side(contender("b", THEIRS[:3], seeds=(7, 8, 9))), hits=0.6)
    found = compared(ours, theirs)
    (pair,) = found.pairs
    assert (pair.val.seeds, pair.test.mcnemar) == ((), ())
    assert pair.test.low < pair.test.mean < pair.test.high
    assert "unpaired (Welch), since they do not share two seeds" in found.as_text()
    assert "paired by sample, not by seed" in found.as_text()


def test_apart_drawn_seeds_widen_the_interval_where_a_seed_moves_both_alike():
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 3, 300)
    luck = np.stack([generator.random(300) < share for share in (0.5, 0.6, 0.7, 0.8, 0.9)])
    worse = luck & (generator.random(300) < 0.95)
    two = [Candidate(n, np.where(hits, truth, 3), 1.0) for n, hits in (("a", luck), ("b", worse))]
    (together,), (apart,) = compare(two, truth), compare(two, truth, paired=False)
    assert together.mean == apart.mean
    assert apart.high - apart.low > 2 * (together.high - together.low)


def test_a_smaller_loss_is_the_better_one():
    found = compared(
        *(side(contender(n, v), metric="val/loss", direction="minimize") for n, v in (("a", OURS), ("b", THEIRS)))
    )
    assert "a trial 1 and b trial 1 are not distinguishable by val/loss" in found.as_text()
    much = tuple(value + 1 for value in OURS)
    found = compared(
        *(side(contender(n, v), metric="val/loss", direction="minimize") for n, v in (("a", much), ("b", THEIRS)))
    )
    assert "b trial 1 is better than a trial 1 by val/loss" in found.as_text()


def test_an_unconfirmed_side_leaves_the_best_as_found_and_no_p_value():
    ours, theirs = side(contender("a", OURS)), side(contender("b", THEIRS))
    found = compared(ours, replace(theirs, contenders=()))
    (pair,) = found.pairs
    assert (pair.val.mean, pair.val.p) == (pytest.approx(OURS[0] - THEIRS[0]), None)
    assert "a single run is no evidence" in found.as_text()
    assert "no p-value: confirm b" in found.as_text()
    assert json.loads(found.as_json())["pairs"][0]["val"]["p"] is None
