"""The right to do something alone on this machine, whose owner others are told of."""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from fttune.errors import StudyBusy
from fttune.files import private_folder, write_text


@contextmanager
def held_alone(file: Path, doing: str) -> Iterator[None]:
    """Hold a lock file; the operating system frees it when its owner dies. `doing` says what is done under it.

    Raises:
        StudyBusy: another process holds it.
        CannotWrite: the disk is full or fails.
    """
    private_folder(file.parent)
    lock, owner = FileLock(file), file.with_suffix(".owner")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        who = "another process"
        with suppress(OSError):
            who = owner.read_text(encoding="utf-8") or who
        raise StudyBusy(f"{doing} by {who}; wait for it, or stop it first") from None
    try:
        since = datetime.now().isoformat(" ", "seconds")
        write_text(owner, f"process {os.getpid()} on {platform.node()}, since {since}")
        yield
    finally:
        lock.release()
