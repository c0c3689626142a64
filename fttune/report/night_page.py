"""The page of a night over all studies: what ran, what is best by night, who is champion and why, what failed."""

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import date

from fttune.report.figures.gallery import Drawn
from fttune.report.figures.picture import BLUE, GREY, Picture, as_svg, canvas, look
from fttune.report.night import FAILED, Night, StudyNight
from fttune.report.page import render
from fttune.report.sheets import Sheet
from fttune.report.wording import number

SHOWN = 30  # nights of a figure
NAMED = 6  # dates on an axis
MEGABYTE = 1e6


def as_html(night: Night, history: Sequence[Night]) -> str:
    """Return the page, which needs nothing but itself; `history` are the nights before, in order."""
    figures = _figures([*history, night])
    return render("night.html.j2", figures=figures, **_shown(night, history))


def as_markdown(night: Night, history: Sequence[Night]) -> str:
    """Return the same in Markdown, without figures."""
    return render("night.md.j2", **_shown(night, history))


def _shown(night: Night, history: Sequence[Night]) -> dict[str, object]:
    failed, alarms = _failed(night), [one for one in night.studies if one.alarm]
    counts = {"failed": len(failed) + len(night.problems), "raised an alarm": len(alarms)}
    told = [f"{count} {what}" for what, count in counts.items() if count]
    facts = {
        "Begun": night.begun,
        "Ended": night.ended,
        "Budget": f"{night.budget_hours:.4g} hours",
        "At work": f"{sum(one.hours for one in night.studies):.2f} hours",
        "GPU hours": f"{night.gpu_hours:.2f}",
        "Disk used": f"{night.disk.get('all', 0) / MEGABYTE:,.0f} MB",
    }
    made = [_studies(night), _champions(night), _causes(night), _by_night([*history, night]), _disk(night)]
    return {
        "night": night,
        "verdict": ", ".join(told) or "All well",
        "facts": facts,
        "sentences": list(_sentences(night)),
        "sheets": [sheet for sheet in made if sheet.rows],
    }


def _failed(night: Night) -> list[StudyNight]:
    return [one for one in night.studies if one.state == FAILED]


def _sentences(night: Night) -> Iterator[str]:
    """Yield what deserves a look: alarms, failures, new champions, changed data, studies that did not run."""
    for one in night.studies:
        if one.alarm:
            yield f"Alarm in `{one.study}`: {one.alarm}."
    for one in _failed(night):
        yield f"`{one.study}` failed: {'; '.join((one.cause or '').splitlines())}"
    yield from night.problems
    for one in night.studies:
        if one.change:
            yield f"The data of `{one.study}` changed, which began `{one.generation}`: {one.change}."
        if one.champion and one.champion.changed:
            yield f"New champion of `{one.study}`: {one.champion.why}."
    for study, why in night.skipped.items():
        yield f"`{study}` did not run: {why}."
    added = sum(one.trials for one in night.studies)
    yield f"{added} trials ended in {len(night.studies)} {'study' if len(night.studies) == 1 else 'studies'}."


def _studies(night: Night) -> Sheet:
    rows = [
        (
            one.study,
            one.generation or "-",
            one.state,
            one.metric or "-",
            _value(one),
            str(one.trials),
            str(one.total),
            f"{one.hours:.2f}",
            f"{one.gpu_hours:.2f}",
        )
        for one in night.studies
    ]
    columns = ("study", "generation", "state", "metric", "best (95 %)", "trials", "in all", "hours", "GPU hours")
    note = (
        "The best value is the winner's mean over fresh seeds, with Student's interval; without a confirmation it is "
        "that of the best trial, and has none."
    )
    strong = frozenset(index for index, one in enumerate(night.studies) if not one.is_well)
    return Sheet("Studies", columns, tuple(rows), texts=4, note=note, strong=strong, leads=True)


def _champions(night: Night) -> Sheet:
    rows = [
        (one.study, one.champion.trial or "-", one.champion.version or "-", one.champion.why)
        for one in night.studies
        if one.champion
    ]
    return Sheet("Champions", ("study", "champion", "version", "why"), tuple(rows), texts=4, leads=True)


def _causes(night: Night) -> Sheet:
    causes: Counter[tuple[str, str]] = Counter()
    for one in night.studies:
        causes.update({(one.study, cause): count for cause, count in one.failures.items()})
    rows = tuple((study, cause, str(count)) for (study, cause), count in causes.most_common())
    return Sheet("Trials without a result", ("study", "cause", "trials"), rows, texts=2, leads=True)


def _by_night(nights: Sequence[Night]) -> Sheet:
    rows = [
        (str(night.night), one.study, one.generation or "-", one.state, _value(one), str(one.trials))
        for night in reversed(nights[-SHOWN:])
        for one in night.studies
    ]
    columns = ("night", "study", "generation", "state", "best (95 %)", "trials")
    return Sheet("By night", columns, tuple(rows), texts=4)


def _disk(night: Night) -> Sheet:
    parts = sorted(night.disk.items(), key=lambda part: -part[1])
    rows = tuple((name, f"{size / MEGABYTE:,.1f}") for name, size in parts)
    return Sheet("Disk used by the generated folder", ("part", "MB"), rows)


def _value(one: StudyNight) -> str:
    around = "" if one.low is None else f" ({number(one.low)} .. {number(one.high)})"
    return f"{number(one.best)}{around}"


def _figures(nights: Sequence[Night]) -> list[Drawn]:
    """Return a figure for each study that has a value on two nights."""
    shown = nights[-SHOWN:]
    found: dict[str, list[tuple[date, StudyNight]]] = {}
    for night in shown:
        for one in night.studies:
            if one.best is not None:
                found.setdefault(one.study, []).append((night.night, one))
    with look():
        pictures = [_picture(index, points) for index, points in enumerate(found.values()) if len(points) > 1]
        return [Drawn(one.name, one.title, one.caption, one.alt, as_svg(one)) for one in pictures]


def _picture(index: int, points: Sequence[tuple[date, StudyNight]]) -> Picture:
    figure, axes = canvas(height=2.4)
    values = [one.best or 0.0 for _, one in points]
    for place, (_, one) in enumerate(points):
        if one.low is not None and one.high is not None:
            axes.plot([place, place], [one.low, one.high], color=GREY, linewidth=1.4, zorder=1)
    axes.plot(range(len(points)), values, color=BLUE, marker="o", markersize=4, linewidth=1.2, zorder=2)
    step = -(-len(points) // NAMED)
    axes.set_xticks(range(0, len(points), step), [f"{night:%d %b}" for night, _ in points[::step]])
    begun = [place for place, (_, one) in enumerate(points) if place and one.change]
    for place in begun:
        axes.axvline(place - 0.5, color=GREY, linewidth=0.8, linestyle="--")
    newest = points[-1][1]
    axes.set(ylabel=newest.metric)
    said = "; ".join(f"{night} {_value(one)}" for night, one in points)
    changed = " Dashed lines: the data changed." if begun else ""
    title = f"{newest.study}: best value by night"
    caption = f"Bars are the 95 % interval over seeds.{changed}"
    return Picture(f"nights-{index}", title, caption, f"{newest.metric} of {newest.study}: {said}.", figure)
