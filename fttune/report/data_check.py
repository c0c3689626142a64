"""What is wrong with images, as a table for people and plain data for scripts."""

import dataclasses
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import pandas as pd

from fttune.report.table import as_text

if TYPE_CHECKING:
    from fttune.data import Checked, Finding
    from fttune.data.findings import Severity

EXAMPLES = 3  # of each rule; all of them stand in the JSON
SEVERITIES: "tuple[Severity, ...]" = ("error", "warning", "note")
NAME = 60  # characters of a file's name in the table


def check_text(name: str, found: "Checked") -> str:
    """Return a line for each rule, examples and remedies below it, and the verdict."""
    rules = [list(group) for _, group in groupby(found.findings, key=lambda one: one.rule)]
    images = f"{name}: {sum(found.classes.values()):,} images in {len(found.classes)} classes"
    if not rules:
        return f"{images}\nnothing is wrong with them"
    table = pd.DataFrame.from_records(
        [{"severity": group[0].severity, "rule": group[0].rule, "found": len(group)} for group in rules]
    )
    shown = "\n".join(_examples(group) for group in rules)
    return f"{images}\n\n{as_text(table)}\n\n{shown}\n\n{verdict(found)}"


def verdict(found: "Checked") -> str:
    """Return how many findings there are of each severity, and what follows."""
    counts = {name: found.count(name) for name in SEVERITIES}
    told = ", ".join(f"{count} {name}{'' if count == 1 else 's'}" for name, count in counts.items())
    return f"{told}: {'training would fail or be spoilt' if counts['error'] else 'they can be used'}"


def check_record(name: str, found: "Checked") -> dict[str, Any]:
    """Return all of it as plain data."""
    counts = {f"{severity}s": found.count(severity) for severity in SEVERITIES}
    rows = [dataclasses.asdict(one) for one in found.findings]
    return {"path": name, "classes": dict(found.classes), **counts, "findings": rows}


def _examples(group: "Sequence[Finding]") -> str:
    lines = [f"{group[0].severity} {group[0].rule}: {group[0].remedy}"]
    lines += [f"  {_short(one.file)}: {one.what}" if one.file else f"  {one.what}" for one in group[:EXAMPLES]]
    lines += [f"  and {len(group) - EXAMPLES} more"] if len(group) > EXAMPLES else []
    return "\n".join(lines)


def _short(name: str) -> str:
    return name if len(name) <= NAME else f"...{name[3 - NAME :]}"
