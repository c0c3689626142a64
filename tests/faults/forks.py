"""Commands as forks of one warm process whose disk can be made to fail (disk.c).

The process is started with the library loaded, imports everything and runs a whole study once, so that what a first
call sets up is there; a command then costs what it does and not ten seconds of imports. It trains heads alone: torch
refuses to fork once autograd has been used.
"""

import ctypes
import gc
import json
import os
import subprocess
import sys
import threading
import traceback
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import IO

from tests.processes import PRELOAD

FAMILIES = {"own": 1, "sqlite": 2}
CALLS_BYTES = 1 << 20


@dataclass(frozen=True)
class Fault:
    """Which call below `folder` fails: the k-th one (from 1; 0: none) of a family of files, with an errno."""

    folder: str
    family: str
    k: int = 0
    code: int = 0


@dataclass(frozen=True)
class Ended:
    """How a command ended; `calls` are those of the fault's family that were made, in order."""

    code: int
    out: str
    err: str
    calls: tuple[str, ...]


class Forks:
    """The warm process; `run` takes one command after another."""

    def __init__(self, library: Path, root: Path, *, plugin: Path) -> None:
        """Start it in a folder that holds studies/, of which the first is run once; `plugin` defines its backbone."""
        environment = {**os.environ, "LD_PRELOAD": str(library), "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.forks", str(library), str(root), str(plugin)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.said = self._answer()

    def run(self, *arguments: str, cwd: Path, fault: Fault) -> Ended:
        """Run `fttune ARGUMENTS` in a folder."""
        self._pipe(self._process.stdin).write(json.dumps([arguments, str(cwd), asdict(fault)]) + "\n")
        self._pipe(self._process.stdin).flush()
        code, calls = json.loads(self._answer())
        return Ended(code, (cwd / ".out").read_text(), (cwd / ".err").read_text(), tuple(calls))

    def close(self) -> None:
        """End the process."""
        self._pipe(self._process.stdin).close()
        self._process.wait(60)
        self._pipe(self._process.stdout).close()

    def _answer(self) -> str:
        line = self._pipe(self._process.stdout).readline()
        assert line, "the warm process ended; its message stands above"
        return line

    @staticmethod
    def _pipe(stream: IO[str] | None) -> IO[str]:
        assert stream is not None, "it was asked for"
        return stream


def serve(library: Path, root: Path, plugin: Path) -> None:
    """Warm up, then fork for each request on stdin."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what the study prints is no answer
    warm_up(root, plugin)
    for thread in threading.enumerate():
        if thread is not threading.current_thread():
            thread.join(10)
    assert threading.active_count() == 1, f"a fork has the calling thread alone, not {threading.enumerate()}"
    gc.collect()
    gc.freeze()  # what is shared with the forks stays shared
    disk = ctypes.CDLL(str(library))
    disk.calls.restype = ctypes.c_char_p
    print("ready", file=answers)
    for line in sys.stdin:
        arguments, cwd, fault = json.loads(line)
        reading, writing = os.pipe()
        if (child := os.fork()) == 0:
            os.close(reading)
            os._exit(_run(arguments, Path(cwd), Fault(**fault), disk, writing))
        os.close(writing)
        with os.fdopen(reading) as told:
            calls = told.read().splitlines()
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(json.dumps([code, calls]), file=answers)
    os._exit(0)  # libraries complain about what a frozen collector leaves


def warm_up(root: Path, plugin: Path) -> None:
    """Import everything, and run a whole study."""
    import torch

    import fttune
    from fttune.config import load_study
    from fttune.config.workspace import Workspace
    from fttune.tracking import uploader

    for name in PRELOAD:
        import_module(name)
    torch.set_num_threads(1)
    uploader.LOCAL_CLOSE_SECONDS = 0.1  # a disk that fails here will not recover while it is waited for
    study = load_study(next((root / "studies").glob("*.yaml")))
    fttune.search(study, workspace=Workspace.at(root, plugins=[plugin]))


def in_a_fork(arguments: list[str]) -> int:
    """Run `fttune ARGUMENTS` here and return its exit code; what it prints goes where this process's does."""
    for name in PRELOAD:
        import_module(name)
    if (child := os.fork()) == 0:
        os.dup2(2, 1)
        os._exit(_exit_code(arguments))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _run(arguments: list[str], cwd: Path, fault: Fault, disk: ctypes.CDLL, told: int) -> int:
    os.chdir(cwd)
    for stream, name in ((1, ".out"), (2, ".err")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    disk.arm(fault.folder.encode(), FAMILIES[fault.family], ctypes.c_long(fault.k), fault.code)
    code = _exit_code(arguments)
    calls = disk.calls()
    disk.arm(b"", 0, ctypes.c_long(0), 0)
    os.write(told, calls)
    return code


def _exit_code(arguments: list[str]) -> int:
    """Run a command in this process, and do what an interpreter does at a program's end."""
    from fttune.cli import main

    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    sys.argv = ["fttune", *arguments]
    code = 0
    try:
        main()
        threading._shutdown()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 (so does an interpreter)
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code


if __name__ == "__main__":
    serve(*map(Path, sys.argv[1:]))
