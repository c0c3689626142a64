"""SIGINT and SIGTERM as the exception Interrupted, which is held back while it would do harm; what a process died of.

Signals are the whole process's, so this is the one module that keeps a state of its own. Standard library only.
"""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from fttune.errors import Interrupted

REPEAT_SECONDS = 0.01
CRASHES = {"SIGSEGV", "SIGBUS", "SIGABRT", "SIGILL", "SIGFPE", "SIGSYS", "SIGTRAP", "SIGKILL"}


class _Held:
    """How many blocks hold interruptions back, and the signal that waits for their end."""

    depth = 0
    waiting: int | None = None


def interrupt(signum: int) -> None:
    """Raise Interrupted, or leave that to the end of the block that holds it back. For a signal's handler."""
    if _Held.depth:
        _Held.waiting = signum
    else:
        raise Interrupted(signum)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold interruptions back: one that arrives in the block is raised at its end.

    Python runs the handlers of signals in the main thread, so in any other one this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _Held.depth += 1
    try:
        yield
    finally:
        _Held.depth -= 1
        if not _Held.depth and (signum := _Held.waiting) is not None:
            _Held.waiting = None
            raise Interrupted(signum)


def raise_dropped_again() -> None:
    """Raise an Interrupted again that Python drops: what is raised in a destructor or a weak reference's callback."""
    show = sys.unraisablehook

    def unraisable(dropped: "sys.UnraisableHookArgs") -> None:
        if isinstance(dropped.exc_value, Interrupted):
            signum = dropped.exc_value.signum
            signal.signal(signal.SIGALRM, lambda *_: interrupt(signum))
            signal.setitimer(signal.ITIMER_REAL, REPEAT_SECONDS)
        else:
            show(dropped)

    sys.unraisablehook = unraisable


def cause_of_death(code: int) -> str | None:
    """Return what a process died of that did not say that it ends, None when it was told to.

    `code` is its exit code, that of a killed one minus the signal.
    """
    if code >= 0:
        return f"ended amid its work with exit code {code}"
    name = signal.Signals(-code).name
    hint = " (out of memory, or kill -9)" if name == "SIGKILL" else ""
    return f"killed by {name}{hint}" if name in CRASHES else None
