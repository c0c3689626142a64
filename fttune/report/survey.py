"""What a folder of images holds, as a short table for people and plain data for scripts."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from fttune.report.table import as_text

if TYPE_CHECKING:
    from fttune.data.survey import Copies, Sizes, Survey

CLASSES = 20  # lines of the table; the rest stands in the JSON
NAMED = 3


def survey_text(survey: "Survey", imbalance: float) -> str:
    """Return a few lines: images of each class by split, sizes, imbalance, copies, files that cannot be read."""
    return "\n".join([as_text(_counts(survey)), "", *_facts(survey, imbalance)])


def survey_record(survey: "Survey", imbalance: float) -> dict[str, Any]:
    """Return all of it as plain data."""
    sizes = survey.sizes()
    return {
        "classes": dict(_rows(survey)),
        "sizes": sizes and {"smallest": sizes.smallest, "median": sizes.median, "largest": sizes.largest},
        "imbalance": imbalance,
        "copies": [{"names": c.names, "classes": c.labels, "splits": c.splits} for c in survey.copies],
        "unreadable": survey.unreadable,
    }


def _rows(survey: "Survey") -> list[tuple[str, dict[str, int]]]:
    columns = {split: survey.counts(split) for split in survey.splits} or {"images": survey.counts()}
    return [(label, {column: counts[label] for column, counts in columns.items()}) for label in survey.classes]


def _counts(survey: "Survey") -> pd.DataFrame:
    rows = _rows(survey)
    shown = [{"class": label, **row} for label, row in rows[:CLASSES]]
    if rest := [row for _, row in rows[CLASSES:]]:
        shown.append({"class": f"({len(rest)} more)", **_sums(rest)})
    shown.append({"class": "all", **_sums([row for _, row in rows])})
    return pd.DataFrame.from_records(shown)


def _sums(rows: Sequence[dict[str, int]]) -> dict[str, int]:
    return {column: sum(row[column] for row in rows) for column in rows[0]}


def _facts(survey: "Survey", imbalance: float) -> list[str]:
    facts = []
    if sizes := survey.sizes():
        shown = (
            f"{name} {w} x {h}" for name, (w, h) in zip(("smallest", "median", "largest"), _each(sizes), strict=True)
        )
        facts.append(f"sizes: {', '.join(shown)}")
    facts.append(f"imbalance: the largest class has {imbalance:.3g} times the training images of the smallest")
    facts.append(_copies_text(survey.copies))
    if survey.unreadable:
        named = _cut(f"{name} ({reason})" for name, reason in survey.unreadable.items())
        facts.append(f"cannot be read: {len(survey.unreadable)}: {named}")
    return facts


def _each(sizes: "Sizes") -> Iterable[tuple[int, int]]:
    return sizes.smallest, sizes.median, sizes.largest


def _copies_text(copies: "Sequence[Copies]") -> str:
    if not copies:
        return "exact copies: none"
    more = sum(len(one.names) - 1 for one in copies)
    text = f"exact copies: {more}: {_cut(' = '.join(one.names) for one in copies)}"
    if classes := sum(len(one.labels) > 1 for one in copies):
        text += f"; {classes} of them across classes: at least one label is wrong"
    if splits := sum(len(one.splits) > 1 for one in copies):
        text += f"; {splits} across splits, which makes results look better than they are"
    elif not any(one.splits for one in copies):
        text += "; remove them, since one may train and its copy validate"
    return text


def _cut(items: Iterable[str]) -> str:
    listed = list(items)
    return ", ".join([*listed[:NAMED], *([f"and {len(listed) - NAMED} more"] if len(listed) > NAMED else [])])
