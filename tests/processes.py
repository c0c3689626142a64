"""Run `fttune` in processes of their own: forked from a server that has imported everything and started no threads,
so that a start costs a fork and not ten seconds of imports."""

import fcntl
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

PRELOAD = [
    "tests.processes",
    "fttune.app.search",
    "fttune.app.report",
    "fttune.tracking.store",
    "fttune.display",
    "fttune.cli",
    "fttune.app.results",
    # What these import only when they are used, which takes a command seconds:
    "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.pytorch",
    "sklearn.datasets",
    "torch._inductor.compile_fx",
    "torch.export.pt2_archive",
]
SLOW_SECONDS = 0.03
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(PRELOAD)


@dataclass
class Command:
    """A started `fttune` command with its output in files."""

    process: multiprocessing.Process
    out: Path
    err: Path

    def wait(self, timeout_seconds: float = 120) -> int:
        """Return the exit code; a negative one is the signal that ended it."""
        self.process.join(timeout_seconds)
        assert self.process.exitcode is not None, f"still running after {timeout_seconds} s: {self.err.read_text()}"
        return self.process.exitcode

    def wait_for(self, text: str, timeout_seconds: float = 90) -> None:
        """Wait until `text` stands on stderr."""
        end = time.monotonic() + timeout_seconds
        while text not in self.err.read_text():
            assert self.process.is_alive(), f"ended without saying {text!r}: {self.err.read_text()}"
            assert time.monotonic() < end, f"did not say {text!r}: {self.err.read_text()}"
            time.sleep(0.01)

    def send(self, signum: signal.Signals, *, group: bool = False) -> None:
        """Send a signal to the process; `group` to all that it has forked too, as a terminal does."""
        assert self.process.pid is not None
        (os.killpg if group else os.kill)(self.process.pid, signum)

    def kill(self) -> None:
        """Kill the process with all that it has forked, and return when all are gone."""
        for group in (True, False):  # it makes a group of its own only once it runs
            with suppress(ProcessLookupError):
                self.send(signal.SIGKILL, group=group)
        self.process.join()
        self.wait_for_the_last()

    def wait_for_the_last(self) -> None:
        """Wait until no process that the command forked is left; until then one holds the lock on its output."""
        with self.err.open() as opened:
            fcntl.flock(opened, fcntl.LOCK_EX)


def start(*arguments: str, cwd: Path, slow: str | None = None) -> Command:
    """Start `fttune ARGUMENTS` in a folder; each call of the function `slow`, such as os.fsync, takes longer there."""
    stamp = f"{time.monotonic_ns()}"
    out, err = cwd / f".out-{stamp}", cwd / f".err-{stamp}"
    out.touch()
    err.touch()
    process = CONTEXT.Process(target=_main, args=(arguments, dict(os.environ), str(cwd), str(out), str(err), slow))
    process.start()
    return Command(process, out, err)


def run(*arguments: str, cwd: Path, timeout_seconds: float = 120) -> tuple[int, str, str]:
    """Run `fttune ARGUMENTS` to its end; return exit code, stdout and stderr."""
    command = start(*arguments, cwd=cwd)
    code = command.wait(timeout_seconds)
    return code, command.out.read_text(), command.err.read_text()


def _main(
    arguments: tuple[str, ...], environment: Mapping[str, str], cwd: str, out: str, err: str, slow: str | None
) -> None:
    import torch

    from fttune.cli import main

    os.setpgid(0, 0)
    os.environ.update(environment)  # the server that this is forked from has that of its own start
    if slow is not None:
        _slow_down(slow)
    os.chdir(cwd)
    for stream, path in ((1, out), (2, err)):
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(opened, stream)
        os.close(opened)
    fcntl.flock(2, fcntl.LOCK_EX)
    sys.stdout = os.fdopen(1, "w", buffering=1)
    sys.stderr = os.fdopen(2, "w", buffering=1)
    torch.set_num_threads(1)
    sys.argv = ["fttune", *arguments]
    main()
    sys.stdout.flush()


def _slow_down(name: str) -> None:
    place = resolve_name(name.rpartition(".")[0])
    call = getattr(place, name.rpartition(".")[2])

    def slow(*arguments: Any, **options: Any) -> Any:
        time.sleep(SLOW_SECONDS)
        return call(*arguments, **options)

    setattr(place, name.rpartition(".")[2], slow)
