"""Samples that a source has found and nobody has read yet, and how names are ordered and shown."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from fttune.errors import one_line

SPLITS = ("train", "val", "test")
ImageSource = Path | Callable[[], Image.Image]


@dataclass(frozen=True)
class Sample:
    """One labelled image: a file, or a function that returns it. `name` is unique within its listing.

    `split` is `train`, `val` or `test` where the source decides it; samples of one `group` share a split. `content` is
    its content hash once that is known (`contents.with_contents`).
    """

    name: str
    label: str
    image: ImageSource
    split: str | None = None
    group: str | None = None
    content: str | None = None


@dataclass(frozen=True)
class Listing:
    """All samples of a source, in any order, and what the user should be told about it."""

    samples: tuple[Sample, ...]
    notices: tuple[str, ...] = ()


def natural(text: str) -> tuple[list[str | int], str]:
    """Return a sort key that puts `class2` before `class10`."""
    parts = re.split(r"([0-9]+)", text)
    return [int(part) if index % 2 else part for index, part in enumerate(parts)], text


def lines(items: Iterable[str], limit: int = 20) -> str:
    """Return the first `limit` items on a line each, and how many more there are."""
    return _cut(items, limit, "\n  ")


def some(items: Iterable[str], limit: int = 3) -> str:
    """Return the first `limit` items in one line, and how many more there are."""
    return _cut(items, limit, ", ").removeprefix(", ")


def _cut(items: Iterable[str], limit: int, before: str) -> str:
    listed = list(items)
    shown = [one_line(item) for item in listed[:limit]]
    shown += [f"and {len(listed) - limit} more"] if len(listed) > limit else []
    return "".join(before + item for item in shown)
