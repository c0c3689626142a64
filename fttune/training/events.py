"""What happens during a run, as data in one append-only list. Training emits it; tracking and display consume it."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

STUDY_ID = "fttune.study_id"
WARM_START = "fttune.warm_start"  # the trials of other studies whose configurations a run began with
KEEP = "fttune.keep"  # a tag that people give a run whose checkpoint must stay
REMOVED = "fttune.removed"  # the tag that says what of a run is gone, and when it went


def _now() -> int:
    return time.time_ns() // 1_000_000


@dataclass(frozen=True)
class RunOpened:
    """A run begins, at `unix_ms`. `reopen` asks to continue the run that an earlier process left, if it is there.

    That is the run of the same key, and of the same `STUDY_ID` where the tags hold one: two studies of one name may
    share a tracking server.
    """

    name: str
    experiment: str
    parent: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    reopen: bool = False
    unix_ms: int = field(default_factory=_now, compare=False)


@dataclass(frozen=True)
class Described:
    """Facts that are known only once a run has started: device, sizes, versions. Values become tags."""

    tags: Mapping[str, str]


@dataclass(frozen=True)
class EpochEnded:
    """Metrics of one epoch, counted from 1; `unix_ms` is when it ended.

    `unsettled` is how many of the epochs so far lie before the last phase of the policy, `phase` the place of its own
    phase there, from 0. `micro_batches` is how many pieces a batch was made of at its end, for lack of memory.
    """

    epoch: int
    metrics: Mapping[str, float]
    unix_ms: int = field(default_factory=_now)
    unsettled: int = 0
    phase: int = 0
    micro_batches: int = 1


@dataclass(frozen=True)
class FileSaved:
    """A file that belongs to the run, to be stored under `folder` of its artifacts."""

    path: Path
    folder: str


@dataclass(frozen=True)
class ModelSaved:
    """The checkpoint to keep as a loadable model: its file, the size of its images in pixels, and what defines it."""

    checkpoint: Path
    image_size: int
    plugins: tuple[Path, ...] = ()


@dataclass(frozen=True)
class RunClosed:
    """A run ends, at `unix_ms`: complete, pruned, failed, diverged, out_of_memory or interrupted."""

    state: str
    tags: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    unix_ms: int = field(default_factory=_now, compare=False)


@dataclass(frozen=True)
class CheckpointExpired:
    """The checkpoint of a trial's closed run is to be deleted, and why; one that people pinned (`KEEP`) stays.

    The run is the one of this key, experiment and `STUDY_ID`, which another process may have logged.
    """

    experiment: str
    study_id: str
    why: str


@dataclass(frozen=True)
class StudyProgress:
    """How far a study is; `best` is None until a trial is complete. For people only."""

    done: int
    total: int
    best: float | None


@dataclass(frozen=True)
class Notice:
    """Something that people should be told once. For people only."""

    text: str


Event = (
    RunOpened | Described | EpochEnded | FileSaved | ModelSaved | RunClosed | CheckpointExpired | StudyProgress | Notice
)


@dataclass(frozen=True)
class Entry:
    """An event and the key of its run, such as `pets` or `pets/7`."""

    run: str
    event: Event


class EventLog:
    """An append-only list; each listener is called with each entry, in order, by the thread that appends it."""

    def __init__(self, *listeners: Callable[[Entry], None]) -> None:
        self.entries: list[Entry] = []
        self._listeners = listeners

    def append(self, run: str, event: Event) -> None:
        """Add an event of a run."""
        self.entries.append(entry := Entry(run, event))
        for listener in self._listeners:
            listener(entry)
