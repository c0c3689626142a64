"""Paired comparisons of candidates: against scikit-learn, textbook values, and simulations with a known truth."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from fttune.report.statistics import (
    METRICS,
    Candidate,
    compare,
    interval,
    mcnemar,
    not_distinguishable,
    recommended,
)

SKLEARN = {
    "accuracy": sk.accuracy_score,
    "balanced_accuracy": sk.balanced_accuracy_score,
    "macro_f1": lambda truth, predicted: sk.f1_score(truth, predicted, average="macro"),
}


def simulated(
    generator: np.random.Generator, gains: list[float], *, samples: int = 500, seeds: int = 5, moved: float = 0.05
) -> tuple[list[Candidate], np.ndarray]:
    """Candidates of 10 classes that mostly err on the same hard samples, and the truth.

    A candidate hits `gain` more of all samples than one without a gain does on average. On a share `moved` of the
    samples its luck is its own under all seeds, and on another one under each seed. Later ones cost less.
    """
    truth = generator.integers(0, 10, samples)
    chance = generator.beta(4, 1, samples)  # of a hit
    luck = generator.random(samples)

    def other(luck: np.ndarray) -> np.ndarray:
        return np.where(generator.random(samples) < moved, generator.random(samples), luck)

    candidates = []
    for index, gain in enumerate(gains):
        own, better = other(luck), chance + gain * (1 - chance) / (1 - chance.mean())
        hits = np.stack([other(own) < better for _ in range(seeds)])
        candidates.append(Candidate(f"c{index}", np.where(hits, truth, (truth + 1) % 10), cost=10.0 - index))
    return candidates, truth


@pytest.mark.parametrize("name", METRICS)
def test_metrics_of_resamples_are_scikit_learns(name):
    generator = np.random.default_rng(1)
    truth, predicted = generator.integers(0, 4, 60), generator.integers(0, 4, 60)
    weights = generator.multinomial(60, np.full(60, 1 / 60), 20).astype(float)
    found = METRICS[name](truth, predicted, weights)
    for row, value in zip(weights.astype(int), found, strict=True):
        rows = np.repeat(np.arange(60), row)
        assert value == pytest.approx(SKLEARN[name](truth[rows], predicted[rows]))


def test_the_interval_over_seeds_is_students():
    values = [0.81, 0.84, 0.79, 0.83]
    found = interval(values)
    low, high = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert (found.mean, found.low, found.high) == pytest.approx((np.mean(values), low, high))
    assert interval([0.5]).low == -np.inf


def test_mcnemar_is_the_sign_test_of_the_samples_on_which_two_differ():
    first = np.array([True] * 8 + [False] * 2 + [True] * 40)
    second = np.array([False] * 8 + [True] * 2 + [True] * 40)
    assert mcnemar(first, second) == pytest.approx(stats.binomtest(8, 10).pvalue)
    assert mcnemar(first, first) == 1.0


def test_a_clear_winner_is_told_apart_and_of_equals_the_cheapest_is_recommended():
    candidates, truth = simulated(np.random.default_rng(0), [0.0, 0.15, 0.15])
    differences = compare(candidates, truth)
    assert [(d.first, d.second) for d in differences] == [("c0", "c1"), ("c0", "c2"), ("c1", "c2")]
    assert [d.is_distinguishable for d in differences] == [True, True, False]
    assert differences[0].low < differences[0].mean < differences[0].high < 0
    assert sorted(not_distinguishable("c1", differences)) == ["c1", "c2"]
    assert recommended("c1", candidates, differences) == "c2"
    assert compare(candidates, truth) == differences, "a function of its arguments"


def test_the_p_values_are_corrected_for_the_number_of_pairs():
    candidates, truth = simulated(np.random.default_rng(3), [0.0, 0.02, 0.0, 0.01])
    many = compare(candidates, truth)
    (alone,) = compare(candidates[:2], truth)
    assert many[0].p >= alone.p
    assert len(many) == 6


@pytest.mark.slow
@pytest.mark.parametrize(("gain", "least"), [(0.0, 0.90), (0.05, 0.80)])
def test_over_400_simulations_equals_are_not_told_apart_and_five_points_are(gain, least):
    right = 0
    for seed in range(400):
        candidates, truth = simulated(np.random.default_rng(seed), [0.0, gain])
        hits = [one.predicted == truth for one in candidates]
        assert np.mean(hits[0] != hits[1]) <= 0.12
        (found,) = compare(candidates, truth)
        right += found.is_distinguishable == (gain > 0)
    assert right >= least * 400
