"""Write files so that no half file is ever visible under its name, and say in one way that a disk is full or fails.

Standard library only.
"""

import errno
import os
import platform
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from fttune.errors import CannotWrite

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
FULL_BYTES = 1_000_000  # with less than this free, a disk is full whatever the error says that a library raises
ABANDONED_SECONDS = 24 * 3600.0
_TEMPORARY = re.compile(r"\..*\.(?P<process>\d+)@(?P<machine>[A-Za-z0-9-]*)\.tmp(\..*)?")


def write_atomically(file: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` fill a temporary file beside `file`, flush it to disk, and give it its name.

    Raises:
        OSError: the disk is full or the folder cannot be written; what stood under the name is untouched.
    """
    with replacing(file) as temporary:
        write(temporary)


def write_text(file: Path, text: str) -> None:
    """Write a text as UTF-8, atomically. Raises OSError as `write_atomically`."""
    write_atomically(file, lambda temporary: temporary.write_text(text, encoding="utf-8"))


@contextmanager
def replacing(file: Path, *, mode: int = 0o666, overwrite: bool = True) -> Iterator[Path]:
    """Hand out the path of a temporary file, which the block fills; at its end the file is flushed and gets its name.

    It is there already, empty and this process's own: what somebody else has put under its name, such as a link to
    another file, is not written through. `mode` is who may read it, less what the process's umask forbids. With
    `overwrite` False a file that is there by then stays, and the new one is dropped. A process that is killed leaves
    `.<stem>.<process id>@<machine>.tmp<suffix>` behind (`remove_leftovers`). Raises OSError as `write_atomically`.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(file)
    try:
        temporary.unlink(missing_ok=True)
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode))
        yield temporary
        flush(temporary)
        if overwrite:
            temporary.replace(file)
        else:
            _name_if_free(temporary, file)
        flush(file.parent)
    except OSError as error:
        if error.errno is not None:  # a write does not know its file, and nobody knows the temporary name
            error.filename, error.filename2 = str(file), None
        raise
    finally:
        with suppress(OSError):  # the error to show is the first one
            temporary.unlink(missing_ok=True)


def _name_if_free(temporary: Path, file: Path) -> None:
    try:
        file.hardlink_to(temporary)
    except FileExistsError:
        pass
    except OSError:  # a file system without links
        if not file.exists():
            temporary.replace(file)


def flush(path: Path) -> None:
    """Have a file's content, or a folder's names, on disk when this returns. Raises OSError."""
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


def linked(file: Path, target: Path) -> bool:
    """Give a file a second name, on disk, in place of what had it; return False where the file system cannot."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists() and target.samefile(file):
        return True
    try:
        target.unlink(missing_ok=True)
        target.hardlink_to(file)
        flush(target.parent)
    except OSError:  # another file system, or one without links
        return False
    return True


def second_name(file: Path, folder: Path) -> Path:
    """Give a file a second name in another folder, or copy it where the file system has no links; return that one."""
    target = folder / file.name
    if not linked(file, target):
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
    nearest = _nearest(path)
    return None if nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK) else nearest


def _nearest(path: Path) -> Path:
    """Return the path itself or the closest folder above it that is there."""
    return next(place for place in (path, *path.parents) if place.exists())


@contextmanager
def temporary_folder(parent: Path, stem: str) -> Iterator[Path]:
    """Hand out a new folder that is deleted at the end of the block, or by `remove_leftovers`. Raises OSError."""
    folder = _temporary(parent / stem)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Hand out the path of a folder that the block makes and fills; at its end all is flushed and it gets its name.

    Raises OSError: the disk is full, or there is something under the name; then nothing is left behind.
    """
    with temporary_folder(folder.parent, folder.name) as place:
        made = place / folder.name
        yield made
        for path in (*made.rglob("*"), made):
            flush(path)
        made.rename(folder)
        flush(folder.parent)


def remove_leftovers(folder: Path, *, apart_from: Path | None = None) -> None:
    """Delete below a folder, but for one in it, the temporary files and folders of processes that were killed.

    One of this machine goes when its process has ended. Of another machine that cannot be known: what it left goes when
    it has not changed for a day. Links are not followed.
    """
    for place, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = Path(place, name)
            found = _TEMPORARY.fullmatch(name)
            if found and path != apart_from:
                with suppress(OSError):  # another process may have deleted it
                    own = found["machine"] == _machine()
                    if _has_ended(int(found["process"])) if own else _is_abandoned(path):
                        shutil.rmtree(path) if name in folders else path.unlink()
        folders[:] = [name for name in folders if Path(place, name) != apart_from and not _TEMPORARY.fullmatch(name)]


def _temporary(path: Path) -> Path:
    """Return the name beside a path under which this process fills it; it says whose it is."""
    return path.with_name(f".{path.stem}.{os.getpid()}@{_machine()}.tmp{path.suffix}")


def _machine() -> str:
    return re.sub(r"[^A-Za-z0-9]", "-", platform.node())[:40]


def _has_ended(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # another user's
        return False
    return False


def _is_abandoned(file: Path) -> bool:
    return time.time() - file.stat().st_mtime > ABANDONED_SECONDS


def free_bytes(path: Path) -> int:
    """Return how many bytes may still be written on the disk where a file or folder lies, or would lie."""
    return shutil.disk_usage(_nearest(path)).free


def lacks_room(error: BaseException, path: Path) -> bool:
    """Return whether an error, or what caused it, says that a disk is full; else whether that of `path` is.

    Libraries wrap what the system says, and some leave it out.
    """
    causes = list(_causes(error))
    if any(getattr(one, "errno", None) in FULL for one in causes if isinstance(one, OSError)):
        return True
    if any(getattr(one, "sqlite_errorname", None) == "SQLITE_FULL" for one in causes):
        return True
    return free_bytes(path) < FULL_BYTES


def cannot_write(path: Path, error: BaseException) -> CannotWrite:
    """Return the error to raise where `path` could not be written: what it is, and what to do."""
    again = "then run the same command again, which goes on from there"
    if lacks_room(error, path):
        return CannotWrite(f"{path}: the disk is full ({free_bytes(path) / 1e6:.1f} MB free); free some of it, {again}")
    reason = next((text for one in _causes(error) if (text := _of_disk(one))), None)
    shown = reason or (str(error).splitlines() or [type(error).__name__])[0]
    return CannotWrite(f"{path}: cannot be read or written ({shown}); see to the disk and its permissions, {again}")


def is_of_disk(error: BaseException) -> bool:
    """Return whether an error comes from a disk, by what caused it: that of a local database, or the system's own."""
    return any(_of_disk(one) for one in _causes(error))


def _of_disk(error: BaseException) -> str | None:
    """Return what a disk said; an error of the network has no number, or is not the system's."""
    if isinstance(error, OSError) and not isinstance(error, ConnectionError) and error.errno is not None:
        return error.strerror
    return str(error) if hasattr(error, "sqlite_errorname") else None


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Turn an OSError of the block into a CannotWrite about `path`; torch's writers hide one in a RuntimeError."""
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error) from error
    except RuntimeError as error:
        if lacks_room(error, path):
            raise cannot_write(path, error) from error
        raise


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what it was raised from; SQLAlchemy keeps the database's own error as `orig`."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        original = getattr(error, "orig", None)
        error = original if isinstance(original, BaseException) else error.__cause__ or error.__context__
