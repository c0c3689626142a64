"""The tables of a report, as text in cells: the same ones for HTML and Markdown."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fttune.report.answer import Answer, recommended
from fttune.report.confirmation import Confirmation, Confirmed
from fttune.report.findings import Findings
from fttune.report.table import TrialRow
from fttune.report.wording import number, rate, spread

SHOWN = 20  # trials of the table; all of them are in the CSV
NAMED = 8  # trials of one cause that are named
CAUSES = 20


@dataclass(frozen=True)
class Sheet:
    """A table. Its first `texts` columns are text, the others numbers; `strong` are the rows that stand out.

    One that `leads` stands before the figures.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    texts: int = 1
    note: str = ""
    strong: frozenset[int] = frozenset()
    leads: bool = False


def sheets_of(findings: Findings, answer: Answer) -> list[Sheet]:
    """Return the tables that have a row, in the order of the page."""
    made: list[Sheet] = []
    if findings.confirmation:
        made += [_candidates(findings.confirmation), _differences(findings.confirmation)]
    made += [_front(findings), _depths(findings, answer), _best(findings), _causes(findings)]
    return [sheet for sheet in made if sheet.rows]


def _candidates(found: Confirmation) -> Sheet:
    chosen = recommended(found).trial
    names = list(dict.fromkeys(name for one in found.candidates for name in one.params))
    test = (f"test/{found.test_metric}",) if found.opened else ()
    rows = [
        (
            str(one.trial),
            ", ".join(_roles(one, found, chosen)) or "candidate",
            *(_value(one.params.get(name)) for name in names),
            _over_seeds(one.val),
            *((spread(one.test) if one.test else "-",) if found.opened else ()),
            f"{one.trainable_parameters:,}",
        )
        for one in found.candidates
    ]
    return Sheet(
        f"Confirmation over {len(found.seeds)} fresh seeds",
        ("trial", "role", *map(_short, names), found.metric, *test, "trained parameters"),
        tuple(rows),
        texts=2,
        note="Mean over seeds, with its 95 % interval (Student's t).",
        strong=frozenset(index for index, one in enumerate(found.candidates) if one.trial == chosen),
        leads=True,
    )


def _roles(one: Confirmed, found: Confirmation, chosen: int) -> list[str]:
    roles = {"winner": one is found.candidates[0], "recommended": one.trial == chosen, "baseline": one.baseline}
    return [role for role, holds in roles.items() if holds]


def _over_seeds(values: Sequence[float | None]) -> str:
    finite = [value for value in values if value is not None]
    return spread(finite) if len(finite) == len(values) else f"diverged under {len(values) - len(finite)} seeds"


def _differences(found: Confirmation) -> Sheet:
    rows = [
        (
            f"{gap.first} - {gap.second.removeprefix('trial ')}",
            "yes" if gap.is_distinguishable else "no",
            f"{gap.mean:+.4f}",
            f"{gap.low:+.4f} .. {gap.high:+.4f}",
            f"{gap.p:.3g}",
            f"{min(gap.mcnemar):.2g} .. {max(gap.mcnemar):.2g}",
        )
        for gap in found.differences
    ]
    return Sheet(
        f"Paired differences of test/{found.test_metric}",
        ("pair", "distinguishable", "difference", "95 % interval", "p", "McNemar's p by seed"),
        tuple(rows),
        texts=2,
        note="Bootstrap over seeds and samples; p corrected for the number of pairs (Holm), McNemar's not.",
        leads=True,
    )


def _front(findings: Findings) -> Sheet:
    rows = [row for row in findings.complete if row.number in findings.front] if findings.aims else []
    names = list(dict.fromkeys(name for row in rows for name in row.params))
    return Sheet(
        "Pareto front",
        ("trial", *map(_short, names), *(aim.name for aim in findings.aims)),
        tuple(
            (str(row.number), *(_value(row.params.get(name)) for name in names), *map(number, row.values))
            for row in rows
        ),
        note="No other trial is better in one of these objectives and worse in none.",
        leads=True,
    )


def _depths(findings: Findings, answer: Answer) -> Sheet:
    rows = [
        (
            one.depth,
            number(one.value),
            str(one.trial),
            str(one.trials),
            f"{rate(one.lr)} ({rate(one.lr_low)} .. {rate(one.lr_high)})" if one.lr else "-",
        )
        for one in answer.by_depth
    ]
    return Sheet(
        f"By {findings.depth_words}",
        (findings.depth_words, f"best {findings.metric}", "trial", "complete trials", "best lr (80 % of resamples)"),
        tuple(rows),
        strong=frozenset(index for index, one in enumerate(answer.by_depth) if one.depth == answer.depth),
    )


def _best(findings: Findings) -> Sheet:
    shown = findings.complete[:SHOWN]
    names = list(dict.fromkeys(name for row in shown for name in row.params))
    is_whole = len(findings.rows) <= SHOWN and len(shown) == len(findings.rows)
    return Sheet(
        "Trials" if is_whole else f"Best {len(shown)} of {len(findings.rows)} trials",
        ("trial", *map(_short, names), findings.metric, "best epoch", "trained parameters", "seconds"),
        tuple(_trial(row, names) for row in shown),
        note="All of them are in trials.csv, beside this page.",
    )


def _trial(row: TrialRow, names: Iterable[str]) -> tuple[str, ...]:
    return (
        str(row.number) if row.reused_from is None else f"{row.number} (recipe of {row.reused_from})",
        *(_value(row.params.get(name)) for name in names),
        number(row.value),
        "-" if row.best_epoch is None else str(row.best_epoch),
        "-" if row.trainable_parameters is None else f"{row.trainable_parameters:,}",
        number(row.seconds),
    )


def _causes(findings: Findings) -> Sheet:
    by_cause: dict[tuple[str, str], list[int]] = defaultdict(list)
    for row in findings.rows:
        if row.cause:
            by_cause[row.state, row.cause].append(row.number)
    frequent = sorted(by_cause.items(), key=lambda item: -len(item[1]))
    rows = [(state, cause, _numbers(numbers), str(len(numbers))) for (state, cause), numbers in frequent[:CAUSES]]
    note = f"The {CAUSES} most frequent of {len(frequent)} causes." if len(frequent) > CAUSES else ""
    columns = ("state", "cause", "trials", "count")
    title, leads = "Trials without a result", not findings.complete
    return Sheet(title, columns, tuple(rows), texts=3, note=note, leads=leads)


def _numbers(numbers: Sequence[int]) -> str:
    more = f", and {len(numbers) - NAMED} more" if len(numbers) > NAMED else ""
    return ", ".join(map(str, numbers[:NAMED])) + more


def _short(name: str) -> str:
    return name.partition(".")[2] or name


def _value(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
