"""Files of runs that go through a URL: from a worker's machine to the search's, and back.

Each lies there under a name that is used once, and that its receiver is told with its checksum. So what an attempt
that was given up still sends is never taken for what the next one has sent.
"""

import hashlib
import uuid
from dataclasses import dataclass
from pathlib import Path

from fttune.errors import CannotWrite
from fttune.mirror import Mirror

FOLDER = "files"  # at the URL


@dataclass(frozen=True)
class Parcel:
    """A file at the URL: its name there, its sha256, and where it belongs below its receiver's folder."""

    name: str
    sha256: str
    place: str


def sent(mirror: Mirror, file: Path, place: str) -> Parcel:
    """Send a file. Raises CannotWrite."""
    parcel = Parcel(f"{FOLDER}/{uuid.uuid4().hex}-{file.name}", _sha256(file), place)
    mirror.push(file, parcel.name)
    return parcel


def received(mirror: Mirror, parcel: Parcel, folder: Path) -> Path:
    """Get a file, which stays at the URL, and return it. Raises CannotWrite when it is not there as it was sent."""
    file = folder / parcel.place
    if not mirror.pull(parcel.name, file) or _sha256(file) != parcel.sha256:
        raise CannotWrite(
            f"{mirror.shown}: {parcel.name} is not there as it was sent; see that nobody else writes or deletes there, "
            "then run the same command again, which goes on from there"
        )
    return file


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
