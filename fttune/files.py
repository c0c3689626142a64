"""Write files so that no half file is ever visible under its name. Standard library only."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any


def write_atomically(file: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` fill a temporary file beside `file`, flush it to disk, and give it its name.

    Raises:
        OSError: the disk is full or the folder cannot be written; what stood under the name is untouched.
    """
    with replacing(file) as temporary:
        write(temporary)


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """Hand out the path of a temporary file, which the block fills; at its end the file is flushed and gets its name.

    A process that is killed leaves `.<stem>.<process id>.tmp<suffix>` behind. Raises OSError as `write_atomically`.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.stem}.{os.getpid()}.tmp{file.suffix}")
    try:
        yield temporary
        _flush(temporary)
        temporary.replace(file)
        _flush(file.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    with _opened(path) as descriptor:
        os.fsync(descriptor)


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY)  # a folder too
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def second_name(file: Path, folder: Path) -> Path:
    """Give a file a second name in another folder, or copy it where the file system has no links; return that one."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / file.name
    target.unlink(missing_ok=True)
    try:
        target.hardlink_to(file)
    except OSError:
        write_atomically(target, partial(shutil.copyfile, file))
    return target


def release(file: Path) -> None:
    """Let the system use the memory in which it keeps a flushed file that nobody is going to read soon.

    Where checkpoints follow each other, the next one is then written into memory that is there already.
    """
    if hasattr(os, "posix_fadvise"):  # not on macOS
        with _opened(file) as descriptor:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def obstacle(path: Path) -> Path | None:
    """Return what keeps a file or folder from being made at `path`, None when nothing does; makes nothing itself."""
    nearest = next(place for place in (path, *path.parents) if place.exists())
    return None if nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK) else nearest
