"""The page, its Markdown and its CSV."""

import csv
import io
import re
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from itertools import groupby

import pytest

from fttune.report.answer import answer_of
from fttune.report.page import as_csv, as_html, as_markdown, report_of
from fttune.report.sheets import sheets_of
from tests.report import examples
from tests.report.examples import complete, study, trial

STUDIES = {
    "confirmed": examples.confirmed(opened=2),
    "untested": examples.confirmed(opened=0),
    "one seed": examples.confirmed(seeds=1),
    "searched": study(),
    "one trial": study(complete(1)),
    "only failures": study([trial(n, "failed", cause="a | b") for n in range(3)], curves=()),
    "several objectives": examples.several_objectives(),
    "nothing": study([], curves=(), importances=()),
}
made = cache(lambda name: report_of(STUDIES[name]))
VOID = {"meta", "link", "img", "br"}


class Tags(HTMLParser):
    """Checks that tags are closed in order, and collects ids, addresses and images."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self._note(tag, dict(attrs))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._note(tag, dict(attrs))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def _note(self, tag: str, attrs: dict[str, str | None]) -> None:
        self.ids += [value for name, value in attrs.items() if name == "id" and value]
        self.addresses += [v for name, v in attrs.items() if name in ("src", "href", "xlink:href") and v]
        if tag == "img":
            self.images.append(attrs)


@pytest.mark.parametrize("name", STUDIES)
def test_a_page_is_well_formed_and_holds_all_it_needs(name: str) -> None:
    html = as_html(made(name))
    tags = Tags(html)
    assert len(tags.ids) == len(set(tags.ids))
    assert all(address.startswith(("data:", "#")) for address in tags.addresses)
    assert all(address[1:] in tags.ids for address in tags.addresses if address.startswith("#"))
    assert all(f"url(#{used})" for used in re.findall(r"url\(#([^)]+)\)", html) if used in tags.ids)
    assert all(image["alt"] for image in tags.images)
    assert "<script" not in html
    assert "default-src 'none'" in html


@pytest.mark.parametrize("name", STUDIES)
def test_a_figure_is_drawn_or_left_out_with_a_reason(name: str) -> None:
    report = made(name)
    assert len(report.figures) + len(report.omitted) == 8
    html, markdown = as_html(report), as_markdown(report)
    for figure in report.figures:
        assert f'id="{figure.name}"' in html
        assert f"](figures/{figure.name}.svg)" in markdown
        assert figure.alt in markdown
    for one in report.omitted:
        assert f"- {one.title}: {one.reason}." in markdown
    if name == "confirmed":
        assert report.omitted == []


def test_names_and_causes_are_escaped() -> None:
    cause = "<script>alert('x')</script> & `more`"
    html = as_html(report_of(study([trial(0, "failed", cause=cause)], curves=(), study="<b>")))
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert "<b>" not in html


def test_the_page_shows_a_confirmation_and_how_often_the_test_split_was_opened() -> None:
    html = as_html(made("confirmed"))
    assert "opened twice: 2026-01-01 10:00:00+00:00, 2026-01-02 10:00:00+00:00" in html
    assert "Confirmation over 3 fresh seeds" in html
    assert html.count('<img src="data:image/png;base64,') == 3
    assert "under 2 of 3 seeds" in html


def test_every_trial_is_a_line_of_the_csv_by_number() -> None:
    lines = list(csv.DictReader(io.StringIO(as_csv(made("searched")))))
    assert [int(line["number"]) for line in lines] == list(range(35))
    assert lines[32]["cause"] == "out of memory"
    assert lines[34]["reused_from"] == "0"
    assert as_csv(made("nothing")).strip() in ("", '""')


def test_tables_of_markdown_have_as_many_cells_in_each_line() -> None:
    for name in ("confirmed", "only failures"):
        lines = as_markdown(made(name)).splitlines()
        tables = [list(group) for is_row, group in groupby(lines, lambda line: line.startswith("|")) if is_row]
        assert len(tables) >= 1
        for table in tables:
            assert len(table) > 2
            assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1, table


def test_a_long_table_says_where_the_rest_is() -> None:
    found = study(complete(300))
    (sheet,) = [s for s in sheets_of(found, answer_of(found)) if "trials" in s.title]
    assert sheet.title == "Best 20 of 300 trials"
    assert len(sheet.rows) == 20
    assert "trials.csv" in sheet.note


def test_a_parameter_that_does_not_act_everywhere_is_a_dash() -> None:
    rows = [replace(row, params={"optimizer.lr": 0.1} if row.number else row.params) for row in complete(3)]
    found = study(rows)
    (sheet,) = [s for s in sheets_of(found, answer_of(found)) if s.title == "Trials"]
    assert sum("-" in row for row in sheet.rows) == 2


def test_a_study_of_several_objectives_shows_its_front_in_place_of_cost_and_quality() -> None:
    report = made("several objectives")
    names = {figure.name for figure in report.figures}
    assert "pareto-front" in names and "cost" not in names
    assert {figure.name for figure in made("searched").figures} >= {"cost"} and not made("searched").answer.front
    sheet = next(sheet for sheet in report.sheets if sheet.title == "Pareto front")
    assert sheet.columns[-2:] == ("val/accuracy", "trial/seconds")
    assert sorted(int(row[0]) for row in sheet.rows) == sorted(report.findings.front) == [0, 3, 5]
    assert "3 trials are on the Pareto front of val/accuracy and trial/seconds" in report.answer.text
