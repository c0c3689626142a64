"""Write files so that no half file is ever visible under its name. Standard library only."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
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
def replacing(file: Path, *, mode: int = 0o666) -> Iterator[Path]:
    """Hand out the path of a temporary file, which the block fills; at its end the file is flushed and gets its name.

    It is there already, empty and this process's own: what somebody else has put under its name, such as a link to
    another file, is not written through. `mode` is who may read it, less what the process's umask forbids.

    A process that is killed leaves `.<stem>.<process id>.tmp<suffix>` behind. Raises OSError as `write_atomically`.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.stem}.{os.getpid()}.tmp{file.suffix}")
    try:
        temporary.unlink(missing_ok=True)
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode))
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


def private_folder(folder: Path) -> None:
    """Make a folder, and those above it that are missing, for their owner alone; what is there keeps its mode."""
    for place in [*reversed(folder.parents), folder]:
        if not place.is_dir():
            place.mkdir(mode=0o700, exist_ok=True)


def private_file(file: Path) -> None:
    """Make an empty file that its owner alone can read; one that is there keeps its mode, and its content."""
    with suppress(OSError):  # it is there; where it cannot be made, whoever opens it says so
        os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))


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
