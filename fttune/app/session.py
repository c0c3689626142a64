"""What every command that works shares: the workspace, the event log, and the uploader that drains it."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from fttune.config.workspace import Workspace
from fttune.errors import FttuneError, Interrupted
from fttune.tracking import Target, Uploader
from fttune.tracking.redaction import redacted
from fttune.training.events import Entry, Event, EventLog, Notice

INTERRUPTED_CLOSE_SECONDS = 20.0
Display = Callable[[Entry], None]
TRACKING = "tracking"  # whose notices are about MLflow


class Desk(Protocol):
    """What trainings need of the command that they belong to, which may run in another process. See `Session`."""

    @property
    def workspace(self) -> Workspace: ...
    def notice(self, run: str, text: str) -> None: ...
    def emit(self, run: str, event: Event, *, owner: str | None = None) -> None: ...
    def files_of(self, run: str) -> Path: ...
    def states_of(self, run: str) -> Path: ...
    def deliver(self) -> None: ...
    def settle(self) -> None: ...
    def checkpoint(self, experiment: str, tags: Mapping[str, str]) -> Path | None: ...


@dataclass(frozen=True)
class Session:
    """One invocation's open things."""

    workspace: Workspace
    log: EventLog
    uploader: Uploader
    target: Target
    _told: set[tuple[str, str]] = field(default_factory=set)

    def notice(self, run: str, text: str) -> None:
        """Tell people something once."""
        if (run, text) not in self._told:
            self._told.add((run, text))
            self.log.append(run, Notice(text))

    def emit(self, run: str, event: Event, *, owner: str | None = None) -> None:
        """Log an event of a run. A notice is told once, as one of `owner` where runs share it."""
        if isinstance(event, Notice):
            self.notice(owner or run, event.text)
        else:
            self.log.append(run, event)
        self.tell()

    def files_of(self, run: str) -> Path:
        """Return the folder in which a run's files wait for the uploader, which drops it once the run has ended."""
        return self.target.folder(run)

    def states_of(self, run: str) -> Path:
        """Return the folder of what a run that is cut off goes on from."""
        return self.workspace.states / run

    def deliver(self) -> None:
        """Let all that was logged reach the disk, from where it goes to MLflow. Raises CannotWrite."""
        self.uploader.persist()
        self.tell()

    def settle(self) -> None:
        """Wait until MLflow has all of it, unless it does not answer."""
        self.uploader.flush()

    def checkpoint(self, experiment: str, tags: Mapping[str, str]) -> Path | None:
        """Return the best checkpoint of an experiment's newest finished run with these tags; None if it is gone.

        Raises StoreError, TrackingFailed or CannotWrite as `Uploader.ask` does.
        """
        return self.uploader.ask(lambda store: store.find_checkpoint(experiment, tags))

    def tell(self) -> None:
        """Tell people what became of what was logged."""
        for text in self.uploader.take_notices():
            self.notice(TRACKING, text)


@contextmanager
def settled(session: Session) -> Iterator[None]:
    """Deliver what was logged before the context's caller gives its lock to the next process, however the work ends."""
    seconds = None
    try:
        yield
    except (Interrupted, KeyboardInterrupt):
        seconds = INTERRUPTED_CLOSE_SECONDS
        raise
    finally:
        session.uploader.settle(seconds)


def target_of(workspace: Workspace, uri: str) -> Target:
    """Return where the events of a workspace go when MLflow's URI is this one."""
    return Target(uri, workspace.artifacts, workspace.locks, workspace.spools, workspace.runs)


@contextmanager
def open_session(workspace: Workspace, *, tracking_uri: str | None, display: Display | None) -> Iterator[Session]:
    """Open a session, and deliver what was logged however it ends; what MLflow does not take stays in the spool.

    `tracking_uri` comes before `MLFLOW_TRACKING_URI`, that before the workspace's own store. After an interruption
    the rest is delivered within `INTERRUPTED_CLOSE_SECONDS` or left.
    """
    target = target_of(workspace, tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or workspace.mlflow_uri)
    uploader = Uploader(target)
    shown = [_redacting(display)] if display else []
    session = Session(workspace, EventLog(uploader, *shown), uploader, target)

    def close(kind: type[BaseException] | None, *_: object) -> None:
        interrupted = kind is not None and issubclass(kind, Interrupted | KeyboardInterrupt)
        with ExitStack() as stack:
            if kind is not None:
                stack.enter_context(suppress(FttuneError))  # the error to show is the first one
            left = uploader.close(INTERRUPTED_CLOSE_SECONDS if interrupted else None)
            session.tell()
            if left:
                text = f"{left} events wait in {target.spools}; `fttune sync` delivers them, or the next command does"
                session.notice(TRACKING, text)

    with ExitStack() as stack:
        stack.push(close)
        if doubt := workspace.doubt():
            session.notice(str(workspace.mlruns), doubt)
        yield session


def _redacting(display: Display) -> Display:
    return lambda entry: display(redacted(entry))
