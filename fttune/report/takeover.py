"""Whether a challenger takes the champion's place, and whether a change of the data made the champion worse.

Both go by which test samples are classified rightly. Pure arithmetic: who opens the test split, and when, is decided
elsewhere.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from fttune.report.statistics import gap

Hits = npt.NDArray[np.bool_]
LEVEL = 0.05  # of all openings of a test split together, and of each change of the data
RULE = (
    "better on the same test samples (exact sign test over samples, McNemar's with one seed) and over its seeds "
    "(Welch's test of their accuracies), both two-sided at 0.05 * 6 / (pi^2 n^2) for the n-th opening"
)


@dataclass(frozen=True)
class Judgement:
    """What the n-th opening of the test split says of a challenger.

    `better` and `worse` are the test samples that more (fewer) of its seeds classify rightly than of the champion's,
    `p_samples` what that would take by chance, `p_seeds` what the difference over the seeds would.
    """

    opening: int
    better: int
    worse: int
    p_samples: float
    p_seeds: float
    level: float
    champion: float
    challenger: float

    @property
    def takes_over(self) -> bool:
        """Whether the challenger is better beyond chance."""
        return self.challenger > self.champion and max(self.p_samples, self.p_seeds) <= self.level

    def __str__(self) -> str:
        """Return all of it in one line."""
        verdict = "better beyond chance" if self.takes_over else "not better beyond chance"
        return (
            f"{verdict} at opening {self.opening}: test accuracy {self.challenger:.4g} against {self.champion:.4g}, "
            f"{self.better} samples better and {self.worse} worse, p {self.p_samples:.3g} over samples and "
            f"{self.p_seeds:.3g} over seeds, level {self.level:.3g}"
        )


def level_of(opening: int) -> float:
    """Return the level of the n-th opening. All of them together stay below `LEVEL`: sum 1/n^2 = pi^2/6."""
    return LEVEL * 6 / (math.pi * opening) ** 2


def judge(champion: Hits, challenger: Hits, opening: int) -> Judgement:
    """Return what the n-th opening says of a challenger, from the hits (S, N) of both on the same samples.

    The number of their seeds may differ. A sample counts once, by the sign of the difference of its hits over the
    seeds: with one seed each that is McNemar's exact test. It takes the models for given, so equal recipes whose seeds
    vary would take over from each other sooner or later; hence the second test. Both are two-sided, since only a
    challenger that was better on validation comes so far, and what is better there is better here more often than not.
    With one seed nobody can be told from luck, and nobody takes over.
    """
    gaps = np.round(challenger.mean(0) - champion.mean(0), 9)  # 1/3 + 2/3 and 1 are the same share of seeds
    better, worse = int((gaps > 0).sum()), int((gaps < 0).sum())
    p_samples = float(stats.binomtest(better, better + worse).pvalue) if better + worse else 1.0
    ours, theirs = challenger.mean(1), champion.mean(1)
    shares = float(theirs.mean()), float(ours.mean())
    return Judgement(opening, better, worse, p_samples, _p_over_seeds(ours, theirs), level_of(opening), *shares)


def _p_over_seeds(ours: npt.NDArray[np.float64], theirs: npt.NDArray[np.float64]) -> float:
    """Return the p-value of Welch's test of accuracies under seeds; where none varies, samples alone decide."""
    if min(len(ours), len(theirs)) < 2:
        return 1.0
    apart = dict(enumerate(theirs.tolist(), start=len(ours)))  # seeds do not pair recipes that draw other numbers
    found = gap(dict(enumerate(ours.tolist())), apart).p
    return 0.0 if found is None else found


@dataclass(frozen=True)
class Drop:
    """How a champion fares on changed data.

    Of the samples that stayed, `lost` it classified rightly and no longer does, for their class is another one now,
    and `gained` likewise the other way round. Of `before` = (hits, samples) and those that `joined` = (hits, samples).
    """

    before: tuple[int, int]
    joined: tuple[int, int]
    lost: int
    gained: int
    p_stayed: float | None
    p_joined: float | None

    @property
    def is_alarming(self) -> bool:
        """Whether the champion is worse beyond chance; the level is divided by the tests that can be made."""
        made = [p for p in (self.p_stayed, self.p_joined) if p is not None]
        return any(p <= LEVEL / len(made) for p in made)

    def __str__(self) -> str:
        """Return all of it in one line."""
        parts = []
        if self.p_stayed is not None:
            parts.append(f"of the test images that stayed, {self.lost} lost and {self.gained} gained")
            parts[-1] += f" (p {self.p_stayed:.3g})"
        if self.p_joined is not None:
            parts.append(f"of those that joined, {_share(self.joined)} against {_share(self.before)} before")
            parts[-1] += f" (p {self.p_joined:.3g})"
        return "; ".join(parts) or "the test split is the same"


def drop(before: Mapping[str, bool], now: Mapping[str, bool]) -> Drop:
    """Return how a champion fares now, from its hits by sample before and after the data changed.

    What a model says of an image does not change: on samples that stayed, hits differ by their labels alone, and are
    paired (exact binomial test). Those that joined are other samples, and are compared with all from before, unpaired
    (Fisher's exact test). Both are one-sided.
    """
    stayed = before.keys() & now.keys()
    lost = sum(before[name] and not now[name] for name in stayed)
    gained = sum(now[name] and not before[name] for name in stayed)
    new = [hit for name, hit in now.items() if name not in before]
    old, joined = (sum(before.values()), len(before)), (sum(new), len(new))
    p_stayed = float(stats.binomtest(lost, lost + gained, alternative="greater").pvalue) if lost + gained else None
    p_joined = None
    if new and before:
        table = [[old[0], old[1] - old[0]], [joined[0], joined[1] - joined[0]]]
        p_joined = float(stats.fisher_exact(table, alternative="greater").pvalue)
    return Drop(old, joined, lost, gained, p_stayed, p_joined)


def _share(counted: tuple[int, int]) -> str:
    hits, samples = counted
    return f"{hits} of {samples} are classified rightly"
