"""What a search found, as a table: rows to pandas to text and JSON. Knows neither Optuna nor MLflow."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd


@dataclass(frozen=True)
class Setting:
    """What a trial trained with, whether the space holds it or the recipe: None where the recipe has no such thing.

    `elr` is lr / (1 - momentum). `depth` says what trained, in the words of `Findings.depths`.
    """

    lr: float | None = None
    momentum: float | None = None
    elr: float | None = None
    depth: str | None = None


@dataclass(frozen=True)
class TrialRow:
    """One trial: its number, state, value, the values of the space, and what it cost.

    `state` is complete, pruned, diverged, out_of_memory, failed or running; `seconds` is wall time; `reused_from` is
    the number of the trial with the same recipe whose value this one took over; `cause` says why there is no value.
    `values` are those of all objectives of the study, in their order; `value` is the first of them.
    """

    number: int
    state: str
    value: float | None
    params: Mapping[str, Any]
    best_epoch: int | None
    trainable_parameters: int | None
    seconds: float | None
    reused_from: int | None = None
    cause: str | None = None
    setting: Setting = Setting()
    values: tuple[float, ...] = ()

    @property
    def has_own_value(self) -> bool:
        """Whether it trained to its end itself, so that its value is one more observation."""
        return self.state == "complete" and self.reused_from is None


def summary(rows: Sequence[TrialRow]) -> str:
    """Return how many trials there are in each state, such as `24 complete (21 distinct recipes), 2 pruned`."""
    states = Counter(row.state for row in rows)
    distinct = distinct_recipes(rows)
    recipes = {"complete": f" ({distinct} distinct recipes)"} if distinct < states["complete"] else {}
    return ", ".join(
        f"{count} {state.replace('_', ' ')}{recipes.get(state, '')}" for state, count in states.items() if count
    )


def distinct_recipes(rows: Sequence[TrialRow]) -> int:
    """Return how many different recipes the complete trials trained."""
    return sum(row.has_own_value for row in rows)


def table(rows: Sequence[TrialRow], *, objectives: Sequence[str] = ()) -> pd.DataFrame:
    """Return one line per trial in the order of `rows`, the values of the space as columns.

    `objectives` are the names of several, which are columns then in place of `value`.
    """
    fixed = ("number", "state") if objectives else ("number", "state", "value")
    measured = ["best_epoch", "trainable_parameters", "seconds"]
    measured += ["reused_from"] if any(row.reused_from is not None for row in rows) else []
    records = [
        {name: getattr(row, name) for name in fixed}
        | dict(zip(objectives, row.values, strict=bool(row.values)) if objectives else ())
        | dict(row.params)
        | {name: getattr(row, name) for name in measured}
        for row in rows
    ]
    frame = pd.DataFrame.from_records(records)
    whole = {name: "Int64" for name in ("best_epoch", "trainable_parameters", "reused_from") if name in frame}
    whole |= {name: "Int64" for name in objectives if name in frame and frame[name].dropna().mod(1).eq(0).all()}
    return frame.astype(whole)


def as_text(frame: pd.DataFrame) -> str:
    """Return a table for people: numbers of four digits, missing ones as a dash."""
    text: str = frame.to_string(index=False, na_rep="-", float_format=lambda value: f"{value:.4g}")
    return text


def as_records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return a table for JSON: a dict per line, missing numbers as None."""
    plain = frame.astype(object).where(frame.notna(), None)
    return [{str(name): _plain(value) for name, value in record.items()} for record in plain.to_dict("records")]


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value
