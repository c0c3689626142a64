"""Images in folders: `<class>/<image>`, or `train|val|test/<class>/<image>`. Opens no file."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from torchvision.datasets.folder import IMG_EXTENSIONS

from fttune.config.known import shown
from fttune.data.listing import SPLITS, Listing, Sample, natural, some
from fttune.errors import DataError, is_one_line, one_line

_LIKE_SPLITS = {*SPLITS, "training", "valid", "validation", "dev", "testing"}


@dataclass(frozen=True)
class Tree:
    """What lies below a folder: samples, and all that is odd about it, whether it can be used or not.

    `passed_over` are neither images nor folders that are read: other files, pipes, links to folders below a class;
    `hidden` are not looked into. `empty` are class folders without an image, `loops` links that are class folders and
    hold themselves, `unnameable` what has a name that no table or store takes, `outside` links that lead out.
    """

    samples: tuple[Sample, ...]
    passed_over: tuple[Path, ...] = ()
    hidden: tuple[Path, ...] = ()
    empty: tuple[Path, ...] = ()
    loops: tuple[Path, ...] = ()
    unnameable: tuple[Path, ...] = ()
    outside: tuple[Path, ...] = ()


def folder_samples(top: Path) -> Listing:
    """List the images below `top`; a sample is named by its path relative to `top`.

    A class may have folders of its own; links to folders below it are not followed.

    Raises:
        DataError: no such folder, folder names that are nearly splits, a class without an image, a link to a folder
            that holds it, names with control characters or that are not UTF-8.
    """
    tree = read_tree(top)
    for paths, rule in (
        (tree.unnameable, "has names with control characters or that are not UTF-8: {}; rename them"),
        (tree.loops, "has class folders that are links to a folder which holds them: {}; remove the links"),
        (tree.empty, "has no image in {}, but a class folder holds at least one; fill or remove it"),
    ):
        if paths:
            raise DataError(f"{one_line(str(top))} {rule.format(some(_names(paths, top), 8))}")
    return Listing(tree.samples, tuple(_notices(tree, top)))


def read_tree(top: Path) -> Tree:
    """Return what lies below `top`. Raises DataError for no such folder, and names that are nearly splits."""
    _require_folder(top)
    class_folders = _class_folders(top)
    walk = _Walk()
    for folder in {top, *(c.parent for c, _ in class_folders)}:
        walk.look_beside_classes(folder)
    samples: list[Sample] = []
    empty, loops = [], []
    for folder, split in class_folders:
        walk.names(folder)
        if _holds_itself(folder):
            loops.append(folder)
            continue
        images = walk.images(folder)
        samples += [Sample(_name(file, top), folder.name, file, split) for file in images]
        empty += [] if images else [folder]
    folders = {path for folder, _ in class_folders for path in (folder, folder.parent)} - {top, *loops}
    home = top.resolve()
    outside = [path for path in (*folders, *walk.found) if path.is_symlink() and _leads_out(path, home)]
    return Tree(
        tuple(samples),
        *(tuple(sorted(paths)) for paths in (walk.passed_over, walk.hidden, empty, loops, walk.unnameable, outside)),
    )


def images_below(folder: Path) -> list[Path]:
    """Return the image files at any depth below a folder, in natural order. Raises DataError when it is unreadable."""
    return sorted(_Walk().images(folder), key=lambda file: natural(str(file)))


@dataclass
class _Walk:
    """Looks into folders and notes what it meets; `found` are the image files."""

    found: list[Path] = field(default_factory=list)
    passed_over: list[Path] = field(default_factory=list)
    hidden: list[Path] = field(default_factory=list)
    unnameable: list[Path] = field(default_factory=list)

    def look_beside_classes(self, folder: Path) -> None:
        """Note what lies beside class folders instead of in one of them."""
        for entry in _entries(folder):
            if _is_hidden(entry.name):
                self.hidden.append(entry)
            elif not entry.is_dir():
                self.names(entry)
                self.passed_over.append(entry)

    def images(self, folder: Path) -> list[Path]:
        """Return the images at any depth below a folder, and note what else lies there."""
        files = list(self._below(folder))
        images = [file for file in files if _is_image(file)]
        self.found += images
        self.passed_over += set(files).difference(images)
        return images

    def names(self, path: Path) -> None:
        """Note a path whose own name cannot be used."""
        if not is_one_line(path.name):
            self.unnameable.append(path)

    def _below(self, folder: Path) -> Iterator[Path]:
        """Yield the files, and the links to folders, at any depth below `folder`."""
        for place, names, files in os.walk(folder, onerror=_unlistable):
            here = Path(place)
            self.hidden += [here / name for name in (*names, *files) if _is_hidden(name)]
            names[:] = [name for name in names if not _is_hidden(name)]
            for name in names:
                self.names(here / name)
                if (here / name).is_symlink():
                    yield here / name
            for name in files:
                if not _is_hidden(name):
                    self.names(here / name)
                    yield here / name


def _require_folder(top: Path) -> None:
    try:
        top.stat()
    except FileNotFoundError:
        raise DataError(f"data.path is {top}, but there is no such folder; create it or correct data.path") from None
    except OSError as error:
        raise DataError(f"data.path is {shown(str(top))}, but cannot be read ({error.strerror}); correct it") from None
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
    if nested := _shared_classes(folders):
        others = some(sorted(names - set(SPLITS)), 8)
        raise DataError(
            f"{top} has {nested}, as splits have, but also {others}; leave only train, val and test, "
            "or only class folders"
        )
    return [(folder, None) for folder in folders]


def _shared_classes(folders: Iterable[Path]) -> str | None:
    """Return a folder below one that is named like a split: below train, or the same one below two of them."""
    seen: set[str] = set()
    for split in sorted(folder for folder in folders if folder.name.lower() in _LIKE_SPLITS):
        inner = sorted(folder.name for folder in _folders(split))
        shared = inner if split.name == "train" else [name for name in inner if name in seen]
        if shared:
            return f"{split.name}/{shared[0]}"
        seen |= set(inner)
    return None


def _classes_of(split: Path) -> list[Path]:
    if classes := _folders(split):
        return classes
    raise DataError(f"{split} has no class folders, but a split holds <class>/<image>; fill or remove it")


def _is_image(path: Path) -> bool:
    """Return False for pipes, devices and folders; a dangling link is kept, to be reported as unreadable."""
    may_be_read = path.is_file() or (path.is_symlink() and not path.exists())
    return path.name.lower().endswith(IMG_EXTENSIONS) and may_be_read


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _folders(folder: Path) -> list[Path]:
    return [entry for entry in _entries(folder) if entry.is_dir() and not _is_hidden(entry.name)]


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError as error:
        _unlistable(error)


def _unlistable(error: OSError) -> NoReturn:
    raise DataError(f"{error.filename} cannot be listed ({error.strerror}); make the folder readable or remove it")


def _holds_itself(folder: Path) -> bool:
    """Return whether a folder is a link to one that it lies in."""
    return folder.is_symlink() and folder.parent.resolve().is_relative_to(folder.resolve())


def _leads_out(link: Path, home: Path) -> bool:
    try:
        return not link.resolve().is_relative_to(home)
    except (OSError, RuntimeError):  # a loop, which nothing can be read through
        return False


def _name(path: Path, top: Path) -> str:
    return path.relative_to(top).as_posix()


def _names(paths: Iterable[Path], top: Path) -> list[str]:
    return sorted(_name(path, top) for path in paths)


def _notices(tree: Tree, top: Path) -> Iterator[str]:
    for paths, what in (
        (tree.passed_over, "passed over {} that are no image file in a class folder"),
        (tree.outside, "{} links lead out of the folder, so its images may change without it"),
    ):
        if paths:
            yield f"{one_line(str(top))}: {what.format(len(paths))}: {some(_names(paths, top))}"
