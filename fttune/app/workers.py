"""A search's trials in workers: where these are started, and the driver's side of what they say.

The driver alone tells Optuna, logs, and counts attempts; `worker.py` is the other side.
"""

import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from fttune.app.attempts import Attempts
from fttune.app.cluster import connected
from fttune.app.parcels import Parcel, received, sent
from fttune.app.process import Process
from fttune.app.session import Session
from fttune.app.trials import Trials
from fttune.app.worker import AnotherAttempt, AttemptTags, CheckpointWanted, Emitted, Job, Judged
from fttune.config import Study
from fttune.config.workers import Cluster
from fttune.mirror import Mirror
from fttune.searching import Asked, Outcome
from fttune.searching.workers import Worker
from fttune.training import choose_device
from fttune.training.events import EpochEnded, FileSaved, Notice, RunClosed, RunOpened


@contextmanager
def started(job: Job, device: str) -> Iterator[tuple[Callable[[int], Worker], int] | None]:
    """Open what a study's trials train in: what starts worker i, and how many; None where it is the search alone."""
    pool = job.study.workers
    if isinstance(pool, Cluster):
        shared = job.workspace.cache / "shared" / job.name
        with connected(pool, device=job.study.experiment.training.device, shared=shared) as room:
            own = replace(job, threads=room.threads)
            yield lambda _: room.start(own), room.count
        return
    count = max(1, _cards(device)) if pool.count == "auto" else pool.count
    yield None if count == 1 else (_processes(job, count=count, device=device), count)


def gpus_of(study: Study) -> float:
    """Return how many GPUs a study keeps at work; in a cluster those of one worker, where it gives no `count`."""
    pool, cards = study.workers, _cards(choose_device(study.experiment.training).device.type)
    if isinstance(pool, Cluster):
        each = min(1, cards) if pool.gpus_per_trial is None else pool.gpus_per_trial
        return each * (pool.count or 1)
    return cards if pool.count == "auto" else min(cards, pool.count)


def _cards(device: str) -> int:
    return torch.cuda.device_count() if device == "cuda" else 0


def _processes(job: Job, *, count: int, device: str) -> Callable[[int], Worker]:
    """Return what starts worker i of `count`: with a GPU of its own where there are any, else a share of the cores."""

    def start(job: Job, environment: Mapping[str, str]) -> Process:
        process = Process(environment)
        process.connection.send(job)
        return process

    if device == "cuda":
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        gpus = visible.split(",") if visible else [str(number) for number in range(torch.cuda.device_count())]
        return lambda number: start(job, {"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]})
    own = replace(job, threads=max(1, torch.get_num_threads() // count))
    return lambda _: start(own, {"OMP_NUM_THREADS": str(own.threads)})


@dataclass
class Driver:
    """The listener of a search's workers, with whom files are exchanged through `mirror` where there is one."""

    trials: Trials
    session: Session
    attempts: Attempts
    mirror: Mirror | None = None
    _opened: set[str] = field(default_factory=set)
    _epochs: dict[str, int] = field(default_factory=dict)
    _lent: dict[Path, tuple[Parcel, ...]] = field(default_factory=dict)

    def said(self, what: Emitted) -> None:
        """Log an event of a run, its file being here; one of a run that was given up here is late.

        Raises CannotWrite when the file does not come.
        """
        run, event = what.run, what.event
        if isinstance(event, RunOpened):
            self._opened.add(run)
        elif not isinstance(event, Notice) and run not in self._opened:
            return
        elif isinstance(event, RunClosed):
            self._opened.discard(run)
        elif isinstance(event, EpochEnded):
            self._epochs[run] = event.epoch
        elif isinstance(event, FileSaved) and what.parcel is not None:
            event = replace(event, path=self._received(what.parcel, self.session.files_of(run)))
        self.session.emit(run, event, owner=what.owner)

    def answer(self, trials: Sequence[Asked], what: Any) -> Any:
        """Answer what a worker at work on some trials asks."""
        match what:
            case Judged(number, epoch, value, settled):
                (judge,) = (asked.judge for asked in trials if asked.number == number)
                return judge(epoch, value, settled)
            case AnotherAttempt(number, cause):
                return self.attempts.another(number, cause)
            case AttemptTags(number):
                return self.attempts.tags(number)
            case CheckpointWanted(experiment, tags):
                return self._lend(self.session.checkpoint(experiment, tags))
        raise TypeError(f"{what!r} is no question")

    def _received(self, parcel: Parcel, folder: Path) -> Path:
        assert self.mirror is not None, "a worker has sent a file through it"
        file = received(self.mirror, parcel, folder)
        self.mirror.remove(parcel.name)
        return file

    def _lend(self, checkpoint: Path | None) -> Path | tuple[Parcel, ...] | None:
        """Return where a worker finds a checkpoint, with its JSON; it stays there until the search ends."""
        if checkpoint is None or self.mirror is None:
            return checkpoint
        if checkpoint not in self._lent:
            files, folder = (checkpoint, checkpoint.with_suffix(".json")), uuid.uuid4().hex
            self._lent[checkpoint] = tuple(sent(self.mirror, file, f"{folder}/{file.name}") for file in files)
        return self._lent[checkpoint]

    def settle(self) -> None:
        """Let all that a trial logged reach the disk."""
        self.session.deliver()

    def lost(self, trials: Sequence[Asked], cause: str) -> dict[int, Outcome]:
        """Count an attempt at each trial; close the runs that were open, and give up those with no attempt left."""
        epochs = max(self._epochs.get(self.trials.key(asked.number), 0) for asked in trials)
        numbers = [asked.number for asked in trials]
        self.attempts.died(numbers, cause, epochs=epochs, together=len(trials) > 1)
        given_up = {}
        for asked in trials:
            run = self.trials.key(asked.number)
            why = self.attempts.used_up(asked.number)
            if run in self._opened:
                state = "interrupted" if why is None else "failed"
                self.said(Emitted(run, RunClosed(state, {"fttune.cause": why or cause}), self.trials.name))
            elif why is not None:
                self.trials.abandon(asked, why)
            if why is not None:
                given_up[asked.number] = Outcome("failed", cause=why)
        self.session.notice(self.trials.name, _of_loss(numbers, cause, len(given_up)))
        self.session.deliver()
        return given_up

    def abandon(self, asked: Asked, cause: str) -> None:
        """Give up a trial that was asked and will not run, or not go on; what its worker says of it is late."""
        self._opened.discard(self.trials.key(asked.number))
        self.trials.abandon(asked, cause)


def _of_loss(numbers: Sequence[int], cause: str, given_up: int) -> str:
    named = ", ".join(map(str, numbers))
    after = "no attempt is left" if given_up else "it is tried again"
    return f"the worker of trial {named} was lost ({cause}): {after}"
