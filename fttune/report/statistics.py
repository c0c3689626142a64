"""Which of several candidates is better on the test split, and how sure that is.

All candidates were trained with the same seeds and tested on the same samples, so every comparison is paired.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt
from scipy import stats
from statsmodels.stats.multitest import multipletests

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
LEVEL = 0.05  # of significance, after Holm's correction; intervals hold 95 %
RESAMPLES = 2000


@dataclass(frozen=True)
class Candidate:
    """A recipe: the class that it predicts for each test sample under each seed (S, N), and what it costs to train.

    `cost` may be any number that is larger for dearer recipes, such as trained parameters.
    """

    name: str
    predicted: Ints
    cost: float


@dataclass(frozen=True)
class Interval:
    """A mean, and the 95 % interval around it; of a single value the interval is infinite."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """How much better `first` is than `second`: the mean over seeds, with its interval.

    `p` is corrected for the number of pairs (Holm 1979). `mcnemar` are the exact p-values of McNemar's test, one per
    seed and not corrected.
    """

    first: str
    second: str
    mean: float
    low: float
    high: float
    p: float
    mcnemar: tuple[float, ...]

    @property
    def is_distinguishable(self) -> bool:
        """Return whether the two differ beyond chance."""
        return self.p < LEVEL


def interval(values: Sequence[float]) -> Interval:
    """Return the mean of values over seeds, with Student's interval."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return Interval(mean, -np.inf, np.inf)
    error = float(stats.sem(values))
    half = float(stats.t.ppf(1 - LEVEL / 2, len(values) - 1)) * error
    return Interval(mean, mean - half, mean + half)


def compare(
    candidates: Sequence[Candidate], truth: Ints, *, metric: str = "accuracy", seed: int = 0
) -> list[Difference]:
    """Return the difference of every two candidates, in the order of `candidates`.

    Args:
        candidates: each tested under the same seeds, in the same order.
        truth: the classes (N,) of the test samples.
        metric: accuracy, balanced_accuracy or macro_f1.
        seed: of the resampling.

    Interval and p-value come from a bootstrap that draws both seeds and samples anew, each with replacement (the
    pigeonhole bootstrap, Owen, Annals of Applied Statistics 2007). Of resampled differences, the smaller share on one
    side of zero, doubled, is the p-value.
    """
    seeds = len(candidates[0].predicted)
    generator = np.random.default_rng(seed)
    draws = generator.multinomial(seeds, np.full(seeds, 1 / seeds), RESAMPLES) / seeds  # (R, S)
    weights = generator.multinomial(len(truth), np.full(len(truth), 1 / len(truth)), RESAMPLES).astype(float)  # (R, N)
    resampled, measured = {}, {}
    for one in candidates:
        by_seed = np.stack([METRICS[metric](truth, row, weights) for row in one.predicted], axis=1)  # (R, S)
        resampled[one.name] = (by_seed * draws).sum(1)
        measured[one.name] = float(np.mean([score(truth, row, metric) for row in one.predicted]))
    found = []
    for a, b in combinations(candidates, 2):
        gaps = resampled[a.name] - resampled[b.name]
        low, high = np.percentile(gaps, [100 * LEVEL / 2, 100 * (1 - LEVEL / 2)])
        side = min((gaps <= 0).sum(), (gaps >= 0).sum())
        p = min(1.0, 2 * (side + 1) / (RESAMPLES + 1))
        tests = tuple(mcnemar(x == truth, y == truth) for x, y in zip(a.predicted, b.predicted, strict=True))
        found.append((a.name, b.name, measured[a.name] - measured[b.name], float(low), float(high), p, tests))
    corrected = multipletests([row[5] for row in found], method="holm")[1] if found else []
    return [Difference(*row[:5], float(p), row[6]) for row, p in zip(found, corrected, strict=True)]


def score(truth: Ints, predicted: Ints, metric: str) -> float:
    """Return a metric of predicted classes (N,)."""
    return float(METRICS[metric](truth, predicted, np.ones((1, len(truth))))[0])


def mcnemar(first: npt.NDArray[np.bool_], second: npt.NDArray[np.bool_]) -> float:
    """Return the exact p-value of McNemar's test, from the hits (N,) of two classifiers on the same samples."""
    better, worse = int((first & ~second).sum()), int((~first & second).sum())
    return float(stats.binomtest(better, better + worse).pvalue) if better + worse else 1.0


def not_distinguishable(winner: str, differences: Sequence[Difference]) -> list[str]:
    """Return the candidates that are not told apart from `winner`, itself first."""
    equal = [d for d in differences if winner in (d.first, d.second) and not d.is_distinguishable]
    return [winner, *(d.second if d.first == winner else d.first for d in equal)]


def recommended(winner: str, candidates: Sequence[Candidate], differences: Sequence[Difference]) -> str:
    """Return the cheapest of the candidates that are not told apart from the winner."""
    cost = {one.name: one.cost for one in candidates}
    return min(not_distinguishable(winner, differences), key=lambda name: cost[name])


def _accuracy(truth: Ints, predicted: Ints, weights: Floats) -> Floats:
    shares: Floats = weights @ (predicted == truth) / weights.sum(1)
    return shares


def _balanced_accuracy(truth: Ints, predicted: Ints, weights: Floats) -> Floats:
    classes = _one_hot(truth)
    hits, counts = weights @ (classes * (predicted == truth)[:, None]), weights @ classes
    return _mean_where(hits, counts, counts > 0)


def _macro_f1(truth: Ints, predicted: Ints, weights: Floats) -> Floats:
    size = int(max(truth.max(), predicted.max())) + 1
    classes, guesses = _one_hot(truth, size), _one_hot(predicted, size)
    hits, counts = weights @ (classes * guesses), weights @ (classes + guesses)
    return _mean_where(2 * hits, counts, counts > 0)


METRICS: Mapping[str, Callable[[Ints, Ints, Floats], Floats]] = {
    "accuracy": _accuracy,
    "balanced_accuracy": _balanced_accuracy,
    "macro_f1": _macro_f1,
}


def _one_hot(labels: Ints, size: int | None = None) -> Floats:
    return np.eye(int(labels.max()) + 1 if size is None else size)[labels]


def _mean_where(above: Floats, below: Floats, defined: npt.NDArray[np.bool_]) -> Floats:
    """Return the mean (R,) of the defined quotients (R, C) of each row."""
    quotients = np.divide(above, below, out=np.zeros_like(above), where=defined)
    means: Floats = quotients.sum(1) / defined.sum(1)
    return means
