"""Images in a CSV file with the columns path, label[, split][, group]. Opens no image."""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from fttune.config import known
from fttune.data.listing import SPLITS, Listing, Sample, lines
from fttune.errors import DataError, is_one_line, one_line

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Table:
    """The samples of a table's usable rows, and what is wrong with the others, each as `line n: ...`."""

    samples: tuple[Sample, ...]
    problems: tuple[str, ...]


def csv_samples(file: Path, *, group_by: str | None) -> Listing:
    """List the rows of `file`; paths are relative to its folder, lie below it, and name the samples.

    `group_by` names the column of groups; without it a column `group` is one.

    Raises:
        DataError: no such file, missing columns or values, unknown splits, missing images, a path that stands twice,
            is absolute or leads out of the folder, values with control characters.
    """
    table = read_table(file, group_by=group_by)
    if problems := table.problems:
        raise DataError(f"{file}: {len(problems)} rows cannot be used; correct or remove them{lines(problems)}")
    return Listing(table.samples, tuple(_notices(file, table)))


def read_table(file: Path, *, group_by: str | None) -> Table:
    """Return the usable rows and the problems of the others. Raises DataError: no such file, or missing columns."""
    frame = _read(file)
    group = group_by or ("group" if "group" in frame.columns else None)
    wanted = ["path", "label", *(["split"] if "split" in frame.columns else []), *([group] if group else [])]
    _require_columns(file, frame, wanted)
    found = [
        *_bad_values(frame, wanted),
        *_bad_splits(frame),
        *_bad_paths(frame, file.parent),
    ]
    usable = frame.drop(index=sorted({index for index, _ in found}))
    splits = usable["split"] if "split" in usable.columns else [None] * len(usable)
    groups = usable[group] if group else [None] * len(usable)
    rows = zip(usable["path"], usable["label"], splits, groups, strict=True)
    samples = tuple(Sample(_name(path), label, file.parent / path, s, g) for path, label, s, g in rows)
    return Table(samples, tuple(f"line {index + 2}: {problem}" for index, problem in found))


def links_out(samples: tuple[Sample, ...], folder: Path) -> list[str]:
    """Return the names of samples that are links to files outside of a folder."""
    home, found = folder.resolve(), []
    for sample in samples:
        assert isinstance(sample.image, Path), "a table names files"
        if sample.image.is_symlink() and not sample.image.resolve().is_relative_to(home):
            found.append(sample.name)
    return found


def _notices(file: Path, table: Table) -> Iterator[str]:
    if outside := links_out(table.samples, file.parent):
        rule = f"{len(outside)} links lead out of the folder, so its images may change without it"
        yield f"{one_line(str(file))}: {rule}: {', '.join(outside[:3])}"


def _name(path: str) -> str:
    """Return `path` without `./` and doubled slashes, so that a file has one name."""
    return PurePath(path).as_posix()


def _read(file: Path) -> "pd.DataFrame":
    """Return all cells as text: a class may be called 007 or NA."""
    import pandas as pd

    if not os.path.lexists(file):
        raise DataError(f"data.path is {file}, but there is no such file; create it or correct data.path")
    if not _is_file(file):
        raise DataError(f"data.path is {file}, but source csv needs a file; for a folder use source: folder")
    try:
        frame = pd.read_csv(file, dtype=str, keep_default_na=False, encoding="utf-8-sig", skipinitialspace=True)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{file} cannot be read as CSV ({str(error).strip()}); it must be UTF-8 text with commas"
        ) from error
    if not isinstance(frame.index, pd.RangeIndex):
        raise DataError(f"{file} has rows with more values than its header has columns; name every column")
    return frame


def _require_columns(file: Path, frame: "pd.DataFrame", wanted: list[str]) -> None:
    if missing := [name for name in wanted if name not in frame.columns]:
        columns = ", ".join(map(_cut, frame.columns[:20]))
        near = known.did_you_mean(missing[0], frame.columns)
        raise DataError(f"{file} has the columns {columns}, but lacks {', '.join(missing)}; add them{near}")


def _bad_values(frame: "pd.DataFrame", wanted: list[str]) -> Iterator[tuple[int, str]]:
    for column in wanted:
        for index, value in _cells(frame, column):
            if not value.strip():
                yield index, f"{column} is empty"
            elif not is_one_line(value):
                yield index, f"{column} is {known.shown(value)}, but must have no control characters"
            elif len(value) > 1000:
                yield index, f"{column} is {known.shown(value)}, but must have at most 1000 characters"


def _bad_splits(frame: "pd.DataFrame") -> Iterator[tuple[int, str]]:
    for index, value in _cells(frame, "split") if "split" in frame.columns else ():
        if value.strip() and value not in SPLITS:
            yield index, f"split is {known.shown(value)}, but must be train, val or test"


def _bad_paths(frame: "pd.DataFrame", folder: Path) -> Iterator[tuple[int, str]]:
    seen: Counter[str] = Counter()
    for index, value in _cells(frame, "path"):
        seen[_name(value)] += 1
        if not value.strip() or not is_one_line(value):
            continue
        if seen[_name(value)] > 1:
            yield index, f"path {_cut(value)} stands twice"
        elif PurePath(value).is_absolute() or ".." in PurePath(value).parts:
            yield index, f"path {_cut(value)} must be relative and without .., since it lies below {folder}"
        elif not _is_file(folder / value):
            yield index, f"path {_cut(value)} is no file in {folder}"


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # such as a name that is too long
        return False


def _cut(value: str) -> str:
    return value if len(value) <= 200 else f"{value[:197]}..."


def _cells(frame: "pd.DataFrame", column: str) -> Iterator[tuple[int, str]]:
    return ((index, str(value)) for index, value in enumerate(frame[column]))
