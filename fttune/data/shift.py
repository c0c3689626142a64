"""Controlled changes of decoded images and labels, for studies of what transfers. Pure; knows no files.

Every formula is exact: it depends on neither a generator's version nor the other images.
"""

from functools import cache
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from fttune.config.data import Shift
from fttune.data.image_data import Pixels
from fttune.data.splits import hash_order


def changes_pixels(shift: Literal["none"] | Shift) -> bool:
    """Return whether images, and not labels alone, differ under a shift."""
    return shift != "none" and shift.label_flip is None


def shift_images(images: Pixels, shift: Literal["none"] | Shift) -> Pixels:
    """Return `images` (N, H, W, 3) uint8 under a shift, in a new array unless nothing changes.

    - `contrast` c: `c * (x - mean) + mean` with the mean of each image and channel, rounded and clipped to 0..255;
      ImageNet-C's formula (Hendrycks & Dietterich, ICLR 2019, arXiv 1903.12261).
    - `rotate` degrees: counter-clockwise about the centre, bilinear, black beyond the border.
    - `permute_pixels` seed: pixel i, row by row, is the one at the i-th of all positions p in the order of
      sha256("{seed}:{p}"); the same for all images of a size.
    """
    if not changes_pixels(shift) or shift == "none":
        return images
    if shift.contrast is not None:
        return _contrast(images, shift.contrast)
    if shift.rotate is not None:
        return _rotate(images, shift.rotate)
    assert shift.permute_pixels is not None, "a shift holds one of four kinds"
    count, height, width, channels = images.shape
    rows = images.reshape(count, height * width, channels)
    return rows[:, _permutation(height * width, shift.permute_pixels)].reshape(images.shape)


def shift_labels(labels: torch.Tensor, shift: Literal["none"] | Shift, *, classes: int) -> torch.Tensor:
    """Return `labels` (N,) int64 under a shift: `label_flip` makes y `classes - 1 - y`."""
    return classes - 1 - labels if shift != "none" and shift.label_flip else labels


def _contrast(images: Pixels, factor: float) -> Pixels:
    pixels = images.astype(np.float64)
    mean = pixels.mean(axis=(1, 2), keepdims=True)  # (N, 1, 1, 3)
    shifted: Pixels = np.rint(np.clip((pixels - mean) * factor + mean, 0, 255)).astype(np.uint8)
    return shifted


def _rotate(images: Pixels, degrees: float) -> Pixels:
    turned = [Image.fromarray(image).rotate(degrees, Image.Resampling.BILINEAR) for image in images]
    return np.stack([np.asarray(image) for image in turned]) if turned else images.copy()


@cache
def _permutation(positions: int, seed: int) -> npt.NDArray[np.intp]:
    return np.array(sorted(range(positions), key=lambda position: hash_order(str(position), seed)), dtype=np.intp)
