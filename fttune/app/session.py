"""What every command that works shares: the workspace, the event log, and the uploader that drains it."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from fttune.config.workspace import Workspace
from fttune.errors import FttuneError, Interrupted
from fttune.tracking import Uploader
from fttune.training.events import Entry, Event, EventLog, Notice

INTERRUPTED_CLOSE_SECONDS = 20.0
Display = Callable[[Entry], None]


@dataclass(frozen=True)
class Session:
    """One invocation's open things."""

    workspace: Workspace
    log: EventLog
    uploader: Uploader
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

    def files_of(self, run: str) -> Path:
        """Return the folder in which a run's files wait for the uploader."""
        return self.workspace.cache / "runs" / run

    def states_of(self, run: str) -> Path:
        """Return the folder of what a run that is cut off goes on from."""
        return self.workspace.cache / "states" / run

    def deliver(self, *runs: str) -> None:
        """Wait until all is stored, and drop the runs' files that were waiting for it. Raises TrackingFailed."""
        self.uploader.flush()
        for run in runs:
            shutil.rmtree(self.files_of(run), ignore_errors=True)


@contextmanager
def delivered_on_interruption(session: Session) -> Iterator[None]:
    """After an interruption, deliver what was logged before the context's caller gives its lock to the next process."""
    try:
        yield
    except (Interrupted, KeyboardInterrupt):
        with suppress(FttuneError, TimeoutError):
            session.uploader.flush(INTERRUPTED_CLOSE_SECONDS)
        raise


@contextmanager
def open_session(workspace: Workspace, *, tracking_uri: str | None, display: Display | None) -> Iterator[Session]:
    """Open a session, and deliver what was logged however it ends.

    `tracking_uri` comes before `MLFLOW_TRACKING_URI`, that before the workspace's own store. After an interruption
    the rest is delivered within `INTERRUPTED_CLOSE_SECONDS` or not at all.
    """
    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or workspace.mlflow_uri
    uploader = Uploader(uri, artifacts=workspace.artifacts, locks=workspace.locks)

    def close(kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            uploader.close()
            return
        interrupted = issubclass(kind, Interrupted | KeyboardInterrupt)
        with suppress(FttuneError, TimeoutError):  # the error to show is the first one
            uploader.close(INTERRUPTED_CLOSE_SECONDS if interrupted else None)

    with ExitStack() as stack:
        stack.push(close)
        session = Session(workspace, EventLog(uploader, *([display] if display else [])), uploader)
        if doubt := workspace.doubt():
            session.notice(str(workspace.mlruns), doubt)
        yield session
