"""The rule by which a challenger takes over, held to its own promise on recorded predictions; and the alarm."""

import math

import numpy as np
import pytest
from scipy import stats
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from fttune.report.statistics import mcnemar
from fttune.report.takeover import drop, judge, level_of

SEQUENCES, NIGHTS = 200, 200


@pytest.fixture(scope="module")
def recorded() -> tuple[np.ndarray, np.ndarray]:
    """What equal recipes, each trained on images of its own, classify rightly.

    Of 600 test images (60, 600), and which share of 200 others, the validation split (60,).
    """
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    images, labels = digits.data[order] / 16, digits.target[order]
    generator = np.random.default_rng(1)
    found = []
    for _ in range(60):
        rows = 800 + generator.choice(len(labels) - 800, 300, replace=False)
        model = LogisticRegression(C=0.1, max_iter=25, tol=0.05).fit(images[rows], labels[rows])
        found.append(model.predict(images[:800]) == labels[:800])
    hits = np.stack(found)
    return hits[:, :600], hits[:, 600:].mean(1)


def test_all_levels_together_stay_below_five_percent() -> None:
    assert level_of(1) == pytest.approx(0.05 * 6 / math.pi**2)
    assert 0.0499 < sum(level_of(n) for n in range(1, 10_000)) < 0.05


def test_over_samples_it_is_the_exact_test_of_mcnemar_and_one_seed_is_not_enough() -> None:
    generator = np.random.default_rng(0)
    old, new = generator.random((1, 500)) < 0.7, generator.random((1, 500)) < 0.8
    found = judge(old, new, 1)
    assert found.better == (new & ~old).sum()
    assert found.worse == (old & ~new).sum()
    assert found.p_samples == pytest.approx(mcnemar(new[0], old[0]))
    assert found.p_samples < found.level
    assert (found.p_seeds, found.takes_over) == (1.0, False)


def test_a_better_one_takes_over_and_a_worse_one_does_not() -> None:
    generator = np.random.default_rng(0)
    old, new = generator.random((3, 500)) < 0.7, generator.random((3, 500)) < 0.85
    assert judge(old, new, 1).takes_over
    assert not judge(new, old, 1).takes_over


def test_a_sample_counts_once_whatever_the_number_of_seeds() -> None:
    old = np.array([[True, False, False, True], [True, False, False, False]])
    new = np.array([[True, True, False, False], [True, True, True, False], [True, True, True, False]])
    found = judge(old, new, 2)
    assert (found.better, found.worse) == (2, 1)
    assert found.p_samples == pytest.approx(2 * stats.binom.sf(1, 3, 0.5))
    assert found.p_seeds == pytest.approx(stats.ttest_ind(new.mean(1), old.mean(1), equal_var=False).pvalue)
    assert found.level == pytest.approx(0.05 * 6 / (math.pi**2 * 4))


def test_equal_seeds_in_another_order_are_no_difference() -> None:
    old = np.array([[True, False], [False, True], [True, True]])
    assert (judge(old, old[::-1], 1).p_samples, judge(old, old[::-1], 1).takes_over) == (1.0, False)


@pytest.mark.parametrize(("seeds", "gated"), [(2, True), (3, True), (5, True), (3, False)])
def test_of_200_sequences_of_200_nights_at_most_five_percent_let_an_equal_challenger_take_over(
    recorded: tuple[np.ndarray, np.ndarray], seeds: int, gated: bool
) -> None:
    hits, val = recorded
    shares = hits.mean(1)
    generator, taken = np.random.default_rng(seeds), 0
    for _ in range(SEQUENCES):
        champion, openings = generator.choice(len(hits), seeds, replace=False), 0
        for _ in range(NIGHTS):
            challenger = generator.choice(len(hits), seeds, replace=False)
            if gated and val[challenger].mean() <= val[champion].mean():
                continue
            openings += 1
            if not might_differ(shares[champion], shares[challenger], openings):
                continue
            if judge(hits[champion], hits[challenger], openings).takes_over:
                taken += 1
                break
    assert taken <= 0.05 * SEQUENCES


def might_differ(first: np.ndarray, second: np.ndarray, opening: int) -> bool:
    """Whether Welch's test could tell two apart, at a glance: Student's tails are heavier than the normal ones."""
    error = np.sqrt((first.var(ddof=1) + second.var(ddof=1)) / len(first))
    return bool(error < 1e-9 or abs(first.mean() - second.mean()) / error >= BOUNDS[opening])


BOUNDS = stats.norm.isf(np.array([1.0, *(level_of(n) / 2 for n in range(1, NIGHTS + 1))]))


def test_samples_alone_would_let_equal_challengers_take_over(recorded: tuple[np.ndarray, np.ndarray]) -> None:
    """Why the seeds are asked as well: their models do differ."""
    hits, _ = recorded
    generator, taken = np.random.default_rng(0), 0
    for _ in range(50):
        champion = hits[generator.choice(len(hits), 3, replace=False)]
        found = (judge(champion, hits[generator.choice(len(hits), 3, replace=False)], n) for n in range(1, 21))
        taken += any(one.p_samples <= one.level and one.better > one.worse for one in found)
    assert taken > 10


def test_a_relabelled_class_is_an_alarm_and_right_labels_are_none() -> None:
    before = {str(n): n % 10 != 0 for n in range(200)}
    relabelled = {name: hit and int(name) % 7 != 1 for name, hit in before.items()}
    found = drop(before, relabelled)
    assert (found.lost, found.gained) == (sum(before.values()) - sum(relabelled.values()), 0)
    assert found.is_alarming
    assert found.p_stayed == pytest.approx(0.5**found.lost)
    assert not drop(relabelled, before).is_alarming
    assert not drop(before, before).is_alarming


def test_images_that_joined_are_compared_unpaired() -> None:
    before = {str(n): n % 10 != 0 for n in range(200)}
    like_before = {f"new {n}": n % 10 != 0 for n in range(60)}
    worse = {f"new {n}": n % 2 == 0 for n in range(60)}
    assert not drop(before, before | like_before).is_alarming
    found = drop(before, before | worse)
    assert found.is_alarming
    assert found.p_joined == pytest.approx(stats.hypergeom.sf(179, 260, 210, 200), rel=1e-6)
    assert found.p_stayed is None


def test_a_few_images_that_left_are_no_alarm() -> None:
    before = {str(n): n % 10 != 0 for n in range(200)}
    found = drop(before, {name: hit for name, hit in before.items() if int(name) > 20})
    assert (found.lost, found.gained, found.is_alarming) == (0, 0, False)
    assert str(found) == "the test split is the same"
