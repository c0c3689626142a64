"""Which studies a night runs, in which order, and for how long. Pure: knows neither stores nor clocks."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from typing import Any

import pandas as pd

from fttune.config.nightly import Nightly
from fttune.report import as_text


@dataclass(frozen=True)
class Standing:
    """Where a study stands before the night.

    `last` is its last night, None before the first one, `ended` whether it came to its end there; `trials` are those
    that tonight would add.
    """

    study: str
    nightly: Nightly
    trials: int
    last: date | None = None
    ended: bool = True

    def due(self, tonight: date) -> str | None:
        """Return why the study is due, in words, None when it is not."""
        if self.last is None:
            return "its first night"
        if not self.ended:
            return f"the night of {self.last} did not end"
        due = (tonight - self.last).days >= self.nightly.days
        return f"every {self.nightly.every}, last on {self.last}" if due else None


@dataclass(frozen=True)
class Share:
    """What a study gets of a night: `hours` 0 and the reason where it gets nothing."""

    study: str
    weight: float
    hours: float
    trials: int
    why: str


@dataclass(frozen=True)
class Plan:
    """A night: the studies that run, in this order, and those that do not."""

    night: date
    budget_hours: float
    shares: tuple[Share, ...]
    skipped: tuple[Share, ...] = ()

    def as_json(self) -> str:
        """Return all of it as text."""
        return json.dumps({**asdict(self), "night": self.night.isoformat()})

    def as_text(self) -> str:
        """Return a table."""
        head = f"night of {self.night}, {self.budget_hours:.4g} hours"
        rows = [self._row(index, one) for index, one in enumerate(self.shares, start=1)]
        rows += [self._row(None, one) for one in self.skipped]
        if not rows:
            return f"{head}: no study"
        return f"{head}:\n{as_text(pd.DataFrame.from_records(rows))}"

    def _row(self, place: int | None, share: Share) -> dict[str, Any]:
        about = {"place": "-" if place is None else str(place), "study": share.study, "weight": share.weight}
        return {**about, "hours": f"{share.hours:.2f}", "trials": share.trials, "why": share.why}


def plan(standings: Sequence[Standing], tonight: date, budget_hours: float) -> Plan:
    """Return the plan of a night.

    Studies that an earlier night did not finish come first, then those that ran longest ago, then the heavier ones.
    Each gets a part of the hours by its weight; what it leaves goes to those after it (`hours_of`).
    """
    due = {one.study: why for one in standings if (why := one.due(tonight))}
    order = sorted((one for one in standings if one.study in due), key=_precedence)
    hours = hours_of([one.nightly.weight for one in order], budget_hours)
    shares = (
        Share(one.study, one.nightly.weight, own, one.trials, due[one.study])
        for one, own in zip(order, hours, strict=True)
    )
    skipped = (
        Share(one.study, one.nightly.weight, 0.0, 0, f"not due before {_next(one)}")
        for one in standings
        if one.study not in due
    )
    return Plan(tonight, budget_hours, tuple(shares), tuple(skipped))


def hours_of(weights: Sequence[float], hours: float) -> list[float]:
    """Return the share of the hours for each of the weights."""
    total = sum(weights)
    return [hours * weight / total for weight in weights]


def _precedence(one: Standing) -> tuple[bool, date, float, str]:
    return one.ended, one.last or date.min, -one.nightly.weight, one.study


def _next(one: Standing) -> date:
    assert one.last is not None, "a study without a night is due"
    return one.last + timedelta(days=one.nightly.days)
