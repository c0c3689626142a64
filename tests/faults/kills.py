"""Kill a running study again and again, at random moments and at chosen ones, and say in which phase each kill fell.

A kill ends the whole command, parent and child, with SIGKILL. When to kill, and what a kill met, is seen from outside:
by files that appear, by rows of Optuna's store, and by what the command said last.
"""

import os
import random
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from tests import processes
from tests.faults import oracle
from tests.recipes import write_experiment, write_study

PHASES = ("opening", "asking", "training", "saving", "telling", "closing")
AIMS = ("asking", "saving", "training", "telling", "opening", "random", "saving")
STRETCHED = {"saving": "os.fsync", "asking": "optuna.study.Study.ask", "telling": "optuna.study.Study.tell"}
POLL_SECONDS = 0.001
LAST_LINE = re.compile(r"^trial-(\d+): (\w+)", re.MULTILINE)
ENDED = re.compile(r"^trial-\d+: (complete|pruned)", re.MULTILINE)

DEPTHS = {"type": "int", "low": 0, "high": 2}
LR = {"type": "float", "low": 1.0e-3, "high": 0.1, "log": True}
STUDIES: dict[str, dict[str, Any]] = {
    "heads": {
        "experiment": {"freeze__unfrozen_stages": 0, "training__epochs": 3},
        "study": {"batch": 4, "space": {"optimizer.lr": LR}, "pruner": {"type": "none"}},
    },
    "stages": {
        "experiment": {"training__epochs": 4},
        "study": {
            "batch": 3,
            "space": {"optimizer.lr": LR, "freeze.unfrozen_stages": DEPTHS},
            "pruner": {"type": "median", "startup_trials": 2},
        },
    },
    "rungs": {
        "experiment": {"training__epochs": 4},
        "study": {
            "batch": 4,
            "metric": "val/loss",
            "direction": "minimize",
            "space": {"optimizer.lr": LR, "freeze.unfrozen_stages": DEPTHS},
            "sampler": {"type": "tpe", "seed": 0},
            "pruner": {"type": "successive_halving", "min_epochs": 1, "reduction_factor": 2},
        },
    },
}
TRIALS = 8
DEADLINE_SECONDS = 120


@dataclass(frozen=True)
class Kill:
    """One kill: what it aimed at, and the phase that it met."""

    aim: str
    phase: str


@dataclass(frozen=True)
class Place:
    """A folder with one of `STUDIES`, and what can be seen of it from outside."""

    folder: Path
    name: str

    @classmethod
    def new(cls, folder: Path, name: str, *, stores: Path) -> "Place":
        """Write the study with empty stores into a new folder."""
        write_experiment(folder, **STUDIES[name]["experiment"])
        write_study(folder, budget__n_trials=TRIALS, **STUDIES[name]["study"])
        shutil.copytree(stores, folder / "mlruns")
        return cls(folder, name)

    @property
    def mlruns(self) -> Path:
        """The generated folder."""
        return self.folder / "mlruns"

    @property
    def owner(self) -> str:
        """Who held the study's lock last: each process writes its id there before it opens the stores."""
        file = self.mlruns / "locks" / "study-tiny.owner"
        return file.read_text() if file.exists() else ""

    def temporary(self) -> set[Path]:
        """Return the files of checkpoints that are being written, or were when their process died."""
        runs = os.walk(self.mlruns / "cache" / "runs")  # which passes over a folder that goes meanwhile
        return {Path(folder, name) for folder, _, names in runs for name in names if ".tmp" in name}

    def told(self) -> int:
        """Return how many trials have ended."""
        found = oracle.states(self.mlruns)
        return sum(found[state] for state in oracle.FINISHED)

    def asked(self) -> int:
        """Return how many trials there are."""
        return sum(oracle.states(self.mlruns).values())

    def start(self, aim: str | None = None) -> processes.Command:
        """Start the search; what is aimed at takes longer, or a busy machine would miss it."""
        return processes.start("search", "studies/tiny.yaml", cwd=self.folder, slow=STRETCHED.get(aim or ""))


def uninterrupted(place: Place) -> tuple[oracle.Stored, float]:
    """Run the study to its end; return what it leaves, and how many seconds it took."""
    started = time.monotonic()
    command = place.start()
    code = command.wait()
    assert code == 0, command.err.read_text()
    return oracle.read(place.mlruns), time.monotonic() - started


@dataclass
class Killed:
    """A study that is killed and begins again until it ends; `seconds` is how long it takes undisturbed."""

    place: Place
    seed: int
    seconds: float
    kills: list[Kill] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def run(self, kills: int, *, expected: oracle.Stored) -> None:
        """Kill the study at most so often, then let it end, and compare what it leaves with what was expected."""
        draw = random.Random(self.seed)
        for aim in [*islice(cycle(AIMS), self.seed % len(AIMS), self.seed % len(AIMS) + kills - 1), "closing"]:
            if (phase := self._attempt(aim, draw)) is None:
                break
            self.kills.append(Kill(aim, phase))
            self.problems += oracle.damaged_checkpoints(self.place.mlruns)
        else:
            self._attempt(None, draw)
        stored = oracle.read(self.place.mlruns)
        self.problems += oracle.problems(stored, trials=TRIALS)
        self.problems += oracle.differences(stored, expected)

    def _attempt(self, aim: str | None, draw: random.Random) -> str | None:
        """Run the command once and kill it at a moment of the kind `aim`.

        Return the phase that it was in, None when it ended before.
        """
        owner, leftovers = self.place.owner, self.place.temporary()
        command = self.place.start(aim)
        comes = _moment(aim, self.place, command, self.seconds, draw) if aim else lambda: False
        deadline = time.monotonic() + DEADLINE_SECONDS
        while command.process.is_alive() and not comes():
            if time.monotonic() > deadline:
                command.kill()
                self.problems.append(f"did not end in time: {command.err.read_text()[-2000:]}")
                return None
            time.sleep(POLL_SECONDS)
        if not command.process.is_alive():
            if (code := command.wait()) != 0:
                self.problems.append(f"exit {code}: {command.err.read_text()[-2000:]}")
            return None
        command.kill()
        if self.place.owner == owner:
            return "opening"
        return "saving" if self.place.temporary() - leftovers else phase_of(self.place, command.err.read_text())


def _moment(
    aim: str, place: Place, command: processes.Command, seconds: float, draw: random.Random
) -> Callable[[], bool]:
    """Return what says whether the moment to kill has come; at the latest it is a random one."""
    share, skipped, begun = draw.random(), draw.randrange(4), time.monotonic()
    leftovers, asked = place.temporary(), place.asked()
    comes = {
        "random": lambda: False,
        "training": _Since(lambda: ": trainable" in command.err.read_text(), delay=share * 0.2),
        "opening": lambda: time.monotonic() >= begun + share * 0.7,
        "asking": _Since(lambda: place.asked() > asked, delay=share * 0.05),
        "saving": _Since(lambda: bool(place.temporary() - leftovers), delay=share * 0.1),
        "telling": _Since(lambda: len(ENDED.findall(command.err.read_text())) > skipped, delay=share * 0.05),
        "closing": _Since(lambda: place.told() == TRIALS, delay=share * 1.5),
    }[aim]
    left = 1 + seconds * (1 - place.told() / TRIALS)
    latest = begun + left * (share if aim == "random" else 0.7)
    return comes if aim == "closing" else lambda: comes() or time.monotonic() >= latest


@dataclass
class _Since:
    """Whether something was first seen to hold `delay` seconds ago."""

    holds: Callable[[], bool]
    delay: float
    _first: float | None = None

    def __call__(self) -> bool:
        if self._first is None and self.holds():
            self._first = time.monotonic()
        return self._first is not None and time.monotonic() >= self._first + self.delay


def phase_of(place: Place, said: str) -> str:
    """Return what a killed command was at once it had opened the stores, but for saving, by what it left behind."""
    told, asked = place.told(), place.asked()
    if told == TRIALS:
        return "closing"
    lines = LAST_LINE.findall(said)
    if lines and lines[-1][1] in ("complete", "pruned") and not oracle.is_told(place.mlruns, int(lines[-1][0])):
        return "telling"
    missing = asked < TRIALS and (asked == told or asked % STUDIES[place.name]["study"]["batch"] != 0)
    return "asking" if missing else "training"
