"""A search's trials in workers of its own machine: how these are started, and the driver's side of what they say.

The driver alone tells Optuna, logs, and counts attempts; `worker.py` is the other side.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing import Pipe
from typing import Any

import torch

from fttune.app.attempts import Attempts
from fttune.app.session import Session
from fttune.app.trials import Trials
from fttune.app.worker import AnotherAttempt, AttemptTags, CheckpointWanted, Emitted, Job, Judged
from fttune.config import Study
from fttune.interruption import cause_of_death
from fttune.searching import Asked, Outcome
from fttune.training.events import EpochEnded, Notice, RunClosed, RunOpened

DYING_SECONDS = 10.0
MAIN = "from fttune.app.worker import main; main()"  # with -m its classes would be those of another module


class Process:
    """A worker that runs on this machine; a session of its own keeps a terminal's signals from it."""

    def __init__(self, job: Job, *, environment: Mapping[str, str]) -> None:
        self.connection, theirs = Pipe()
        alive, mine = os.pipe()
        self._mine: int | None = mine
        passed = (theirs.fileno(), alive)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", MAIN, *map(str, passed)],
            pass_fds=passed,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr.fileno() if hasattr(sys.stderr, "fileno") else None,  # stdout is for the result
            start_new_session=True,
        )
        theirs.close()
        os.close(alive)
        self.connection.send(job)

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


def worker_count(study: Study, device: str) -> int:
    """Return how many workers a study asks for on this machine; 1 means none but the search itself."""
    if study.workers == "auto":
        return max(1, torch.cuda.device_count()) if device == "cuda" else 1
    return study.workers


def processes(job: Job, *, count: int, device: str) -> Callable[[int], Process]:
    """Return what starts worker i of `count`: with a GPU of its own where there are any, else a share of the cores."""
    if device == "cuda":
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        gpus = visible.split(",") if visible else [str(number) for number in range(torch.cuda.device_count())]
        return lambda number: Process(job, environment={"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]})
    own = replace(job, threads=max(1, torch.get_num_threads() // count))
    return lambda _: Process(own, environment={"OMP_NUM_THREADS": str(own.threads)})


@dataclass
class Driver:
    """The listener of a search's workers; `told` is called for each end that was logged, before Optuna hears of it."""

    trials: Trials
    session: Session
    attempts: Attempts
    told: Callable[[Outcome], None]
    _opened: set[str] = field(default_factory=set)
    _epochs: dict[str, int] = field(default_factory=dict)

    def said(self, what: Emitted) -> None:
        """Log an event of a run; one of a run that was given up here is late."""
        run, event = what.run, what.event
        if isinstance(event, RunOpened):
            self._opened.add(run)
        elif not isinstance(event, Notice) and run not in self._opened:
            return
        elif isinstance(event, RunClosed):
            self._opened.discard(run)
        elif isinstance(event, EpochEnded):
            self._epochs[run] = event.epoch
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
                return self.session.checkpoint(experiment, tags)
        raise TypeError(f"{what!r} is no question")

    def ended(self, asked: Asked, outcome: Outcome) -> None:
        """Let all that a trial logged reach the disk; blocks before its own have been told, and need no states."""
        self.session.deliver()
        if outcome.state != "paused":
            self.trials.states.keep_block(asked.number)
            self.told(outcome)

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
        for outcome in given_up.values():
            self.told(outcome)
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
