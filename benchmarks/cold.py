"""A piece of work in a process of its own, with all imports done: its wall seconds and its peak memory.

The process is forked from a server that has imported everything and has computed nothing, so that import time counts on
no side; nor does the garbage collector's walk over what was imported (0.3 s each time). Memory is the proportional set
size of Linux (`Pss` of /proc/PID/smaps_rollup: shared pages are divided among those who share them) summed over the
process, all its descendants and that server, sampled each half second; NaN where there is no /proc.
"""

import gc
import math
import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Generic, TypeVar

Result = TypeVar("Result")
SAMPLE_SECONDS = 0.5
# Beyond what the two sides import by themselves: parts that libraries load when they are first used.
IMPORTED = (
    "fttune.tracking.store",  # first: it keeps mlflow from reporting usage
    "fttune.app.search",
    "benchmarks.cold",
    "benchmarks.plain_study",
    "benchmarks.bare",
    "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.pytorch",
    "optuna.storages._rdb.storage",
    "alembic.command",
    "pandas",
    "torch._dynamo",
    "torch.export",
    "torchvision.models",
)
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(list(IMPORTED))


@dataclass(frozen=True)
class Measured(Generic[Result]):
    """What some work returned, how long it took, and the most memory that it held in all its processes."""

    result: Result
    seconds: float
    peak_mib: float


def measured(work: Callable[..., Result], *arguments: Any) -> Measured[Result]:
    """Run `work(*arguments)` in a fresh process and measure it there.

    Raises:
        RuntimeError: the process ended without a result; its traceback stands on stderr.
    """
    receiver, sender = _CONTEXT.Pipe(duplex=False)
    process = _CONTEXT.Process(target=_run, args=(sender, work, arguments))
    process.start()
    sender.close()
    peak = math.nan
    while not receiver.poll(SAMPLE_SECONDS):
        peak = max(memory_mib(process.pid or 0), peak)
    try:
        seconds, result = receiver.recv()
    except EOFError:
        process.join()
        raise RuntimeError(f"{work.__name__} ended with exit code {process.exitcode}; see its traceback") from None
    process.join()
    return Measured(result, seconds, peak)


def memory_mib(pid: int) -> float:
    """Return the memory of a process, its descendants and its parent, in MiB; NaN without /proc."""
    if not Path("/proc/self/smaps_rollup").exists():
        return math.nan
    processes = [*_tree(pid), *_parent(pid)]
    return sum(_pss_kib(Path(f"/proc/{process}/smaps_rollup")) for process in processes) / 1024


def _run(sender: Connection, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    gc.freeze()
    started = time.perf_counter()
    result = work(*arguments)
    sender.send((time.perf_counter() - started, result))


def _tree(pid: int) -> list[int]:
    found = [pid]
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in _text(children).split():
            found += _tree(int(child))
    return found


def _parent(pid: int) -> list[int]:
    fields = _text(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
    return [int(fields[1])] if fields else []


def _pss_kib(file: Path) -> int:
    lines = [line for line in _text(file).splitlines() if line.startswith("Pss:")]
    return int(lines[0].split()[1]) if lines else 0


def _text(file: Path) -> str:
    """Return what a file of /proc says; nothing when its process has just ended."""
    try:
        return file.read_text()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return ""
