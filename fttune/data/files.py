"""Image files that belong to no data set: found, and decoded as a model takes them. Knows no labels."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from fttune.data.folders import images_below
from fttune.data.image_data import Geometry, Pixels
from fttune.data.images import Unreadable, decode, decoder_threads, in_order
from fttune.errors import DataError


def image_files(paths: Sequence[Path]) -> list[Path]:
    """Return the files among `paths` as they stand, and the images below each folder in natural order.

    Raises:
        DataError: a path is not there, or a folder holds no image.
    """
    if missing := [path for path in paths if not path.exists()]:
        raise DataError(f"{', '.join(map(str, missing))}: no such file or folder")
    found = {path: images_below(path) if path.is_dir() else [path] for path in paths}
    if empty := [path for path, files in found.items() if not files]:
        raise DataError(f"{', '.join(map(str, empty))}: holds no image")
    return [file for files in found.values() for file in files]


def decode_files(files: Iterable[Path], geometry: Geometry) -> Iterator[Pixels | Unreadable]:
    """Yield the pixels (side, side, 3) uint8 of each file, or why there are none; decodes a few ahead."""
    with decoder_threads() as pool:
        yield from in_order(pool, partial(_decoded, geometry=geometry), files)


def _decoded(file: Path, geometry: Geometry) -> Pixels | Unreadable:
    try:
        return decode(file, geometry, geometry.image_size)
    except OSError as error:
        return Unreadable(error.strerror or str(error))
