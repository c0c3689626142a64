"""How much of the time in which trials run the training thread spends in tracking calls. Asked: at most 2 %.

Work: trials of `studies/digits.yaml`, from random weights, with MLflow's store on this disk, with a server that takes a
moment over each request, and with one that is dead. Counted is the wall time between the first trial's begin and the
last one's end, and in it all that the training thread spends in the uploader: redacting and appending events, fsync,
questions. What a command waits at its end, while MLflow takes the rest, is printed beside it, and what is left
for `fttune sync`.
"""

import argparse
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import fttune
from fttune.config.workspace import Workspace
from fttune.tracking import Uploader
from fttune.tracking.spool import waiting_in
from fttune.training.events import Entry, RunClosed, RunOpened
from tests.faults.stand_in import Schedule, StandIn, serving

ROOT = Path(__file__).parent.parent
ASKED_PERCENT = 2.0
DELAY_SECONDS = 0.3
CALLS = ("__call__", "persist", "ask", "flush", "take_notices")


class Spent:
    """Adds up the wall time that one thread spends in an uploader's calls, the outermost one only."""

    def __init__(self) -> None:
        self.seconds, self.calls = 0.0, 0
        self._thread, self._inside = threading.get_ident(), False

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Count while the context is open."""
        originals = {name: getattr(Uploader, name) for name in CALLS}
        for name, original in originals.items():
            setattr(Uploader, name, self._timed(original))
        try:
            yield
        finally:
            for name, original in originals.items():
                setattr(Uploader, name, original)

    def _timed(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **keywords: Any) -> Any:
            if self._inside or threading.get_ident() != self._thread:
                return original(*arguments, **keywords)
            self._inside, started = True, time.perf_counter()
            try:
                return original(*arguments, **keywords)
            finally:
                self.seconds, self.calls = self.seconds + time.perf_counter() - started, self.calls + 1
                self._inside = False

        return timed


def measure(uri: str | None, trials: int) -> dict[str, float]:
    """Run the study and return seconds, and how many events are left."""
    with tempfile.TemporaryDirectory() as temporary:
        workspace = Workspace.at(ROOT, Path(temporary))
        tracking = [f"tracking.uri={uri}"] if uri else []
        changes = [f"budget.n_trials={trials}", "backbone.weights=none", *tracking]
        study = fttune.load_study(ROOT / "studies" / "digits.yaml", changes)
        spent = Spent()
        marks: list[tuple[float, float, int]] = []

        def mark(entry: Entry) -> None:
            if "/" in entry.run and isinstance(entry.event, RunOpened | RunClosed):
                marks.append((time.perf_counter(), spent.seconds, spent.calls))

        with spent.watching():
            fttune.search(study, workspace=workspace, display=mark)
        ended = time.perf_counter()
        left = sum(one.events for one in waiting_in(workspace.spools))
    (begun, before, calls), (last, after, all_calls) = marks[0], marks[-1]
    return {
        "seconds": last - begun,
        "percent": 100 * (after - before) / (last - begun),
        "ms_per_call": 1000 * (after - before) / max(1, all_calls - calls),
        "end_s": ended - last,
        "left": left,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=24)
    trials = parser.parse_args().trials
    slow = StandIn(Schedule(delay_seconds=DELAY_SECONDS))
    servers = {
        "on this disk": nullcontext(None),
        f"{DELAY_SECONDS} s a request": serving(slow),
        "dead": nullcontext("http://127.0.0.1:9"),
    }
    print(f"the training thread in tracking calls, {trials} trials of studies/digits.yaml")
    shares = []
    for name, server in servers.items():
        with server as uri:
            found = measure(uri, trials)
        shares.append(found["percent"])
        print(
            f"MLflow {name:16s} {found['percent']:5.2f} % of {found['seconds']:.1f} s, {found['ms_per_call']:.2f} ms a "
            f"call; at the end {found['end_s']:.1f} s, then {found['left']:.0f} events are left"
        )
    print(f"worst: {max(shares):.2f} % (asked: at most {ASKED_PERCENT:g} %)")


if __name__ == "__main__":
    main()
