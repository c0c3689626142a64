"""What a confirmation found, as data, as JSON and as text."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from fttune.report.statistics import Difference, not_distinguishable
from fttune.report.table import as_text
from fttune.report.wording import spread, times


@dataclass(frozen=True)
class Confirmed:
    """A candidate under fresh seeds: its trial, the validation metric under each seed, and the test metric likewise.

    A seed under which it diverged has no value. `test` is empty without a test split, and for what diverged.
    """

    trial: int
    baseline: bool
    params: Mapping[str, Any]
    trainable_parameters: int
    val: tuple[float | None, ...]
    test: tuple[float, ...] = ()

    @property
    def name(self) -> str:
        """What comparisons call it."""
        return f"trial {self.trial}"


@dataclass(frozen=True)
class Confirmation:
    """The candidates, best first by their mean validation metric: the first one is the winner.

    `differences` are those of the test metric between all pairs, `recommended` is the trial of the cheapest candidate
    that is not told apart from the winner there, `opened` is when the test split was opened, each time.
    """

    study: str
    metric: str
    test_metric: str
    seeds: tuple[int, ...]
    candidates: tuple[Confirmed, ...]
    differences: tuple[Difference, ...] = ()
    recommended: int | None = None
    opened: tuple[str, ...] = ()

    def as_json(self) -> str:
        """Return all of it as text."""
        return json.dumps(asdict(self))

    @classmethod
    def of_json(cls, text: str) -> "Confirmation":
        """Return what `as_json` wrote."""
        stored = json.loads(text)
        candidates = (
            Confirmed(**{**c, "val": tuple(c["val"]), "test": tuple(c["test"])}) for c in stored["candidates"]
        )
        gaps = (Difference(**{**gap, "mcnemar": tuple(gap["mcnemar"])}) for gap in stored["differences"])
        whole = {"seeds": tuple(stored["seeds"]), "opened": tuple(stored["opened"]), "differences": tuple(gaps)}
        return cls(**{**stored, **whole, "candidates": tuple(candidates)})

    def as_text(self) -> str:
        """Return a table of the candidates, and what follows from it."""
        seeds, winner = len(self.seeds), self.candidates[0]
        lines = [
            f"study {self.study} under {seeds} fresh seeds: mean (95 % interval)",
            as_text(pd.DataFrame.from_records([self._record(one) for one in self.candidates])),
            f"the winner by {self.metric} is {winner.name}",
        ]
        if not self.opened:
            return "\n".join([*lines, "there is no test split"])
        equal = not_distinguishable(winner.name, self.differences)
        if len(equal) > 1:
            lines.append(f"not distinguishable by test/{self.test_metric}: {', '.join(equal)}")
            lines.append(f"the cheapest of these to train, and so recommended, is trial {self.recommended}")
        return "\n".join([*lines, f"the test split was opened {times(len(self.opened))}: {', '.join(self.opened)}"])

    def _record(self, one: Confirmed) -> dict[str, Any]:
        finite = [value for value in one.val if value is not None]
        val = spread(finite) if len(finite) == len(one.val) else f"diverged under {len(one.val) - len(finite)} seeds"
        test = {f"test/{self.test_metric}": spread(one.test) if one.test else "-"} if self.opened else {}
        kind = {"baseline": "yes" if one.baseline else "-"}
        size = {"trainable_parameters": one.trainable_parameters}
        return {"trial": one.trial, **kind, **one.params, self.metric: val, **test, **size}


def prediction_column(candidate: str, seed: int) -> str:
    """Return which column of the logged predictions holds those of a candidate under a seed."""
    return f"{candidate} seed {seed}"
