"""Progress for people, on stderr: live bars on a terminal, plain lines elsewhere. Listens to the event log only."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from fttune.training.events import Described, Entry, EpochEnded, Notice, RunClosed, RunOpened, StudyProgress

QUIET_SECONDS = 5.0
_OF_FOLD = re.compile(r"^fold(?:-(\d+))?/")
SHOWN = ("train/loss", "val/loss", "val/accuracy")


@contextmanager
def display(console: Console | None = None) -> Iterator["Lines | Bars"]:
    """Return the listener that fits the console (default: stderr) and close it at the end."""
    console = console or Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield Lines(console)
        return
    with Bars(console) as bars:
        yield bars


class Lines:
    """Plain lines: every run and its end; epochs of a training run, and of a trial at most every few seconds."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._names: dict[str, RunOpened] = {}
        self._spoken = 0.0

    def __call__(self, entry: Entry) -> None:
        """Print what an event has to say."""
        event = entry.event
        if isinstance(event, RunOpened):
            self._names[entry.run] = event
        name = self._names[entry.run].name if entry.run in self._names else entry.run
        if (text := self._text(entry.run, event)) is not None:
            self._console.print(f"{name}: {text}", markup=False, soft_wrap=True)
            self._spoken = time.monotonic()

    def _text(self, run: str, event: object) -> str | None:
        if isinstance(event, EpochEnded):
            opened = self._names[run]
            quiet = time.monotonic() - self._spoken < QUIET_SECONDS
            return None if opened.parent and quiet else _epoch_text(event, opened)
        return describe(event)


class Bars:
    """Two live bars: trials of the study and epochs of the run, with the best value and the time left."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
        )
        self._tasks: dict[str, TaskID] = {}
        self._names: dict[str, str] = {}

    def __enter__(self) -> "Bars":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def __call__(self, entry: Entry) -> None:
        """Move the bars; what has no place in them is printed above."""
        run, event = entry.run, entry.event
        if isinstance(event, RunOpened):
            self._names[run] = event.name
            if event.tags["fttune.kind"] != "study":
                self._tasks[run] = self._progress.add_task(event.name, total=_epochs_of(event), note="")
        elif isinstance(event, StudyProgress):
            self._study(run, event)
        elif isinstance(event, EpochEnded) and run in self._tasks:
            self._progress.update(self._tasks[run], completed=event.epoch, note=_metrics_text(event))
        elif isinstance(event, RunClosed) and run in self._tasks:
            self._progress.remove_task(self._tasks.pop(run))
            self._print(run, event)
        elif isinstance(event, Notice | Described):
            self._print(run, event)

    def _study(self, run: str, event: StudyProgress) -> None:
        if run not in self._tasks:
            self._tasks[run] = self._progress.add_task(f"study {run}", total=event.total, note="")
        best = "" if event.best is None else f"best {event.best:.4g}"
        self._progress.update(self._tasks[run], completed=event.done, note=best)

    def _print(self, run: str, event: object) -> None:
        if (text := describe(event)) is not None:
            self._console.print(f"{self._names.get(run, run)}: {text}", markup=False, soft_wrap=True)


def describe(event: object) -> str | None:
    """Return what an event says in words, None when it says nothing to people."""
    if isinstance(event, Notice):
        return event.text
    if isinstance(event, Described) and "fttune.trainable" in event.tags:
        return f"{event.tags['fttune.trainable']}; device {event.tags['fttune.device']}"
    if isinstance(event, RunClosed):
        cause = event.tags.get("fttune.cause")
        value = event.metrics.get("value", event.metrics.get("best_value"))
        details = [f"value {value:.4g}"] if value is not None else []
        details += [f"best epoch {event.metrics['best_epoch']:.0f}"] if "best_epoch" in event.metrics else []
        details += [cause] if cause else []
        return ", ".join([event.state, *details])
    return None


def _epoch_text(event: EpochEnded, opened: RunOpened) -> str:
    if "fold/val/loss" in event.metrics:
        return f"fold {event.epoch} ended, {_metrics_text(event)}"
    return f"epoch {event.epoch}/{_epochs_of(opened)}, {_metrics_text(event)}"


def _epochs_of(opened: RunOpened) -> int | None:
    """Return how many epochs a run has at most: those of its recipe, unless it is to end before."""
    epochs = opened.tags.get("fttune.epochs", opened.params.get("training.epochs"))
    return None if epochs is None else int(epochs)


def _metrics_text(event: EpochEnded) -> str:
    metrics = {_OF_FOLD.sub("", name): value for name, value in event.metrics.items()}
    fold = _OF_FOLD.match(next(iter(event.metrics), ""))
    shown = [f"{name} {metrics[name]:.4g}" for name in SHOWN if name in metrics]
    return ", ".join([f"fold {fold[1]}", *shown] if fold and fold[1] else shown)
