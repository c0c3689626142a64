"""The answer of a study in one paragraph, as far as it goes, and the facts behind it.

It claims no more than the trials carry: what the search alone cannot tell apart is said to be so, and a study that was
not confirmed says how it would be.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from fttune.report.advice import advice, rates
from fttune.report.confirmation import Confirmation, Confirmed
from fttune.report.findings import COUNTED, Findings
from fttune.report.ridge import Ridge, surface_of, trend
from fttune.report.statistics import not_distinguishable
from fttune.report.table import TrialRow, summary
from fttune.report.wording import duration, listed, rate, spread, times

SHARES = ("val/accuracy", "val/top5_accuracy")  # metrics whose chance error is a binomial's
FEWEST = 2  # complete trials that can be compared


@dataclass(frozen=True)
class AtDepth:
    """What was found at one depth: the best trial of `trials`, and where the best lr lies (None: too few trials)."""

    depth: str
    trials: int
    value: float
    trial: int
    lr: float | None = None
    lr_low: float | None = None
    lr_high: float | None = None


@dataclass(frozen=True)
class Answer:
    """What a study answers. `state` is empty, failed, single, searching, searched or confirmed.

    `trial` is the recommended one of a confirmed study, else the best so far. `margin` is how far one value may be off
    by the chance of which images validate (95 %), None where that is not known. `undecided` are the depths whose best
    values lie within it.
    """

    study: str
    state: str
    metric: str
    trials: Mapping[str, int]
    trial: int | None = None
    value: float | None = None
    params: Mapping[str, Any] | None = None
    depth: str | None = None
    lr: float | None = None
    momentum: float | None = None
    elr: float | None = None
    by_depth: tuple[AtDepth, ...] = ()
    lr_trend: str = "unknown"
    margin: float | None = None
    undecided: tuple[str, ...] = ()
    opened: tuple[str, ...] = ()
    front: tuple[int, ...] = ()
    sentences: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The paragraph."""
        return " ".join(self.sentences)

    def facts(self) -> dict[str, Any]:
        """Return all of it for JSON, the paragraph as `answer`."""
        return {**{k: v for k, v in asdict(self).items() if k != "sentences"}, "answer": self.text}


def answer_of(findings: Findings) -> Answer:
    """Return the answer that the findings carry."""
    begun = Answer(findings.study, _state(findings), findings.metric, dict(Counter(row.state for row in findings.rows)))
    if not findings.complete:
        return replace(begun, sentences=tuple(_nothing(findings)))
    chosen = _chosen(findings)
    surface = surface_of(findings)
    ridges = surface.ridges if surface else ()
    margin = _margin(findings)
    by_depth = tuple(_at_depths(findings, ridges))
    undecided = _undecided(findings, by_depth, margin)
    setting = chosen.setting
    return replace(
        begun,
        trial=chosen.number,
        value=chosen.value,
        params=chosen.params,
        depth=setting.depth,
        lr=setting.lr,
        momentum=setting.momentum,
        elr=setting.elr,
        by_depth=by_depth,
        lr_trend=trend(ridges),
        margin=margin,
        undecided=undecided,
        opened=findings.confirmation.opened if findings.confirmation else (),
        front=findings.front,
        sentences=tuple(_sentences(findings, chosen, by_depth, ridges, margin=margin, undecided=undecided)),
    )


def recommended(confirmation: Confirmation) -> Confirmed:
    """Return the candidate to use: the recommended one, without a test split the winner."""
    by_trial = {one.trial: one for one in confirmation.candidates}
    return by_trial.get(confirmation.recommended or -1, confirmation.candidates[0])


def _state(findings: Findings) -> str:
    if not findings.complete:
        return "failed" if findings.rows else "empty"
    if findings.confirmation:
        return "confirmed"
    if len(findings.complete) < FEWEST:
        return "single"
    return "searched" if findings.is_finished else "searching"


def _chosen(findings: Findings) -> TrialRow:
    if findings.confirmation:
        wanted = recommended(findings.confirmation).trial
        return next(row for row in findings.rows if row.number == wanted)
    return findings.complete[0]


def _margin(findings: Findings) -> float | None:
    best = findings.complete[0].value
    if findings.metric not in SHARES or not findings.val_images or best is None:
        return None
    return float(1.96 * np.sqrt(best * (1 - best) / findings.val_images))


def _at_depths(findings: Findings, ridges: tuple[Ridge, ...]) -> Iterator[AtDepth]:
    by_depth = {ridge.depth: ridge for ridge in ridges}
    for depth in findings.depths:
        rows, ridge = findings.at_depth(depth), by_depth.get(depth)
        if rows:
            assert rows[0].value is not None, "a complete trial has a value"
            where = (ridge.lr, ridge.low, ridge.high) if ridge else (None, None, None)
            yield AtDepth(depth, len(rows), rows[0].value, rows[0].number, *where)


def _undecided(findings: Findings, by_depth: tuple[AtDepth, ...], margin: float | None) -> tuple[str, ...]:
    best = findings.complete[0].value
    if margin is None or best is None:
        return ()
    near = tuple(one.depth for one in by_depth if abs(one.value - best) <= margin)
    return near if len(near) > 1 else ()


def _nothing(findings: Findings) -> Iterator[str]:
    if not findings.rows:
        yield f"Study {findings.study} has no trial yet, so there is nothing to say."
        yield f"`{findings.reproduction.search}` begins it."
        return
    yield f"No trial of study {findings.study} is complete ({summary(findings.rows)}), so there is no answer yet."
    causes = Counter(row.cause for row in findings.rows if row.cause)
    if causes:
        cause, count = causes.most_common(1)[0]
        yield f"The most frequent cause, of {count} {'trial' if count == 1 else 'trials'}: {cause.strip(' .')}."
    if findings.is_finished or not any(row.state == "running" for row in findings.rows):
        yield f"Once the cause is cured, `{findings.reproduction.search}` goes on."


def _sentences(
    findings: Findings,
    chosen: TrialRow,
    by_depth: tuple[AtDepth, ...],
    ridges: tuple[Ridge, ...],
    *,
    margin: float | None,
    undecided: tuple[str, ...],
) -> Iterator[str]:
    yield _headline(findings, chosen)
    if findings.confirmation:
        yield from _confirmed(findings.confirmation)
    else:
        yield from _searched(findings, chosen, margin)
    if findings.aims:
        yield _front(findings)
    if undecided and not findings.confirmation:
        yield (
            f"The best values at {_named(undecided, findings)} lie within that margin: "
            "the search alone does not tell these depths apart."
        )
    if len(findings.complete) >= FEWEST:
        yield from _rates(findings, by_depth, ridges)
    yield from _costs(findings, chosen)
    if not findings.confirmation:
        yield from _next_step(findings)


def _headline(findings: Findings, chosen: TrialRow) -> str:
    what, with_rates = advice(chosen.setting.depth, findings), rates(chosen.setting)
    said = ", with ".join(part for part in (what, with_rates) if part)
    if not what:
        said = f"train with {with_rates}" if with_rates else "use its recipe"
    lead = "" if findings.confirmation or findings.is_finished else "so far: "
    text = f"{lead}{said}: this is trial {chosen.number}."
    return f"{text[0].upper()}{text[1:]}"


def _searched(findings: Findings, chosen: TrialRow, margin: float | None) -> Iterator[str]:
    value = f"{findings.metric} {chosen.value:.4g}"
    if len(findings.complete) < FEWEST:
        yield f"It is the only complete trial, with {value}: there is nothing to compare it with."
        return
    of, counts = (
        ("a finished search", "") if findings.is_finished else ("the trials so far", f", of {findings.total_trials}")
    )
    yield f"Its {value} is the best of {of} ({summary(findings.rows)}{counts})."
    if margin is not None:
        yield (
            f"By the chance of which {findings.val_images} images validate, a single value may be off by "
            f"{margin:.2g} (95 %), and the best of many is partly the luckiest."
        )


def _front(findings: Findings) -> str:
    names = listed([aim.name for aim in findings.aims])
    if len(findings.front) == 1:
        return f"No other trial beats it in any of {names}."
    ends = [row for row in findings.complete if row.number in findings.front]
    last = ends[-1]
    values = listed([f"{aim.name} {value:.4g}" for aim, value in zip(findings.aims, last.values, strict=True)])
    return (
        f"It is best by {findings.metric} alone; {len(ends)} trials are on the Pareto front of {names}, "
        f"at the other end of it trial {last.number} with {values}."
    )


def _confirmed(confirmation: Confirmation) -> Iterator[str]:
    one, winner = recommended(confirmation), confirmation.candidates[0]
    seeds = len(confirmation.seeds)
    under = f"{seeds} fresh seeds (means, 95 % intervals)" if seeds > 1 else "one fresh seed"
    test = f", its {confirmation.test_metric} on the test split {spread(one.test)}" if one.test else ""
    val = spread([value for value in one.val if value is not None])
    yield f"Under {under} its {confirmation.metric} is {val}{test}."
    yield f"The winner by {confirmation.metric} is {winner.name}."
    if not confirmation.opened:
        yield "There is no test split."
        return
    equal = not_distinguishable(winner.name, confirmation.differences)
    if len(equal) > 1:
        trials, are = ("trial", "is") if len(equal) == 2 else ("trials", "are")
        numbers = listed([name.removeprefix("trial ") for name in equal[1:]])
        yield f"On the test split, {trials} {numbers} {are} not distinguishable from it."
        yield f"Of these and the winner, trial {one.trial} is the cheapest to train, and so recommended."
    elif len(confirmation.candidates) > 1:
        yield "On the test split it is told apart from every other candidate."
    yield from _over_baselines(confirmation, one)
    yield f"The test split was opened {times(len(confirmation.opened))}."


def _over_baselines(confirmation: Confirmation, chosen: Confirmed) -> Iterator[str]:
    baselines = {one.name: one for one in confirmation.candidates if one.baseline and one is not chosen}
    for gap in confirmation.differences:
        if chosen.name not in (gap.first, gap.second):
            continue
        other, sign = (gap.second, 1) if chosen.name == gap.first else (gap.first, -1)
        if other in baselines:
            low, high = sorted((sign * gap.low, sign * gap.high))
            told = "" if gap.is_distinguishable else ", not beyond chance"
            side = "above" if sign * gap.mean >= 0 else "below"
            there = f"{abs(gap.mean):.3f} ({low:+.3f} .. {high:+.3f}) {side} the baseline {other}{told}"
            yield f"{chosen.name.capitalize()} is {there}."


def _rates(findings: Findings, by_depth: tuple[AtDepth, ...], ridges: tuple[Ridge, ...]) -> Iterator[str]:
    tried = {row.setting.lr for row in findings.observed}
    if not by_depth or len(tried) < FEWEST:
        return
    if not ridges:
        yield "How the best lr depends on depth cannot be said yet: no depth has enough trials."
        return
    said = [f"{rate(r.lr)} ({rate(r.low)} .. {rate(r.high)}) at {_named([r.depth], findings)}" for r in ridges]
    if len(ridges) == 1:
        yield f"The best lr is about {said[0]}, the only depth with enough trials to say (80 % of resamples)."
    elif findings.depth_field != COUNTED:
        yield f"The best lr is about {listed(said)} (80 % of resamples)."
    elif (way := trend(ridges)) == "no clear trend":
        yield f"The best lr shows no clear trend with depth: {said[0]} and {said[-1]}, whose intervals overlap."
    else:
        yield f"The best lr {way} with depth, from {said[0]} to {said[-1]} (80 % of resamples)."


def _named(depths: Sequence[str], findings: Findings) -> str:
    """Return depths with the words of what they count."""
    if findings.depth_field != COUNTED:
        return f"{findings.depth_words} {listed(depths)}"
    return f"{listed(depths)} unfrozen {'stage' if list(depths) == ['1'] else 'stages'}"


def _costs(findings: Findings, chosen: TrialRow) -> Iterator[str]:
    trained = f"trains {chosen.trainable_parameters:,} parameters" if chosen.trainable_parameters is not None else ""
    source = chosen.reused_from
    row = chosen if source is None else next((r for r in findings.rows if r.number == source), chosen)
    took = f"took {duration(row.seconds)}" if row.seconds else ""
    spent = sum(row.seconds or 0.0 for row in findings.rows)
    whole = f"; all trials together took {duration(spent)}" if spent and len(findings.rows) > 1 else ""
    if said := " and ".join(part for part in (trained, took) if part):
        yield f"Trial {chosen.number} {said}{whole}."


def _next_step(findings: Findings) -> Iterator[str]:
    if not findings.is_finished:
        yield f"The search is not at its end; `{findings.reproduction.search}` goes on."
    elif findings.complete:
        yield (
            f"This is not confirmed: `{findings.reproduction.confirm}` trains the best trials and the baselines with "
            "fresh seeds, then opens the test split."
        )
