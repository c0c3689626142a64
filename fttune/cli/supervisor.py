"""A parent that outlives its work: it waits for a child that does everything, and forks another one when that dies.

A segfault, an `os._exit` in a plugin or the kernel out of memory ends the child. The parent imports nothing heavy, so
it stays; what it remembers dies only with the whole command, after which nothing is held against a trial. Standard
library only. Knows nothing of studies but the numbers of trials.
"""

import json
import mmap
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from fttune.interruption import cause_of_death

# How the parent passes an order on: a terminal sends its own to the child as well, and one order must not count twice.
PASSED_ON = {signal.SIGINT: signal.SIGUSR1, signal.SIGTERM: signal.SIGUSR2}
MAX_DEATHS_OUTSIDE = 10  # of one command, while no trial was at work: something else is broken
BOARD_BYTES = 2**20
OOM_SCORE = "500"  # adds half of the machine's memory to what the kernel takes the child to use


class Board:
    """What a child is at, in memory that it shares with its parent: needs no disk, cannot block, survives the child."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, BOARD_BYTES)

    def clear(self) -> None:
        """Begin with a new child."""
        self._memory[:9] = bytes(9)

    def end(self) -> None:
        """Say that the child ends in order."""
        self._memory[0] = 1

    @property
    def ended(self) -> bool:
        """Whether the child has ended in order."""
        return self._memory[0] == 1

    def write(self, trials: Sequence[int], epochs: int) -> None:
        """Replace what was written. A child that dies meanwhile has written nothing."""
        text = json.dumps([*trials, epochs]).encode()
        if len(text) > BOARD_BYTES - 9:  # a cohort of 100,000: each of its trials is told by the first ones
            text = json.dumps([*trials[:10_000], epochs]).encode()
        self._memory[1:9] = bytes(8)
        self._memory[9 : 9 + len(text)] = text
        self._memory[1:9] = len(text).to_bytes(8, "little")

    def read(self) -> tuple[tuple[int, ...], int] | None:
        """Return what was written last, None when nothing was."""
        length = int.from_bytes(self._memory[1:9], "little")
        if not length:
            return None
        *trials, epochs = json.loads(self._memory[9 : 9 + length])
        return tuple(trials), epochs


@dataclass(frozen=True)
class Watch:
    """What the work is told of the process before it, and where it notes what it is at.

    `cause` says what that process died of, None when there was none; `trials` were at work then, `epochs` into it.
    """

    board: Board
    cause: str | None = None
    trials: tuple[int, ...] = ()
    epochs: int = 0

    def note(self, trials: Sequence[int], epochs: int = 0) -> None:
        """Note which trials are at work from now on, and how many epochs they have ended."""
        self.board.write(trials, epochs)


@contextmanager
def supervised() -> Iterator[Watch]:
    """Run the block in a child process, and again in a new one whenever it dies of anything but an order to stop.

    The parent waits, passes SIGINT and SIGTERM on, and leaves by SystemExit with the child's exit code. When the parent
    dies, the child ends as on SIGTERM. The handlers of SIGINT and SIGTERM must be able to tell `PASSED_ON` apart.
    """
    watch = _Parent().run()
    try:
        yield watch
    finally:
        watch.board.end()


class _Parent:
    def __init__(self) -> None:
        self._board = Board()
        self._child: int | None = None
        self._orders: list[int] = []
        self._handlers = {order: signal.getsignal(order) for order in PASSED_ON}

    def run(self) -> Watch:
        """Return in each child what it is to know. Never returns in the parent: SystemExit when a child has ended."""
        watch, outside = Watch(self._board), 0
        while self._fork():
            code = self._wait()
            ordered = code in {128 + order for order in PASSED_ON}
            cause = None if ordered else cause_of_death(code)
            if self._orders or self._board.ended or cause is None:
                _leave(128 + self._orders[0] if self._orders and code < 0 else code)
            found = self._board.read()
            if found is not None:  # else nobody has taken note of the death before this one
                watch = Watch(self._board, cause, *found)
            outside += not (found and found[0])
            if outside > MAX_DEATHS_OUTSIDE:
                _say(f"the search was {cause}, which is the death number {outside} while no trial was at work")
                _leave(1)
            _say(f"the search was {cause}; a new process continues it")
        return watch

    def _fork(self) -> bool:
        """Fork; return True in the parent. An order that comes meanwhile waits for either to be ready."""
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        self._board.clear()
        signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)
        try:
            alive, mine = os.pipe()
            child = os.fork()
            if child:
                os.close(alive)
                self._child, self._mine = child, mine
                for order in PASSED_ON:
                    signal.signal(order, self._pass_on)
                return True
            os.close(mine)
            for order, handler in self._handlers.items():
                signal.signal(order, handler)
                signal.signal(PASSED_ON[order], handler)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
        threading.Thread(target=_end_with_parent, args=(alive,), daemon=True).start()
        with suppress(OSError):  # not Linux, or not allowed
            Path("/proc/self/oom_score_adj").write_text(OOM_SCORE, encoding="ascii")
        return False

    def _wait(self) -> int:
        """Return the child's exit code, that of a killed one as minus the signal."""
        assert self._child is not None, "it was forked"
        _, status = os.waitpid(self._child, 0)
        self._child = None
        os.close(self._mine)
        return os.waitstatus_to_exitcode(status)

    def _pass_on(self, order: int, _frame: object) -> None:
        """Pass an order on; the second one does not wait for a child that may not hear it."""
        self._orders.append(order)
        if self._child is not None:
            with suppress(ProcessLookupError):
                os.kill(self._child, PASSED_ON[signal.Signals(order)] if len(self._orders) == 1 else signal.SIGKILL)


def _leave(code: int) -> None:
    raise SystemExit(code if code >= 0 else 128 - code)


def _say(text: str) -> None:
    shown = "\x1b[?25h" if sys.stderr.isatty() else ""  # a live display hides the cursor while it is there
    sys.stderr.write(f"{shown}{text}\n")
    sys.stderr.flush()


def _end_with_parent(alive: int) -> None:
    os.read(alive, 1)  # returns when nobody holds the other end any more
    os.kill(os.getpid(), PASSED_ON[signal.SIGTERM])
