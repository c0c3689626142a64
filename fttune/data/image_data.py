"""What the data room hands out. Plain data; knows neither sources nor decoding."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from fttune.data.manifest import EMPTY, Manifest

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Geometry:
    """How any image becomes a square of pixels.

    `resize` is the shorter side before the centre crop, in pixels, and at least `image_size`;
    `interpolation` is the value of a `torchvision.transforms.InterpolationMode`, such as `"bilinear"`.
    """

    resize: int
    image_size: int
    interpolation: str


@dataclass(frozen=True)
class Part:
    """One split, decoded: `images` (views * N, H, W, 3) uint8, which cannot be written to, and `labels` (N,) int64.

    A part may hold some of these only: `members` (n,) int64 are the numbers of its samples, in order, None for all N.
    So folds share one array, and what is computed of it.

    The images are memory-mapped unless there was no room on disk. `names` are paths relative to the data, or
    `<data set>[index]`. The order is that of the names, so it depends neither on the file system nor on the rows of a
    table. `key` is a sha256 in hex that stands for all pixels and their order, whatever the labels and names.
    Row v * N + i of the images is view v of sample i; only training images have more than one view.
    """

    images: Pixels
    labels: torch.Tensor
    names: tuple[str, ...]
    key: str
    views: int = 1
    members: torch.Tensor | None = None

    def __len__(self) -> int:
        """Return how many samples the part holds."""
        return len(self.labels) if self.members is None else len(self.members)

    @property
    def samples(self) -> torch.Tensor:
        """The numbers (n,) of its samples, which are the rows of their first views."""
        return torch.arange(len(self.labels)) if self.members is None else self.members

    @property
    def own_labels(self) -> torch.Tensor:
        """The labels (n,) of its samples."""
        return self.labels if self.members is None else self.labels[self.members]

    def labels_of(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the labels (B,) of some rows (B,) of the images."""
        return self.labels[rows % len(self.labels)]


@dataclass(frozen=True)
class ImageData:
    """Decoded train and val images under `data.shift`, and what is known of the sealed test split.

    `classes[label]` is a class's name. `n_test` counts the test images, which nothing here opens; it is 0 without
    a test split and also for the test split that a torchvision data set ships, which is not even listed.
    `fingerprint` is a sha256 in hex of the content, whatever the paths, the listing order and the geometry.
    `notices` are to be shown to the user once. `also` holds the validation images under each shift of
    `data.also_evaluate` by its name, which the fingerprint does not know. `manifest` lists the images of all splits,
    those too that `data.limit_per_class` leaves out.
    """

    classes: tuple[str, ...]
    train: Part
    val: Part | None
    n_test: int
    fingerprint: str
    notices: tuple[str, ...]
    also: Mapping[str, Part] = field(default_factory=dict)
    manifest: Manifest = field(default=EMPTY, repr=False)


@dataclass(frozen=True)
class Folds:
    """The data of each fold, one repeat after the other; `assigned[repeat][sample]` is where a sample validates."""

    data: tuple[ImageData, ...]
    assigned: tuple[tuple[int, ...], ...]

    def digest(self) -> str:
        """Return the sha256 of which sample validates where, in hex."""
        val = self.data[0].val
        assert val is not None, "a fold validates"
        return hashlib.sha256(json.dumps([val.names, self.assigned]).encode()).hexdigest()
