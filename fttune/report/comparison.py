"""Two studies, or runs, against each other: how much their recipes differ, as data, as JSON and as text.

Whether they may be compared at all is decided before; here they share data, split, classes and metric.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from fttune.report.confirmation import prediction_column
from fttune.report.statistics import LEVEL, Candidate, Difference, Gap, gap, holm, score, shared_seeds
from fttune.report.statistics import compare as differences_of
from fttune.report.table import as_text
from fttune.report.wording import spread


@dataclass(frozen=True)
class Contender:
    """A recipe of one side, and its validation metric under each seed; `test` likewise on the shared test samples.

    `role` is winner, recommended, best trial or run; `name` tells it from others of its side and may be empty.
    """

    side: str
    role: str
    name: str
    params: Mapping[str, Any]
    trainable_parameters: int | None
    seeds: tuple[int, ...]
    val: tuple[float, ...]
    test: tuple[float, ...] = ()

    @property
    def label(self) -> str:
        """What the comparison calls it."""
        return f"{self.side} {self.name}".strip()

    @property
    def by_seed(self) -> Mapping[int, float]:
        """Its validation metric by seed."""
        return dict(zip(self.seeds, self.val, strict=True))


@dataclass(frozen=True)
class Side:
    """One of the two: its `best` recipe as it was found, and what stands for it under fresh seeds, the winner first.

    `contenders` holds the recommended recipe after the winner where that is another one; it is empty for an unconfirmed
    study. `predictions` is what a confirmation logs: per test sample its class, and what was predicted. `more` is what
    to do for more seeds.
    """

    name: str
    metric: str
    direction: str
    best: Contender
    contenders: tuple[Contender, ...]
    more: str
    test_metric: str | None = None
    predictions: pd.DataFrame | None = field(default=None, compare=False, repr=False)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pair:
    """Two contenders, one of each side: the first minus the second by the validation metric, and by the test metric.

    `test` is None where there are no test predictions of both, or not under two seeds. p-values are corrected for the
    number of pairs (Holm), of each metric by itself.
    """

    first: str
    second: str
    val: Gap
    test: Difference | None = None


@dataclass(frozen=True)
class Comparison:
    """What `compared` finds; `samples` are the test samples that both predicted."""

    first: str
    second: str
    metric: str
    direction: str
    test_metric: str | None
    contenders: tuple[Contender, ...]
    pairs: tuple[Pair, ...]
    samples: int = 0
    notes: tuple[str, ...] = ()

    def as_json(self) -> str:
        """Return all of it as text."""
        return json.dumps(asdict(self))

    def as_text(self) -> str:
        """Return the contenders and their differences as tables, how they were paired, and what follows."""
        judged = [pair for pair in self.pairs if pair.val.p is not None or pair.test]
        holm_says = f", p after Holm's correction for {len(self.pairs)} pairs" if len(self.pairs) > 1 else ""
        return "\n".join(
            [
                f"{self.first} and {self.second} by {self.metric}: mean over seeds (95 % interval)",
                as_text(pd.DataFrame.from_records([self._contender(one) for one in self.contenders])),
                f"the first minus the second (95 % interval){holm_says}",
                as_text(pd.DataFrame.from_records([self._pair(pair) for pair in self.pairs])),
                *dict.fromkeys(map(self._pairing, judged)),
                *map(self._verdict, judged),
                *self.notes,
            ]
        )

    def _contender(self, one: Contender) -> dict[str, Any]:
        test = {f"test/{self.test_metric}": spread(one.test) if one.test else "-"} if self.samples else {}
        size = {"trainable_parameters": "-" if one.trainable_parameters is None else one.trainable_parameters}
        shown = {"recipe": one.label, "as": one.role}
        every = dict.fromkeys((name for other in self.contenders for name in other.params), "-")
        return {**shown, **every, **one.params, **size, "seeds": len(one.seeds), self.metric: spread(one.val), **test}

    def _pair(self, pair: Pair) -> dict[str, Any]:
        val = pair.val
        found = {
            "first": pair.first,
            "second": pair.second,
            self.metric: _gap_text(val.mean, val.low, val.high),
            "p": "-" if val.p is None else f"{val.p:.2g}",
        }
        if pair.test is None:
            return found
        test = pair.test
        tests = ", ".join(f"{p:.2g}" for p in test.mcnemar) or "-"
        bounds = _gap_text(test.mean, test.low, test.high)
        return {**found, f"test/{self.test_metric}": bounds, "test p": f"{test.p:.2g}", "McNemar per seed": tests}

    def _pairing(self, pair: Pair) -> str:
        seeds = ", ".join(map(str, pair.val.seeds))
        how = f"paired by seed ({seeds})" if seeds else "unpaired (Welch), since they do not share two seeds"
        if pair.test is None:
            return f"{self.metric} is {how}"
        seeded = "by seed and by sample" if seeds else "by sample, not by seed"
        return f"{self.metric} is {how}; test/{self.test_metric} is paired {seeded} ({self.samples} samples)"

    def _verdict(self, pair: Pair) -> str:
        if pair.test is not None:
            metric, mean, p, larger_is_better = f"test/{self.test_metric}", pair.test.mean, pair.test.p, True
        else:
            assert pair.val.p is not None, "asked before"
            metric, mean, p, larger_is_better = self.metric, pair.val.mean, pair.val.p, self.direction == "maximize"
        if p >= LEVEL:
            return f"{pair.first} and {pair.second} are not distinguishable by {metric}"
        better, worse = (pair.first, pair.second) if (mean > 0) == larger_is_better else (pair.second, pair.first)
        return f"{better} is better than {worse} by {metric}"


def compared(first: Side, second: Side) -> Comparison:
    """Compare the winners of two sides, and the recommended recipes where these are others.

    While one of them is unconfirmed, the best recipes as they were found take their place. Single runs have no p-value.
    """
    confirmed = bool(first.contenders and second.contenders)
    ours, theirs = (side.contenders if confirmed else (side.best,) for side in (first, second))
    chosen = [(ours[0], theirs[0])] + [(ours[-1], theirs[-1])] * (len(ours) + len(theirs) > 2)
    gaps = _corrected([gap(a.by_seed, b.by_seed) for a, b in chosen])
    pairs = [Pair(a.label, b.label, found) for (a, b), found in zip(chosen, gaps, strict=True)]
    whole = Comparison(
        first.name,
        second.name,
        first.metric,
        first.direction,
        first.test_metric,
        (*ours, *theirs),
        tuple(pairs),
        notes=(*first.notes, *second.notes, *_too_few([(first, ours[0]), (second, theirs[0])])),
    )
    return _tested(whole, first, second) if confirmed else whole


def _corrected(gaps: Sequence[Gap]) -> list[Gap]:
    """Return the gaps with p-values corrected for the number of those that have one."""
    corrected = iter(holm([one.p for one in gaps if one.p is not None]))
    return [one if one.p is None else replace(one, p=next(corrected)) for one in gaps]


def _too_few(shown: Sequence[tuple[Side, Contender]]) -> list[str]:
    """Return what is to be said of sides that stand there with a single run."""
    unconfirmed = [side for side, _ in shown if not side.contenders]
    lacking = unconfirmed or [side for side, one in shown if len(one.val) < 2]
    if not lacking:
        return []
    ways = "; ".join(side.more for side in lacking)
    return [f"a single run is no evidence, and the best of many is partly the luckiest, so there is no p-value: {ways}"]


def _tested(whole: Comparison, first: Side, second: Side) -> Comparison:
    """Return the comparison with what the logged predictions say of the test samples that both sides have."""
    if first.predictions is None or second.predictions is None:
        return whole
    ours, theirs = first.contenders[0].seeds, second.contenders[0].seeds
    samples = first.predictions.index.intersection(second.predictions.index)
    if min(len(ours), len(theirs)) < 2 or samples.empty:
        return whole
    metric = whole.test_metric or "accuracy"
    frames = {side.name: side.predictions.loc[samples] for side in (first, second) if side.predictions is not None}
    columns = {
        (one.label, seed): frames[one.side][prediction_column(one.name, seed)]
        for one in whole.contenders
        for seed in one.seeds
    }
    codes, _ = pd.factorize(pd.concat([frames[first.name]["class"], *columns.values()]), sort=True)
    truth, *rows = np.split(codes.astype(np.int64), len(columns) + 1)
    predicted = dict(zip(columns, rows, strict=True))
    pairing = shared_seeds(ours, theirs)
    candidates = [
        Candidate(one.label, np.stack([predicted[one.label, seed] for seed in pairing or one.seeds]), 0.0)
        for one in whole.contenders
    ]
    pairs = [(pair.first, pair.second) for pair in whole.pairs]
    differences = differences_of(candidates, truth, metric=metric, pairs=pairs, paired=bool(pairing))
    contenders = [
        replace(one, test=tuple(score(truth, predicted[one.label, seed], metric) for seed in one.seeds))
        for one in whole.contenders
    ]
    tested = [replace(pair, test=found) for pair, found in zip(whole.pairs, differences, strict=True)]
    return replace(whole, contenders=tuple(contenders), pairs=tuple(tested), samples=len(samples))


def _gap_text(mean: float, low: float | None, high: float | None) -> str:
    return f"{mean:.4g}" if low is None else f"{mean:.4g} ({low:.4g} .. {high:.4g})"
