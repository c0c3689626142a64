"""The data sets that torchvision ships, through its own classes.

Files and labels are found under the names that torchvision's classes give them; a class without them is read
through `dataset[index]`.
"""

import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any

from PIL import Image
from torchvision import datasets

from fttune.config import known
from fttune.data.listing import ImageSource, Listing, Sample
from fttune.errors import DataError
from fttune.files import private_folder

_FAILURES = (OSError, RuntimeError, ValueError, EOFError, AssertionError, HTTPException)
_BAD_ARCHIVE = (tarfile.TarError, zipfile.BadZipFile)


def torchvision_samples(source: str, *, folder: Path, test: bool = False) -> Listing:
    """List train and val of `torchvision:<Name>`, or all of a data set that has no splits of its own.

    `test` lists the test split that it ships instead, which is otherwise never constructed.
    What is not in `folder` yet is downloaded there. Samples are named by their path relative to `folder`, or
    `<Name>[index]` when the images lie in one big file.

    Raises:
        DataError: the files are absent or broken and could not be downloaded.
    """
    name = source.partition(":")[2]
    samples: list[Sample] = []
    for split, arguments in known.torchvision_datasets()[name].items():
        if (split == "test") == test:
            dataset = _construct(name, folder, arguments)
            prefix = f"{name}/{split}" if split in ("val", "test") else name
            samples += _samples(dataset, prefix, folder=folder, split=None if split == "all" else split)
    return Listing(tuple(samples))


def _construct(name: str, folder: Path, arguments: Mapping[str, Any]) -> Any:
    """Take what is there, else download: some classes refuse `download=True` even when nothing is missing."""
    build = partial(getattr(datasets, name), str(folder), **arguments)
    private_folder(folder)
    try:
        return build(download=False)
    except (*_FAILURES, *_BAD_ARCHIVE):
        pass
    try:
        return build(download=True)
    except (*_FAILURES, *_BAD_ARCHIVE) as error:
        raise DataError(
            f"torchvision:{name} is not complete in {folder}, and downloading it failed: "
            f"{str(error).strip() or type(error).__name__}; "
            f"put the files there as torchvision.datasets.{name} expects them, or try again with network access"
        ) from error


def _samples(dataset: Any, prefix: str, *, folder: Path, split: str | None) -> Iterator[Sample]:
    files = _files(dataset)
    for index, label in enumerate(_labels(dataset)):
        image: ImageSource = partial(_image, dataset, index) if files is None else files[index]
        name = f"{prefix}[{index}]" if files is None else files[index].relative_to(folder).as_posix()
        yield Sample(name, _class_name(dataset, label), image, split)


def _files(dataset: Any) -> list[Path] | None:
    for attribute in ("_image_files", "_images"):
        if hasattr(dataset, attribute):
            return [Path(file) for file in getattr(dataset, attribute)]
    for attribute in ("_samples", "samples"):
        if hasattr(dataset, attribute):
            return [Path(file) for file, _ in getattr(dataset, attribute)]
    return None


def _labels(dataset: Any) -> list[int]:
    for attribute in ("targets", "labels", "_labels", "y"):
        if hasattr(dataset, attribute):
            return [int(label) for label in getattr(dataset, attribute)]
    if hasattr(dataset, "_samples"):
        return [int(label) for _, label in dataset._samples]
    return [int(dataset[index][1]) for index in range(len(dataset))]


def _class_name(dataset: Any, label: int) -> str:
    """Return the class's name; Imagenette gives synonyms, and some data sets number their classes."""
    names = getattr(dataset, "classes", None) or getattr(dataset, "categories", None)
    if not names:
        return str(label)
    return str(names[label] if isinstance(names[label], str) else names[label][0])


def _image(dataset: Any, index: int) -> Image.Image:
    image: Image.Image = dataset[index][0]
    return image
