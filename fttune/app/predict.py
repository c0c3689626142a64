"""What a checkpoint says of images: the class of each, and how sure it is."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from fttune.data import Geometry, Unreadable, decode_files, image_files
from fttune.models import load_model
from fttune.models.sidecar import sidecar_of
from fttune.training.device import best_device
from fttune.training.predictions import BATCH, probabilities


@dataclass(frozen=True)
class Prediction:
    """The likeliest class of an image and its probability (0 .. 1), or the reason why it cannot be read."""

    file: Path
    label: str | None = None
    probability: float | None = None
    problem: str | None = None


def predict(checkpoint: Path, paths: Sequence[Path], *, plugins: Sequence[Path] = ()) -> Iterator[Prediction]:
    """Yield a prediction for each image: files as they stand, and the images below each folder.

    They are resized, cropped and normalised as those that the checkpoint was trained on. `plugins` are as in
    `fttune.models.load_model`.

    Raises:
        WeightsError: the checkpoint is damaged, or not one that fttune wrote.
        DataError: a path is not there, or a folder holds no image.
    """
    model = load_model(checkpoint, plugins=plugins).to(best_device())
    sidecar = sidecar_of(checkpoint)
    assert sidecar is not None, "`load_model` has read it"
    own, classes = sidecar.preprocessing, sidecar.classes
    files = image_files(paths)
    decoded = zip(files, decode_files(files, Geometry(own.resize, own.crop, own.interpolation)), strict=True)
    while some := list(islice(decoded, BATCH)):
        readable = {file: pixels for file, pixels in some if not isinstance(pixels, Unreadable)}
        found = {}
        if readable:
            best = probabilities(model, own, np.stack(list(readable.values()))).max(1)
            found = dict(zip(readable, zip(best.indices.tolist(), best.values.tolist(), strict=True), strict=True))
        for file, pixels in some:
            if isinstance(pixels, Unreadable):
                yield Prediction(file, problem=pixels.reason)
            else:
                yield Prediction(file, classes[found[file][0]], found[file][1])
