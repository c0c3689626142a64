"""A report as one HTML page that needs nothing but itself, as Markdown, and as CSV."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from fttune.report.answer import Answer, answer_of
from fttune.report.figures.gallery import Drawn, gallery
from fttune.report.figures.picture import Omitted
from fttune.report.findings import Findings
from fttune.report.sheets import Sheet, sheets_of
from fttune.report.table import summary, table
from fttune.report.wording import times

GENERATOR = '<meta name="generator" content="fttune report">'  # by which a page is known to be one of these


@dataclass(frozen=True)
class Report:
    """What stands on the page."""

    findings: Findings
    answer: Answer
    figures: Sequence[Drawn]
    omitted: Sequence[Omitted]
    sheets: Sequence[Sheet]

    @property
    def state(self) -> str:
        """How far the study is, in a few words."""
        words = {
            "empty": "not begun",
            "failed": "without a complete trial",
            "single": "one complete trial",
            "searching": "in progress",
            "searched": "searched, not confirmed",
            "confirmed": "confirmed",
        }
        return words[self.answer.state]

    @property
    def trials(self) -> str:
        """How many trials there are in each state."""
        return summary(self.findings.rows) or "no trial"


def report_of(findings: Findings) -> Report:
    """Draw the figures, and work out the answer and the tables."""
    answer = answer_of(findings)
    figures, omitted = gallery(findings)
    return Report(findings, answer, figures, omitted, sheets_of(findings, answer))


def as_html(report: Report) -> str:
    """Return the page: HTML with style and figures inside, and a policy that forbids it to load anything."""
    return render("page.html.j2", report=report, findings=report.findings, answer=report.answer)


def as_markdown(report: Report) -> str:
    """Return the same in Markdown; the figures are links to `figures/<name>.svg`."""
    return render("page.md.j2", report=report, findings=report.findings, answer=report.answer)


def as_csv(report: Report) -> str:
    """Return one line per trial, with the values of the space as columns."""
    rows = sorted(report.findings.rows, key=lambda row: row.number)
    frame = table(rows)
    if rows:
        frame["cause"] = [row.cause for row in rows]
    text: str = frame.to_csv(index=False)
    return text


def render(template: str, **shown: Any) -> str:
    """Return a page of what is shown, from a template of this room; in HTML, text is escaped."""
    environment = Environment(
        loader=PackageLoader("fttune.report", "templates"),
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"code": _code, "cell": _cell, "data_uri": _data_uri, "unescaped": Markup, "times": times}
    return environment.get_template(template).render(generator=Markup(GENERATOR), **shown)


def _code(text: str) -> Markup:
    """Return a sentence as HTML, its `commands` as code."""
    parts = str(escape(text)).split("`")
    return Markup("".join(f"<code>{part}</code>" if index % 2 else part for index, part in enumerate(parts)))


def _cell(text: str) -> str:
    """Return text that cannot end a cell of a Markdown table."""
    return text.replace("|", "\\|").replace("\n", " ")


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
