"""A process that trains trials for a search in another one, and touches neither Optuna nor MLflow.

Where the study's machines share a URL and no folder (`workers.shared`), a worker writes states and files of runs into a
folder of its own, which ends with it, and nobody else reads: states go to the URL when they are written, a file before
the event that names it.

Its arguments are two file descriptors: of a connection, and one that is read until its other end is closed, which its
owner does by dying: whoever comes after it must find no worker at the same trials.
"""

import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from fttune.app.parcels import Parcel, received, sent
from fttune.app.session import target_of
from fttune.app.states import States
from fttune.app.train import inputs_key, prepare_in
from fttune.app.trials import Trials
from fttune.config import Study
from fttune.config.workspace import Workspace
from fttune.errors import FttuneError, Interrupted, WorkFailed
from fttune.files import private_folder, remove_leftovers, temporary_folder
from fttune.interruption import interrupt, raise_dropped_again, uninterrupted
from fttune.mirror import Mirror
from fttune.searching import Asked
from fttune.searching.executors import Ended
from fttune.searching.workers import Question, Raised, Ready, Said, Task
from fttune.training import Verdict, choose_device
from fttune.training.events import Event, FileSaved, Notice, RunClosed
from fttune.training.memory import free_cached


@dataclass(frozen=True)
class Job:
    """What a worker is made for: the trials of a generation of a study. `threads` are torch's, None for its default."""

    study: Study
    workspace: Workspace
    name: str
    id: str
    threads: int | None = None


@dataclass(frozen=True)
class Emitted:
    """An event of a run, as `Desk.emit` takes it; the file that it names is in `parcel` where it went to a URL."""

    run: str
    event: Event
    owner: str | None
    parcel: Parcel | None = None


@dataclass(frozen=True)
class Judged:
    """Asks the judge of a trial about an epoch."""

    number: int
    epoch: int
    value: float
    settled: int


@dataclass(frozen=True)
class AnotherAttempt:
    """Asks whether a trial whose attempt has failed may begin another one."""

    number: int
    cause: str | None


@dataclass(frozen=True)
class AttemptTags:
    """Asks for the tags that tell of a trial's attempts so far."""

    number: int


@dataclass(frozen=True)
class CheckpointWanted:
    """Asks for the best checkpoint of a run, as `Desk.checkpoint` does: for a path, or for what went to a URL."""

    experiment: str
    tags: Mapping[str, str]


@dataclass
class Link:
    """The worker's end of its connection; several threads may ask."""

    connection: "Connection[Any, Any]"
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def say(self, what: Any) -> None:
        """Send what needs no answer."""
        with uninterrupted(), self._lock:
            self.connection.send(Said(what))

    def ask(self, what: Any) -> Any:
        """Send a question and return its answer, or raise what answering it has raised."""
        with uninterrupted(), self._lock:
            self.connection.send(Question(what))
            answer = self.connection.recv()
        if isinstance(answer, Raised):
            raise answer.error
        return answer


class RemoteDesk:
    """A `Desk` whose command runs in another process, which logs, asks the stores, and keeps what was told once.

    Files go there through `mirror`, if there is one; then those of this process lie in a folder of its `own`.
    """

    def __init__(self, link: Link, workspace: Workspace, mirror: Mirror | None, own: Path) -> None:
        self.workspace = workspace
        self.link, self._mirror, self._own = link, mirror, own
        self._target = replace(target_of(workspace, ""), runs=own / workspace.runs.name)

    def notice(self, run: str, text: str) -> None:
        """Tell people something once."""
        self.emit(run, Notice(text))

    def emit(self, run: str, event: Event, *, owner: str | None = None) -> None:
        """Log an event of a run. Raises CannotWrite when a file cannot be sent."""
        parcel, folder = None, self.files_of(run)
        if self._mirror is not None and isinstance(event, FileSaved):
            parcel = sent(self._mirror, event.path, event.path.relative_to(folder).as_posix())
        self.link.say(Emitted(run, event, owner, parcel))
        if self._mirror is not None and isinstance(event, RunClosed):
            shutil.rmtree(folder, ignore_errors=True)

    def files_of(self, run: str) -> Path:
        """Return the folder in which a run's files wait."""
        return self._target.folder(run)

    def states_of(self, run: str) -> Path:
        """Return the folder of what a run that is cut off goes on from."""
        return self._own / self.workspace.states.name / run

    def deliver(self) -> None:
        """Do nothing: the other process does, before it tells of a trial's end."""

    def settle(self) -> None:
        """Do nothing: no trial that is measured runs beside others."""

    def checkpoint(self, experiment: str, tags: Mapping[str, str]) -> Path | None:
        """Return the best checkpoint of an experiment's newest finished run with these tags; None if it is gone."""
        found: Path | tuple[Parcel, ...] | None = self.link.ask(CheckpointWanted(experiment, tags))
        if not isinstance(found, tuple):
            return found
        assert self._mirror is not None, "that process has sent it there"
        file, *_ = [received(self._mirror, parcel, self._own / "weights") for parcel in found]
        return file


class RemoteTries:
    """The `Tries` of trials whose attempts are counted in another process."""

    def __init__(self, link: Link) -> None:
        self._link = link

    @contextmanager
    def at_work(self, numbers: Sequence[int]) -> Iterator[None]:  # noqa: ARG002 (known there)
        """Do nothing: the other process knows which trials it sent."""
        yield

    def reached(self, epochs: int) -> None:
        """Do nothing: the other process sees the epochs."""

    def alone(self, number: int) -> bool:  # noqa: ARG002
        """Return False: what trains together was decided there."""
        return False

    def used_up(self, number: int) -> str | None:  # noqa: ARG002
        """Return None: a trial that was sent is to be tried."""
        return None

    def another(self, number: int, cause: str | None) -> bool:
        """Return whether there is to be another attempt after one that failed here."""
        return bool(self._link.ask(AnotherAttempt(number, cause)))

    def tags(self, number: int) -> dict[str, str]:
        """Return what a run of MLflow says of the attempts before."""
        return dict(self._link.ask(AttemptTags(number)))


def serve(connection: "Connection[Any, Any]") -> None:
    """Take a job, then tasks until it is interrupted; send how each trial ended, or what ended this process."""
    job: Job = connection.recv()
    link = Link(connection)
    try:
        if job.threads is not None:
            import torch

            torch.set_num_threads(job.threads)
        mirror = job.workspace.mirror(job.id)
        with _own_folder(job.workspace) as own:
            _work(connection, job, RemoteDesk(link, job.workspace, mirror, own), mirror)
    except (EOFError, ConnectionError):  # nobody is there any more
        return
    except Exception as error:  # noqa: BLE001 (it ends the search there, as it would here)
        known_there = isinstance(error, FttuneError | OSError)
        connection.send(Raised(error if known_there else WorkFailed(f"{type(error).__name__}: {error}")))


@contextmanager
def _own_folder(workspace: Workspace) -> Iterator[Path]:
    """Hand out where states and files of runs go: where machines share no folder, one that ends with the block."""
    if workspace.shared is None:
        yield workspace.cache
        return
    private_folder(workspace.workers)
    remove_leftovers(workspace.workers)
    with temporary_folder(workspace.workers, "worker") as own:
        yield own


def _work(connection: "Connection[Any, Any]", job: Job, desk: RemoteDesk, mirror: Mirror | None) -> None:
    """Take tasks until one is interrupted, or nobody is there any more."""
    recipe, link = job.study.experiment, desk.link
    device = choose_device(recipe.training).device
    inputs = prepare_in(desk, recipe, evaluation=job.study.evaluation)
    states = States(desk.states_of(job.name), job.study.batch, mirror)
    known = {inputs_key(recipe): inputs}
    trials = Trials(job.study, desk, job.name, job.id, known, RemoteTries(link), states)
    with closing(trials):
        connection.send(Ready())  # not before: a task would come in place of an answer to what is asked above
        while True:
            task: Task = connection.recv()
            for asked in task.trials:
                started = time.monotonic()
                if asked.resumed:
                    states.fetch(asked.number, first=asked.cohort[0].number if asked.cohort else asked.number)
                outcome = trials.run(_judged_there(link, asked))
                if outcome.state != "paused":
                    states.leave(asked.number)
                ended = Ended(asked.number, task.attempt, outcome, time.monotonic() - started)
                with uninterrupted():
                    connection.send(ended)
            free_cached(device)  # other workers may share the card


def _judged_there(link: Link, asked: Asked) -> Asked:
    def judge(number: int, epoch: int, value: float, settled: int) -> Verdict:
        verdict: Verdict = link.ask(Judged(number, epoch, value, settled))
        return verdict

    cohort = tuple(replace(one, judge=partial(judge, one.number)) for one in asked.cohort)
    return replace(asked, judge=partial(judge, asked.number), cohort=cohort)


def main() -> None:
    """Serve until SIGTERM (exit 143), or until the other process is no more."""
    connection, alive = (int(argument) for argument in sys.argv[1:])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's, which the other process passes on in its own way
    signal.signal(signal.SIGTERM, lambda signum, _: interrupt(signum))
    raise_dropped_again()
    threading.Thread(target=_end_with, args=(alive,), daemon=True).start()
    try:
        serve(Connection(connection))
    except Interrupted as interruption:
        os._exit(interruption.exit_code)


def _end_with(alive: int) -> None:
    os.read(alive, 1)  # returns when nobody holds the other end any more
    os._exit(1)
