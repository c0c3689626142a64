"""A figure with its words, and how it becomes an SVG that can stand in a page: one look for all of them.

Text stays text. Nothing in the SVG points outside it, its ids are its own, and it says what it shows to those who
cannot see it.
"""

import io
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
WIDTH, HEIGHT = 5.0, 3.3  # inches; small, so that text stays readable on a phone
MANY = 400  # marks; above, they are drawn as pixels
# Okabe and Ito's colours (2008), which those who see fewer colours can tell apart.
BLUE, ORANGE, GREEN, RED, GREY, BLACK = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#767676", "#222222"
LOOK: Any = {  # matplotlib types each key by its name
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial", "sans-serif"],
    "font.size": 8.5,
    "axes.titlesize": 8.5,
    "axes.labelcolor": BLACK,
    "axes.edgecolor": GREY,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "xtick.color": BLACK,
    "ytick.color": BLACK,
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "legend.handletextpad": 0.3,
    "legend.columnspacing": 1.0,
}


@dataclass(frozen=True)
class Picture:
    """A drawn figure: `name` is that of its file, `caption` says how to read it, `alt` what it shows."""

    name: str
    title: str
    caption: str
    alt: str
    figure: Figure


@dataclass(frozen=True)
class Omitted:
    """A figure that makes no sense for a study, and why."""

    title: str
    reason: str


@contextmanager
def look() -> Iterator[None]:
    """Draw and write figures in the one look. It is the whole process's while it lasts."""
    with mpl.rc_context(LOOK):
        yield


def canvas(*, height: float = HEIGHT, columns: int = 1, **options: Any) -> tuple[Figure, Any]:
    """Return a figure and its axes, an array of them where there are several columns."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots(1, columns, **options)


def legend(axes: Axes, *, columns: int = 3) -> None:
    """Put the legend above the axes, where it hides no trial; none for a single kind of mark."""
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) > 1:
        axes.legend(handles, labels, loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, borderaxespad=0.2)


def as_svg(picture: Picture) -> str:
    """Return a figure as an SVG element; call it within `look`."""
    with mpl.rc_context({"svg.hashsalt": picture.name}):
        buffer = io.StringIO()
        picture.figure.savefig(buffer, format="svg", dpi=144, metadata={"Date": None, "Creator": None})
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
    root = ElementTree.fromstring(buffer.getvalue())
    for metadata in root.findall(f"{{{SVG}}}metadata"):
        root.remove(metadata)
    _own_ids(root, picture.name)
    for name in ("width", "height"):
        root.attrib.pop(name, None)  # the page says how wide, the viewBox how high
    root.set("role", "img")
    root.set("aria-labelledby", f"{picture.name}-title {picture.name}-alt")
    for position, (tag, text) in enumerate((("title", picture.title), ("desc", picture.alt))):
        element = ElementTree.Element(f"{{{SVG}}}{tag}", {"id": f"{picture.name}-{'alt' if position else 'title'}"})
        element.text = text
        root.insert(position, element)
    return ElementTree.tostring(root, encoding="unicode")


def _own_ids(root: ElementTree.Element, prefix: str) -> None:
    """Drop the ids that nothing refers to, and put a figure's name before the others: a page holds many figures."""
    text = ElementTree.tostring(root, encoding="unicode")
    used = set(re.findall(r"url\(#([^)]+)\)", text)) | set(re.findall(r'href="#([^"]+)"', text))
    for element in root.iter():
        own = element.attrib.pop("id", None)
        if own in used:
            element.set("id", f"{prefix}-{own}")
        for name, value in element.attrib.items():
            if name == f"{{{XLINK}}}href" and value.startswith("#"):
                element.set(name, f"#{prefix}-{value[1:]}")
            elif "url(#" in value:
                element.set(name, value.replace("url(#", f"url(#{prefix}-"))
