"""A study's part of a night in a process of its own: it gets its hours and then an order to stop, as people give it."""

import ctypes
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date

from fttune.config import Study
from fttune.errors import Interrupted
from fttune.interruption import cause_of_death

START = "from fttune.cli import main; main()"
GRACE_SECONDS = 600.0  # for a study whose hours are over to end in order, between two steps
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class ProcessRunner:
    """Runs `fttune nightly ... --study NAME --night DATE`, with the words that name folder and options."""

    arguments: Sequence[str]

    def run(self, study: Study, night: date, hours: float) -> str | None:
        """Run a part; return how its process ended where that was in no order. Raises Interrupted when told to stop."""
        words = [*self.arguments, "--study", study.name, "--night", night.isoformat()]
        # A session of its own: what a terminal sends to all is passed on here, once.
        process = subprocess.Popen(
            [sys.executable, "-c", START, "nightly", *words], start_new_session=True, preexec_fn=_end_with_parent
        )
        try:
            code = self._wait(process, hours * 3600)
        except (Interrupted, KeyboardInterrupt):
            self._stop(process)
            raise
        return None if code in (0, 128 + signal.SIGTERM) else cause_of_death(code) or f"ended by signal {-code}"

    def _wait(self, process: "subprocess.Popen[bytes]", seconds: float) -> int:
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            return self._stop(process)

    def _stop(self, process: "subprocess.Popen[bytes]") -> int:
        process.terminate()
        try:
            return process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()


def _end_with_parent() -> None:
    """Have Linux order this process to stop when its parent dies: a night that is run again finds no study at work."""
    if sys.platform == "linux":
        with suppress(OSError):
            ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
