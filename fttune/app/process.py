"""A worker as a process of this machine: how it is started, stopped and ended. Light: knows nothing of what it does."""

import os
import subprocess
import sys
from collections.abc import Mapping
from multiprocessing import Pipe

from fttune.interruption import cause_of_death

DYING_SECONDS = 10.0
MAIN = "from fttune.app.worker import main; main()"  # with -m its classes would be those of another module


class Process:
    """A worker that takes its job from the connection first; a session of its own keeps a terminal's signals from it.

    It ends at once when this process does.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.connection, theirs = Pipe()
        alive, mine = os.pipe()
        self._mine: int | None = mine
        passed = (theirs.fileno(), alive)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", MAIN, *map(str, passed)],
            pass_fds=passed,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=2,  # as stderr: this process's stdout is for the result
            start_new_session=True,
        )
        theirs.close()
        os.close(alive)

    def stop(self) -> None:
        """Order it to finish the step under way, to write where it stands, and to end."""
        self._process.terminate()

    def kill(self) -> None:
        """End it at once where it still lives."""
        self._process.kill()
        self._process.wait()
        self.connection.close()
        if self._mine is not None:
            os.close(self._mine)
            self._mine = None

    def cause(self) -> str:
        """Return what it died of, once its connection has ended."""
        try:
            code = self._process.wait(DYING_SECONDS)
        except subprocess.TimeoutExpired:
            return "let go of its connection amid its work"
        return cause_of_death(code) or "ended amid its work"
