"""What a search found, as a table: rows to pandas to text and JSON. Knows neither Optuna nor MLflow."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd


@dataclass(frozen=True)
class TrialRow:
    """One trial: its number, state, value, the values of the space, and what it cost.

    `state` is complete, pruned, diverged, failed or running; `seconds` is wall time; `reused_from` is the number of the
    trial with the same recipe whose value this one took over. `values` are those of all objectives of the study, in
    their order; `value` is the first of them.
    """

    number: int
    state: str
    value: float | None
    params: Mapping[str, Any]
    best_epoch: int | None
    trainable_parameters: int | None
    seconds: float | None
    reused_from: int | None = None
    values: tuple[float, ...] = ()


def summary(rows: Sequence[TrialRow]) -> str:
    """Return how many trials there are in each state, such as `24 complete (21 distinct recipes), 2 pruned`."""
    states = Counter(row.state for row in rows)
    distinct = distinct_recipes(rows)
    recipes = {"complete": f" ({distinct} distinct recipes)"} if distinct < states["complete"] else {}
    return ", ".join(f"{count} {state}{recipes.get(state, '')}" for state, count in states.items() if count)


def distinct_recipes(rows: Sequence[TrialRow]) -> int:
    """Return how many different recipes the complete trials trained."""
    return sum(row.state == "complete" and row.reused_from is None for row in rows)


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
