"""Figures are small SVGs with text in them, which refer to nothing but themselves."""

import re
import xml.etree.ElementTree as ElementTree

import pytest
from matplotlib.axis import Axis

from fttune.report.figures.gallery import FIGURES, gallery
from fttune.report.figures.picture import SVG, XLINK, canvas, look
from fttune.report.figures.ticks import log_ticks
from tests.report import examples
from tests.report.examples import complete, study, trial

DRAWN, _ = gallery(examples.confirmed())


@pytest.mark.parametrize("figure", DRAWN, ids=lambda figure: figure.name)
def test_a_figure_says_what_it_shows_and_names_nothing_outside(figure) -> None:
    root = ElementTree.fromstring(figure.svg)
    assert root.get("role") == "img"
    labels = (root.get("aria-labelledby") or "").split()
    texts = {element.get("id"): element.text for element in root}
    assert [texts[label] for label in labels] == [figure.title, figure.alt]
    used = re.findall(r"url\(#([^)]+)\)", figure.svg)
    used += [a[1:] for e in root.iter() if (a := e.get(f"{{{XLINK}}}href", "")).startswith("#")]
    assert set(used) == {e.get("id") for e in root.iter() if e.get("id")} - set(labels)
    assert all(name.startswith(f"{figure.name}-") for name in used)
    outside = [e.get(f"{{{XLINK}}}href", "#")[:5] for e in root.iter()]
    assert set(outside) <= {"#", "data:"} | {f"#{figure.name}"[:5]}
    assert len(list(root.iter(f"{{{SVG}}}text"))) > 3, "text stays text"
    assert len(figure.svg) < 100_000


def test_the_same_study_gives_the_same_figures() -> None:
    assert gallery(examples.confirmed())[0] == DRAWN


def test_two_thousand_trials_are_drawn_as_pixels() -> None:
    drawn, _ = gallery(study(complete(2000)))
    assert sum(len(figure.svg) for figure in drawn) < 1_000_000
    assert all(figure.svg.count("<use") < 500 for figure in drawn)


def test_what_makes_no_sense_for_a_space_is_left_out_with_the_reason() -> None:
    rows = [trial(n, depth=0, lr=0.01, momentum=0.9) for n in range(12)]
    _, omitted = gallery(study(rows, importances=(), curves=()))
    reasons = {one.title: one.reason for one in omitted}
    assert reasons["Best value by depth"] == "it is 0 in every trial, so there is nothing to compare"
    assert reasons["Learning rate against momentum"] == "momentum is 0.9 in every trial"
    assert reasons["Learning rate against depth"] == "the trials do not differ in depth"
    assert reasons["Learning curves"] == "MLflow holds no epoch of any trial yet"
    assert reasons["Confusion matrix of the test split"] == "the study is not confirmed"
    nothing = gallery(study([], curves=(), importances=()))
    assert nothing[0] == []
    assert len(nothing[1]) == len(FIGURES)


def axis_of(low: float, high: float) -> Axis:
    with look():
        _, axes = canvas()
        axes.set(xscale="log", xlim=(low, high))
        log_ticks(axes.xaxis, low, high)
        return axes.xaxis


@pytest.mark.parametrize(
    ("ends", "labels"),
    [
        ((1e-5, 1e-1), ["1e-5", "1e-4", "0.001", "0.01", "0.1"]),
        ((0.03, 0.6), ["0.05", "0.1", "0.2", "0.5"]),
        ((900, 30_000), ["1000", "2000", "5000", "1e4", "2e4"]),
        ((1e-8, 1e8), ["1e-8", "1e-4", "1", "1e4", "1e8"]),
    ],
)
def test_log_axes_have_a_few_round_ticks(ends: tuple[float, float], labels: list[str]) -> None:
    assert [label.get_text() for label in axis_of(*ends).get_ticklabels()] == labels
