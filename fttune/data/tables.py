"""Images in a CSV file with the columns path, label[, split][, group]. Opens no image."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from fttune.config import known
from fttune.data.listing import SPLITS, Listing, Sample, lines
from fttune.errors import DataError

if TYPE_CHECKING:
    import pandas as pd


def csv_samples(file: Path, *, group_by: str | None) -> Listing:
    """List the rows of `file`; paths are relative to its folder, and name the samples.

    `group_by` names the column of groups; without it a column `group` is one.

    Raises:
        DataError: no such file, missing columns or values, unknown splits, missing images, a path that stands twice.
    """
    frame = _read(file)
    group = group_by or ("group" if "group" in frame.columns else None)
    wanted = ["path", "label", *(["split"] if "split" in frame.columns else []), *([group] if group else [])]
    _require_columns(file, frame, wanted)
    if problems := [*_missing_values(frame, wanted), *_bad_splits(frame), *_bad_paths(frame, file.parent)]:
        raise DataError(f"{file}: {len(problems)} rows cannot be used; correct or remove them{lines(problems)}")
    splits = frame["split"] if "split" in frame.columns else [None] * len(frame)
    groups = frame[group] if group else [None] * len(frame)
    rows = zip(frame["path"], frame["label"], splits, groups, strict=True)
    return Listing(tuple(Sample(_name(path), label, file.parent / path, s, g) for path, label, s, g in rows))


def _name(path: str) -> str:
    """Return `path` without `./` and doubled slashes, so that a file has one name."""
    return PurePath(path).as_posix()


def _read(file: Path) -> "pd.DataFrame":
    """Return all cells as text: a class may be called 007 or NA."""
    import pandas as pd

    if not file.exists():
        raise DataError(f"data.path is {file}, but there is no such file; create it or correct data.path")
    if not file.is_file():
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
        columns = ", ".join(frame.columns)
        near = known.did_you_mean(missing[0], frame.columns)
        raise DataError(f"{file} has the columns {columns}, but lacks {', '.join(missing)}; add them{near}")


def _missing_values(frame: "pd.DataFrame", wanted: list[str]) -> Iterator[str]:
    for column in wanted:
        for line, value in _cells(frame, column):
            if not value.strip():
                yield f"line {line}: {column} is empty"


def _bad_splits(frame: "pd.DataFrame") -> Iterator[str]:
    for line, value in _cells(frame, "split") if "split" in frame.columns else ():
        if value.strip() and value not in SPLITS:
            yield f"line {line}: split is {value!r}, but must be train, val or test"


def _bad_paths(frame: "pd.DataFrame", folder: Path) -> Iterator[str]:
    seen: Counter[str] = Counter()
    for line, value in _cells(frame, "path"):
        seen[_name(value)] += 1
        if value.strip() and seen[_name(value)] == 2:
            yield f"line {line}: path {value} stands twice"
        elif value.strip() and not (folder / value).is_file():
            yield f"line {line}: path {value} is no file in {folder}"


def _cells(frame: "pd.DataFrame", column: str) -> Iterator[tuple[int, str]]:
    return ((index + 2, str(value)) for index, value in enumerate(frame[column]))
