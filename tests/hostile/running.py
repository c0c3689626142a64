"""One hostile case: how the place is spoilt, which command meets it, and what it must say. Run in a forked process."""

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests import processes
from tests.processes import CONTEXT, Command

TIMEOUT_SECONDS = 60
MAY_CHANGE = ("cache", "locks")  # of mlruns/: what can be made again, and files that say nothing
STEERING = [chr(code) for code in (*range(9), *range(11, 32), *range(127, 160))] + ["\u2028", "\u202e", "\udcff"]


@dataclass(frozen=True)
class Case:
    """`make` spoils a folder that has been prepared; `command` runs in it; `says` are parts of the message, in order.

    `on` is where the message stands. `harmless` names a file that code in the input would have made.
    """

    name: str
    make: Callable[[Path], object]
    command: tuple[str, ...]
    says: tuple[str, ...]
    code: int = 2
    on: str = "stderr"
    environment: Mapping[str, str] = field(default_factory=dict)
    harmless: str = "executed"


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it said, as bytes of UTF-8 at least."""

    code: int
    out: str
    err: str


def run(case: Case, folder: Path) -> Ended:
    """Run a case's command in a folder to its end; it must come in time."""
    out, err = folder.parent / "out", folder.parent / "err"
    for file in (out, err):
        file.touch()
    process = CONTEXT.Process(
        target=_main, args=(case.command, dict(case.environment), str(folder), str(out), str(err))
    )
    process.start()
    code = Command(process, out, err).wait(TIMEOUT_SECONDS)
    return Ended(code, out.read_bytes().decode(), err.read_bytes().decode())


def _main(arguments: tuple[str, ...], environment: Mapping[str, str], cwd: str, out: str, err: str) -> None:
    for name in ("MLFLOW_TRACKING_URI", "FTTUNE_MLRUNS", "FTTUNE_CACHE_GB"):
        os.environ.pop(name, None)
    processes._main(arguments, environment, cwd, out, err, None)


def contents(folder: Path) -> dict[str, str]:
    """Return what lies below a generated folder: sha256 by path, of all that no command may change on bad input."""
    found = {}
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder)
        if name.parts[0] not in MAY_CHANGE and file.is_file():
            found[name.as_posix()] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found


def steering(text: str) -> list[str]:
    """Return the characters of a text that could steer a terminal."""
    return sorted({character for character in text if character in STEERING})
