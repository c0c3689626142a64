"""From `data.source` to a listing of samples. Decides neither splits nor classes, and reads no image file."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from fttune.config.data import Data
from fttune.config.known import torchvision_datasets
from fttune.data.folders import folder_samples
from fttune.data.image_data import Pixels
from fttune.data.listing import Listing, Sample
from fttune.data.tables import csv_samples
from fttune.data.torchvision_sets import torchvision_samples


def list_samples(data: Data, *, root: Path, cache: Path) -> Listing:
    """Return what `data.source` offers; `data.path` is relative to `root`, downloads go to `cache`.

    Raises:
        DataError: the source is missing or its layout is broken.
    """
    return SOURCES[data.source.partition(":")[0]](data, root, cache)


def ships_test(data: Data) -> bool:
    """Return whether a data set of torchvision has a test split apart from its other samples."""
    return "test" in torchvision_datasets().get(data.source.partition(":")[2], {})


def shipped_test_samples(data: Data, *, cache: Path) -> tuple[Sample, ...]:
    """Return the test split that a data set ships apart from its other samples. Raises DataError."""
    if not ships_test(data):
        return ()
    return torchvision_samples(data.source, folder=cache / "datasets", test=True).samples


def digits() -> Listing:
    """List scikit-learn's 1,797 handwritten digits, 8 x 8 pixels with values 0..16, as `digits[index]`."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    return Listing(
        tuple(
            Sample(f"digits[{index}]", str(label), partial(_grey, pixels[index]))
            for index, label in enumerate(bunch.target)
        )
    )


def _grey(pixels: Pixels) -> Image.Image:
    return Image.fromarray(pixels)


SOURCES: Mapping[str, Callable[[Data, Path, Path], Listing]] = {
    "digits": lambda _data, _root, _cache: digits(),
    "folder": lambda data, root, _cache: folder_samples(root / str(data.path)),
    "csv": lambda data, root, _cache: csv_samples(root / str(data.path), group_by=data.split.group_by),
    "torchvision": lambda data, _root, cache: torchvision_samples(data.source, folder=cache / "datasets"),
}
