"""Every error that fttune raises on purpose.

FttuneError
├── BadInput                 exit 2: something the user wrote or pointed to
│   ├── ConfigError          a YAML file or an override; carries all its problems at once
│   ├── PolicyRefused        a freeze policy that the backbone's stages, or its own parts, contradict
│   ├── DataError            images, labels, splits
│   ├── WeightsError         a checkpoint or pretrained weights
│   ├── StudyChanged         the study on disk is not the study in the store
│   └── StoreError           a store moved, damaged, or of another version
└── WorkFailed               exit 1: the input was fine, the work was not
    ├── Diverged             a loss or metric became NaN or infinite
    ├── OutOfMemory          a recipe does not fit into the memory of its device, or of the machine
    ├── TooManyFailures      `budget.max_failed` trials in a row failed
    ├── StudyBusy            another process searches this study, or took it over
    ├── CannotWrite          a disk or database fails; what was under way is kept, and the same command goes on
    └── TrackingFailed       MLflow did not take what was logged

Interrupted                  a BaseException, so that no `except Exception` swallows it: exit 128 + signal
"""

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

SHOWN = 100  # problems of one file


def printable(text: str, *, breaks: str = "\n") -> str:
    """Return text with what could steer a terminal or pretend another line as escapes, all of `breaks` kept.

    Those are control characters, line separators, changes of the writing direction, and bytes of names that are not
    UTF-8.
    """
    if text.isprintable():
        return text
    return "".join(c if c in breaks or not _steers(c) else ascii(c)[1:-1] for c in text)


def one_line(text: str) -> str:
    """Return text as `printable` does, line feeds as escapes too: a name of a file may hold some."""
    return printable(text, breaks="")


def is_one_line(text: str) -> bool:
    """Return whether text is one line that every table, store and terminal takes as it is."""
    return one_line(text) == text


def _steers(character: str) -> bool:
    if character.isprintable():
        return False
    return unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") or character in _BIDIRECTIONAL


_BIDIRECTIONAL = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


class FttuneError(Exception):
    """Base of all errors; `str()` is the message for the user, printable, `exit_code` the process's."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str = "") -> None:
        super().__init__(printable(message))


class BadInput(FttuneError):
    """Raised before anything is written: the user's input cannot be used as it stands."""

    exit_code = 2


@dataclass(frozen=True)
class Problem:
    """One broken rule: a dotted field (empty for the whole file), and rule with value."""

    field: str
    message: str


class ConfigError(BadInput):
    """Every problem of one file, printed one per line as `file: field: rule, value`."""

    def __init__(self, file: str, problems: Iterable[Problem]) -> None:
        self.file = file = one_line(file)
        self.problems = tuple(problems)
        lines = [
            f"{file}: {p.field}: {p.message}" if p.field else f"{file}: {p.message}" for p in self.problems[:SHOWN]
        ]
        lines += [f"{file}: and {len(self.problems) - SHOWN} more problems"] if len(self.problems) > SHOWN else []
        super().__init__("\n".join(lines))


class PolicyRefused(BadInput):
    """A freeze policy that the backbone's stages, or its own parts, contradict; `rule` is whole, with its value."""

    def __init__(self, field: str, rule: str) -> None:
        self.field, self.rule = field, rule
        super().__init__(f"{field}: {rule}")


class DataError(BadInput):
    """The images, labels or splits cannot be used; names every offending file or class."""


class WeightsError(BadInput):
    """A checkpoint or pretrained weights cannot be loaded; names keys, file and the way out."""


class StudyChanged(BadInput):
    """The stored study was made from another configuration or other data; shows the difference."""


class StoreError(BadInput):
    """The generated folder, or a store in it, cannot be used as it stands."""


class WorkFailed(FttuneError):
    """The input was accepted, but the work ended without a result."""


class Diverged(WorkFailed):
    """A loss or metric became NaN or infinite."""


class OutOfMemory(WorkFailed):
    """A recipe does not fit into memory, whole or in pieces; says how much was asked, batch size and way out."""


class TooManyFailures(WorkFailed):
    """`budget.max_failed` trials in a row failed; carries the last cause."""


class StudyBusy(WorkFailed):
    """Another process searches this study, or took it over from this one, which was silent for too long."""


class CannotWrite(WorkFailed):
    """A disk or database is full or fails: no fault of the trial under way, which is gone on with as after a signal."""


class TrackingFailed(WorkFailed):
    """MLflow did not take what was logged."""


class Interrupted(BaseException):
    """SIGINT or SIGTERM arrived; the same command continues the work."""

    def __init__(self, signum: int) -> None:
        self.signum, self.exit_code = signum, 128 + signum
        super().__init__(signum)
