"""Pages as people see them: opened in headless Chromium."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fttune.report.night_page import as_html as night_page
from fttune.report.page import as_html, report_of
from tests.chromium import Page, browser, chromium
from tests.nightly.pages import nights
from tests.report import examples

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(chromium() is None, reason="no Chromium is installed (Debian: apt-get install chromium)"),
]
STUDIES = {
    "confirmed": examples.confirmed(opened=2),
    "searched": examples.study(),
    "in-progress": examples.study(is_finished=False, total_trials=100),
    "one-trial": examples.study(examples.complete(1)),
    "only-failures": examples.study([examples.trial(n, "failed", cause="no space " * 30) for n in range(5)], curves=()),
    "nothing": examples.study([], curves=()),
    "long": examples.study(examples.complete(2000)),
}
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
SIZES = """[...document.querySelectorAll('figure svg, .worst img')]
    .map(e => e.getBoundingClientRect()).map(box => [box.width, box.height])"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


@pytest.mark.parametrize("name", STUDIES)
def test_a_page_shows_every_figure_fits_its_window_and_asks_for_nothing(page: Page, name: str, tmp_path: Path) -> None:
    made = report_of(STUDIES[name])
    file = tmp_path / "index.html"
    file.write_text(as_html(made), encoding="utf-8")
    for width in (1280, 400):
        page.open(file.as_uri(), width=width)
        assert page.complaints == []
        assert [url for url in page.requests if not url.startswith("data:")] == [file.as_uri()]
        assert page.value(OVERFLOW) <= 0, f"wider than {width} pixels"
        sizes = page.value(SIZES)
        worst = len(made.findings.tested.worst) if made.findings.tested else 0
        assert len(sizes) == len(made.figures) + worst
        assert all(across > 50 and down > 50 for across, down in sizes)
    assert made.answer.text.replace("`", "") in page.value("document.querySelector('.answer').innerText")


@pytest.mark.parametrize("count", [1, 2, 40])
def test_a_nights_page_fits_its_window_and_asks_for_nothing(page: Page, count: int, tmp_path: Path) -> None:
    *history, night = nights(count)
    file = tmp_path / "summary.html"
    file.write_text(night_page(night, history), encoding="utf-8")
    for width in (1280, 400):
        page.open(file.as_uri(), width=width)
        assert page.complaints == []
        assert [url for url in page.requests if not url.startswith("data:")] == [file.as_uri()]
        assert page.value(OVERFLOW) <= 0, f"wider than {width} pixels"
        sizes = page.value(SIZES)
        assert len(sizes) == (2 if count > 1 else 0), "a figure of each study with a value on two nights"
        assert all(across > 50 and down > 50 for across, down in sizes)
    assert "1 failed, 1 raised an alarm" in page.value("document.querySelector('.answer').innerText")


def test_a_page_that_tries_to_load_something_is_caught(page: Page, tmp_path: Path) -> None:
    """The checks above see what they look for."""
    html = as_html(report_of(STUDIES["nothing"]))
    file = tmp_path / "index.html"
    leak = '<img src="http://127.0.0.1:9/x.png"><div style="width: 3000px">wide</div></main>'
    file.write_text(html.replace("</main>", leak), encoding="utf-8")
    page.open(file.as_uri())
    assert any("Content Security Policy" in text for text in page.complaints)
    assert page.value(OVERFLOW) > 0
    policy = html.index("<meta http-equiv"), html.index("<meta name=")
    file.write_text((html[: policy[0]] + html[policy[1] :]).replace("</main>", leak), encoding="utf-8")
    page.open(file.as_uri())
    assert "http://127.0.0.1:9/x.png" in page.requests
