"""Files at a URL of fsspec's, through which machines without a common folder exchange them.

Knows neither what they hold nor whether it is whole: who reads one verifies a checksum that it carries, or that came
another way. Standard library, and fsspec where it is used.
"""

import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fttune.errors import BadInput, CannotWrite, one_line
from fttune.files import FULL, cannot_write, private_folder, replacing

_PASSWORD = re.compile("(?<=//)[^/]*@")


class Mirror:
    """What lies below a URL, by names with `/` between their parts.

    A file gets its name when it is whole, where the file system can move files, or takes them as wholes as object
    stores do. All methods raise CannotWrite when the URL cannot be reached, read or written.

    Raises:
        BadInput: there is no such kind of URL, or its package is not installed.
    """

    def __init__(self, url: str) -> None:
        import fsspec

        self.shown = _PASSWORD.sub("***@", url)
        try:
            fs, base = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise BadInput(f"workers.shared: {self.shown} cannot be used ({one_line(str(error))})") from error
        self._fs: Any = fs
        self._base = base.rstrip("/")
        self._moves = type(fs).mv is not fsspec.AbstractFileSystem.mv  # else that is a copy, which is no use
        self._there: dict[str, tuple[int, int]] = {}  # size and time of the local file that a name stands for

    def push(self, file: Path, name: str) -> None:
        """Send a file, unless it is there as it is now. Raises FileNotFoundError when it is not here."""
        stamp = _stamp(file)
        if self._there.get(name) == stamp:
            return
        try:
            with self._told():
                self._put(file, self._place(name))
        except CannotWrite:
            file.stat()  # it may have been deleted meanwhile, and nothing else be wrong
            raise
        self._there[name] = stamp

    def pull(self, name: str, file: Path) -> bool:
        """Get a file in place of what is here; return whether there is one."""
        private_folder(file.parent)
        with self._told():
            try:
                with replacing(file) as temporary:
                    self._fs.get_file(self._place(name), str(temporary))
            except FileNotFoundError:
                return False
            except OSError as error:
                if error.errno in FULL:  # which reading can only be here
                    raise cannot_write(file, error) from error
                raise
        self._there[name] = _stamp(file)
        return True

    def push_folder(self, folder: Path, name: str) -> None:
        """Send the files that lie in a folder now, each JSON after what it may speak of; remove those that are gone.

        Only what this object has sent or got is removed.
        """
        found = {f"{name}/{file.name}": file for file in folder.iterdir() if _counts(file.name) and file.is_file()}
        for own, file in sorted(found.items(), key=lambda item: (item[1].suffix == ".json", item[0])):
            self.push(file, own)
        for own in [one for one in self._there if one.rpartition("/")[0] == name and one not in found]:
            self.remove(own)

    def pull_folder(self, name: str, folder: Path) -> None:
        """Get the files below a name that are not in the folder."""
        for own in self.names(name):
            if not (file := folder / own).exists():
                self.pull(f"{name}/{own}", file)

    def names(self, name: str) -> list[str]:
        """Return the names, relative to this one, of the files that lie below it."""
        place = self._place(name)
        with self._told():
            try:
                self._fs.invalidate_cache()  # listings, which other machines have changed meanwhile
                found = [one.removeprefix(place).lstrip("/") for one in self._fs.find(place)]
            except FileNotFoundError:
                return []
        return sorted(own for own in found if _counts(own.rpartition("/")[2]) and ".." not in own.split("/"))

    def remove(self, name: str = "") -> None:
        """Delete a file, or all that lies below a name; without one, all."""
        place = self._place(name)
        with self._told(), suppress(FileNotFoundError):
            self._fs.invalidate_cache()
            self._fs.rm(place, recursive=True)
        for own in [one for one in self._there if not name or one == name or one.startswith(f"{name}/")]:
            del self._there[own]

    def _put(self, file: Path, place: str) -> None:
        if not self._moves:
            self._fs.put_file(str(file), place)
            return
        folder, _, last = place.rpartition("/")
        self._fs.makedirs(folder, exist_ok=True)
        temporary = f"{folder}/.{last}.{uuid.uuid4().hex}.tmp"
        self._fs.put_file(str(file), temporary)
        self._fs.mv(temporary, place)

    def _place(self, name: str) -> str:
        return f"{self._base}/{name}" if name else self._base

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turn what a file system raises, which has errors of its own in each package, into CannotWrite."""
        try:
            yield
        except CannotWrite:
            raise
        except Exception as error:
            text = one_line(str(error)) or type(error).__name__
            raise CannotWrite(
                f"{self.shown}: cannot be read or written ({text}); see that all machines may do both there, "
                "then run the same command again, which goes on from there"
            ) from error


def _counts(name: str) -> bool:
    return not name.startswith(".")


def _stamp(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_size, status.st_mtime_ns
