"""All figures of a report, in the order of the page. A new one is a function here, and a file beside the others."""

from collections.abc import Callable
from dataclasses import dataclass

from fttune.report.figures import confirmed, cost, curves, depth, heat_map, importance, momentum, pareto
from fttune.report.figures.picture import Omitted, Picture, as_svg, look
from fttune.report.findings import Findings

FIGURES: tuple[Callable[[Findings], Picture | Omitted], ...] = (
    depth.draw,
    heat_map.draw,
    momentum.draw,
    importance.draw,
    curves.draw,
    lambda findings: (pareto if findings.aims else cost).draw(findings),
    confirmed.intervals,
    confirmed.confusion,
)


@dataclass(frozen=True)
class Drawn:
    """A figure as an SVG element, with its words."""

    name: str
    title: str
    caption: str
    alt: str
    svg: str


def gallery(findings: Findings) -> tuple[list[Drawn], list[Omitted]]:
    """Return the figures that make sense for a study, and those that do not, with the reason."""
    drawn, omitted = [], []
    with look():
        for figure in FIGURES:
            made = figure(findings)
            if isinstance(made, Omitted):
                omitted.append(made)
            else:
                drawn.append(Drawn(made.name, made.title, made.caption, made.alt, as_svg(made)))
    return drawn, omitted
