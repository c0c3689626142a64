"""Which of several candidates is better, and how sure that is.

Candidates are tested on the same samples, and mostly trained with the same seeds: what they share is paired.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
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


@dataclass(frozen=True)
class Gap:
    """How much larger a metric is for the first of two recipes: the mean over seeds, with its 95 % interval.

    Interval and p-value are None without a spread to judge by: from single runs, or where it is the same under every
    seed. `seeds` are those that pair the two, empty where they are compared unpaired.
    """

    seeds: tuple[int, ...]
    mean: float
    low: float | None = None
    high: float | None = None
    p: float | None = None


def interval(values: Sequence[float]) -> Interval:
    """Return the mean of values over seeds, with Student's interval."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return Interval(mean, -np.inf, np.inf)
    error = float(stats.sem(values))
    half = float(stats.t.ppf(1 - LEVEL / 2, len(values) - 1)) * error
    return Interval(mean, mean - half, mean + half)


def compare(
    candidates: Sequence[Candidate],
    truth: Ints,
    *,
    metric: str = "accuracy",
    pairs: Sequence[tuple[str, str]] | None = None,
    paired: bool = True,
    seed: int = 0,
) -> list[Difference]:
    """Return the difference of every two candidates, in the order of `candidates`, or of `pairs` of their names.

    Args:
        candidates: each tested under the same seeds, in the same order.
        truth: the classes (N,) of the test samples.
        metric: accuracy, balanced_accuracy or macro_f1.
        pairs: those of the candidates that are compared; they alone count in Holm's correction.
        paired: False where each candidate has seeds of its own, which are then drawn apart; no two of them make
            a pair for McNemar's test.
        seed: of the resampling.

    Interval and p-value come from a bootstrap that draws both seeds and samples anew, each with replacement (the
    pigeonhole bootstrap, Owen, Annals of Applied Statistics 2007). Of resampled differences, the smaller share on one
    side of zero, doubled, is the p-value.
    """
    generator = np.random.default_rng(seed)
    draws = [_shares(len(one.predicted), generator) for one in (candidates[:1] if paired else candidates)]
    weights = generator.multinomial(len(truth), np.full(len(truth), 1 / len(truth)), RESAMPLES).astype(float)  # (R, N)
    resampled, measured = {}, {}
    for one, drawn in zip(candidates, draws * len(candidates) if paired else draws, strict=True):
        by_seed = np.stack([METRICS[metric](truth, row, weights) for row in one.predicted], axis=1)  # (R, S)
        resampled[one.name] = (by_seed * drawn).sum(1)
        measured[one.name] = float(np.mean([score(truth, row, metric) for row in one.predicted]))
    hits = {one.name: one.predicted == truth for one in candidates}
    found = []
    for a, b in combinations(hits, 2) if pairs is None else pairs:
        gaps = resampled[a] - resampled[b]
        low, high = np.percentile(gaps, [100 * LEVEL / 2, 100 * (1 - LEVEL / 2)])
        side = min((gaps <= 0).sum(), (gaps >= 0).sum())
        p = min(1.0, 2 * (side + 1) / (RESAMPLES + 1))
        tests = tuple(map(mcnemar, hits[a], hits[b])) if paired else ()
        found.append((a, b, measured[a] - measured[b], float(low), float(high), p, tests))
    corrected = holm([row[5] for row in found])
    return [Difference(*row[:5], p, row[6]) for row, p in zip(found, corrected, strict=True)]


def gap(first: Mapping[int, float], second: Mapping[int, float]) -> Gap:
    """Return how much larger a metric is for the first of two recipes, from its value under each seed.

    Paired by the seeds that both have, where these are two or more or all of both: Student's interval and t-test of the
    differences. Else Welch's, which do not pair (Welch, Biometrika 1947).
    """
    seeds = shared_seeds(first, second)
    if seeds:
        return _paired_gap(seeds, [first[seed] for seed in seeds], [second[seed] for seed in seeds])
    a, b = list(first.values()), list(second.values())
    mean = float(np.mean(a) - np.mean(b))
    if min(len(a), len(b)) < 2 or not (_vary(a) or _vary(b)):
        return Gap((), mean)
    return _welch_gap(mean, [(len(values), float(np.var(values, ddof=1)) / len(values)) for values in (a, b)])


def _paired_gap(seeds: tuple[int, ...], first: Sequence[float], second: Sequence[float]) -> Gap:
    differences = np.subtract(first, second)
    found = interval(differences.tolist())
    if len(seeds) < 2 or not _vary(differences, scale=float(np.abs([first, second]).max())):
        return Gap(seeds, found.mean)
    return Gap(seeds, found.mean, found.low, found.high, float(stats.ttest_1samp(differences, 0.0).pvalue))


def _welch_gap(mean: float, groups: Sequence[tuple[int, float]]) -> Gap:
    """Return Welch's gap from the size of each group and the variance of its mean.

    scipy's own test warns where all values of one group are the same.
    """
    variance = sum(own for _, own in groups)
    freedom = variance**2 / sum(own**2 / (size - 1) for size, own in groups)
    error = variance**0.5
    half = float(stats.t.ppf(1 - LEVEL / 2, freedom)) * error
    return Gap((), mean, mean - half, mean + half, float(2 * stats.t.sf(abs(mean) / error, freedom)))


def shared_seeds(first: Collection[int], second: Collection[int]) -> tuple[int, ...]:
    """Return the seeds by which two recipes are paired: those of both where they are two or more, or all there are."""
    shared = sorted(set(first) & set(second))
    return tuple(shared) if len(shared) > 1 or set(first) == set(second) else ()


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number (Holm, Scandinavian Journal of Statistics 1979)."""
    return [float(p) for p in multipletests(p_values, method="holm")[1]] if p_values else []


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


def _vary(values: Sequence[float] | Floats, *, scale: float | None = None) -> bool:
    """Return whether values differ by more than what rounding makes of numbers of a scale (default: their own)."""
    return bool(np.ptp(values) > 1e-9 * (np.abs(values).max() if scale is None else scale))


def _shares(seeds: int, generator: np.random.Generator) -> Floats:
    """Return the share (R, S) that each seed has in each resample."""
    shares: Floats = generator.multinomial(seeds, np.full(seeds, 1 / seeds), RESAMPLES) / seeds
    return shares


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
