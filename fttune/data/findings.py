"""What can be wrong with images, as rows: a rule, its weight, and the way out. Finds nothing itself."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from fttune.errors import DataError, one_line

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


@dataclass(frozen=True)
class Rule:
    """How bad it is to break a rule, and what to do about it."""

    severity: Severity
    remedy: str


@dataclass(frozen=True)
class Finding:
    """One broken rule: an error fails a training or spoils it silently, a warning may, a note is for knowledge.

    `file` is printable and relative to the folder or table, empty where it is about all of them.
    """

    severity: Severity
    rule: str
    file: str
    what: str
    remedy: str


RULES: Mapping[str, Rule] = {
    "layout": Rule("error", "correct what is named, then check again"),
    "row": Rule("error", "correct or remove the row"),
    "classes": Rule("error", "correct data.classes"),
    "single-class": Rule("error", "add images of another class, or name more in data.classes"),
    "tiny-class": Rule("error", "add images, or set the share in data.split to 0"),
    "classes-differ": Rule("error", "give every split the same classes, or set data.classes"),
    "empty-class": Rule("error", "fill or remove the folder"),
    "name": Rule("error", "rename it"),
    "link-loop": Rule("error", "remove the link"),
    "empty": Rule("error", "replace or remove the file"),
    "broken": Rule("error", "replace or remove the file, or set data.on_bad_image: skip"),
    "no-image": Rule("error", "remove it, or save it as an image"),
    "oversized": Rule("error", "make it smaller"),
    "one-pixel": Rule("error", "remove it: there is nothing to learn from it"),
    "copies-across-splits": Rule("error", "keep it in one split"),
    "copies-across-classes": Rule("error", "at least one label is wrong: keep the right one"),
    "near-copies-across-splits": Rule("warning", "look at them, and keep them in one split, by groups for instance"),
    "near-copies-across-classes": Rule("warning", "look at them: a label may be wrong"),
    "copies": Rule("warning", "keep one: it counts as often as it is there"),
    "misnamed": Rule("warning", "name it for what it is: other programs go by the extension"),
    "tiny": Rule("warning", "look at it: little is left to learn from"),
    "cmyk": Rule("warning", "save it in RGB with its colour profile applied: fttune converts without one"),
    "transparent": Rule("warning", "save it on a background: what lies below transparent pixels shows"),
    "several-pictures": Rule("warning", "save each as a file: only the first one is used"),
    "special-file": Rule("warning", "remove it: it is never opened"),
    "link-outside": Rule("warning", "copy the images here: what they show may change without the folder"),
    "link-not-followed": Rule("warning", "move the folder here: links to folders below a class are not followed"),
    "formula": Rule("warning", "rename the class: spreadsheets run it when they open a table of predictions"),
    "near-copies": Rule("note", "look at them: one may train and another validate under another split.seed"),
    "16-bit": Rule("note", "nothing: values are scaled to 8 bits, not clipped"),
    "palette": Rule("note", "nothing: it is turned into RGB"),
    "rotated": Rule("note", "nothing: it is turned upright by its EXIF orientation"),
    "hidden": Rule("note", "nothing: what begins with a dot, and __MACOSX, is not read"),
    "passed-over": Rule("note", "nothing: it is no image in a class folder"),
}


def finding(rule: str, what: str, *, file: str = "", severity: Severity | None = None, remedy: str = "") -> Finding:
    """Return a broken rule with its own severity and remedy, unless others are given."""
    known = RULES[rule]
    shown = one_line(file)
    return Finding(severity or known.severity, rule, shown, one_line(what), remedy or known.remedy)


def finding_of(rule: str, error: DataError) -> Finding:
    """Return what the loader refuses; its message ends with its own remedy."""
    what, _, remedy = str(error).rpartition("; ")
    return finding(rule, what, remedy=remedy) if what else finding(rule, remedy)
