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

Hits = npt.NDArray[np.bool_]
LEVEL = 0.05  # of all openings of a test split together, and of each change of the data
RULE = "exact sign test over test samples by their hits over the seeds, one-sided, at 0.05 * 6 / (pi^2 n^2)"


@dataclass(frozen=True)
class Judgement:
    """What the n-th opening of the test split says of a challenger.

    `better` and `worse` are the test samples that more (fewer) of its seeds classify rightly than of the champion's.
    """

    opening: int
    better: int
    worse: int
    p: float
    level: float
    champion: float
    challenger: float

    @property
    def takes_over(self) -> bool:
        """Whether the challenger is better beyond chance."""
        return self.p <= self.level

    def __str__(self) -> str:
        """Return all of it in one line."""
        verdict = "better beyond chance" if self.takes_over else "not better beyond chance"
        return (
            f"{verdict} at opening {self.opening}: test accuracy {self.challenger:.4g} against {self.champion:.4g}, "
            f"{self.better} samples better and {self.worse} worse, p {self.p:.3g}, level {self.level:.3g}"
        )


def level_of(opening: int) -> float:
    """Return the level of the n-th opening. All of them together stay below `LEVEL`: sum 1/n^2 = pi^2/6."""
    return LEVEL * 6 / (math.pi * opening) ** 2


def judge(champion: Hits, challenger: Hits, opening: int) -> Judgement:
    """Return what the n-th opening says of a challenger, from the hits (S, N) of both on the same samples.

    The number of their seeds may differ. With one seed each it is McNemar's exact test. With several a sample counts
    once, by the sign of the difference: so what a lucky seed is good for does not pass for a better recipe.
    """
    ours, theirs = challenger.mean(0), champion.mean(0)
    gaps = np.round(ours - theirs, 9)  # 1/3 + 2/3 and 1 are the same share of seeds
    better, worse = int((gaps > 0).sum()), int((gaps < 0).sum())
    p = float(stats.binomtest(better, better + worse, alternative="greater").pvalue) if better + worse else 1.0
    return Judgement(opening, better, worse, p, level_of(opening), float(theirs.mean()), float(ours.mean()))


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
