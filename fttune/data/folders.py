"""Images in folders: `<class>/<image>`, or `train|val|test/<class>/<image>`. Opens no file."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from torchvision.datasets.folder import IMG_EXTENSIONS

from fttune.data.listing import SPLITS, Listing, Sample, natural, some
from fttune.errors import DataError

_LIKE_SPLITS = {*SPLITS, "training", "valid", "validation", "dev", "testing"}


def folder_samples(top: Path) -> Listing:
    """List the images below `top`; a sample is named by its path relative to `top`.

    A class may have folders of its own; links to folders below it are not followed.

    Raises:
        DataError: no such folder, folder names that are nearly splits, a class without an image.
    """
    _require_folder(top)
    class_folders = _class_folders(top)
    samples: list[Sample] = []
    passed_over = [stray for folder in {top, *(c.parent for c, _ in class_folders)} for stray in _strays(folder)]
    empty: list[str] = []
    for folder, split in class_folders:
        files = list(_below(folder))
        images = [file for file in files if _is_image(file)]
        samples += [Sample(_name(file, top), folder.name, file, split) for file in images]
        passed_over += set(files).difference(images)
        empty += [] if images else [_name(folder, top)]
    if empty:
        names = some(sorted(empty), 8)
        raise DataError(f"{top} has no image in {names}, but a class folder holds at least one; fill or remove it")
    return Listing(tuple(samples), _notices(top, passed_over))


def images_below(folder: Path) -> list[Path]:
    """Return the image files at any depth below a folder, in natural order. Raises DataError when it is unreadable."""
    return sorted((file for file in _below(folder) if _is_image(file)), key=lambda file: natural(str(file)))


def _require_folder(top: Path) -> None:
    if not top.exists():
        raise DataError(f"data.path is {top}, but there is no such folder; create it or correct data.path")
    if not top.is_dir():
        raise DataError(f"data.path is {top}, but source folder needs a folder; for a table use source: csv")


def _class_folders(top: Path) -> list[tuple[Path, str | None]]:
    """Return every class folder with its split."""
    folders = _folders(top)
    names = {folder.name for folder in folders}
    if names <= set(SPLITS) and "train" in names:
        return [(inner, folder.name) for folder in folders for inner in _classes_of(folder)]
    if names and {name.lower() for name in names} <= _LIKE_SPLITS:
        raise DataError(
            f"{top} has the folders {some(sorted(names), 8)}, but splits are called train, val and test, and train "
            "must be there; rename the folders"
        )
    if "train" in names and (inner := sorted(_folders(top / "train"))):
        others = some(sorted(names - set(SPLITS)), 8)
        raise DataError(
            f"{top} has train/{inner[0].name}, as splits have, but also {others}; leave only train, val and test, "
            "or only class folders"
        )
    return [(folder, None) for folder in folders]


def _classes_of(split: Path) -> list[Path]:
    if classes := _folders(split):
        return classes
    raise DataError(f"{split} has no class folders, but a split holds <class>/<image>; fill or remove it")


def _below(folder: Path) -> Iterator[Path]:
    """Yield the files, and the links to folders, at any depth below `folder`."""
    for place, names, files in os.walk(folder, onerror=_unlistable):
        here = Path(place)
        names[:] = [name for name in names if not _is_hidden(name)]
        yield from (here / name for name in names if (here / name).is_symlink())
        yield from (here / name for name in files if not _is_hidden(name))


def _is_image(path: Path) -> bool:
    """Return False for pipes, devices and folders; a dangling link is kept, to be reported as unreadable."""
    may_be_read = path.is_file() or (path.is_symlink() and not path.exists())
    return path.name.lower().endswith(IMG_EXTENSIONS) and may_be_read


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _folders(folder: Path) -> list[Path]:
    return [entry for entry in _entries(folder) if entry.is_dir()]


def _strays(folder: Path) -> list[Path]:
    """Return what lies beside class folders instead of in one of them."""
    return [entry for entry in _entries(folder) if not entry.is_dir()]


def _entries(folder: Path) -> list[Path]:
    try:
        return [entry for entry in folder.iterdir() if not _is_hidden(entry.name)]
    except OSError as error:
        _unlistable(error)


def _unlistable(error: OSError) -> NoReturn:
    raise DataError(f"{error.filename} cannot be listed ({error.strerror}); make the folder readable or remove it")


def _name(path: Path, top: Path) -> str:
    return path.relative_to(top).as_posix()


def _notices(top: Path, passed_over: list[Path]) -> tuple[str, ...]:
    if not passed_over:
        return ()
    names = some(sorted(_name(path, top) for path in passed_over))
    return (f"{top}: passed over {len(passed_over)} that are no image file in a class folder: {names}",)
