"""Generated photographs for benchmarks: JPEG files of coloured textures, one kind per class, laid out by split.

Class c has gratings of its own direction, width and hue, under random phase, brightness and noise, so that a net can
learn it from some tens of images and errs sometimes. A function of its arguments alone; written once and kept.
"""

import math
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

WIDTH, HEIGHT = 250, 187
QUALITY = 90


def picture_folder(
    folder: Path, counts: dict[str, int], *, classes: range, noise: float = 30.0, width: int = WIDTH
) -> Path:
    """Return `folder` with `<split>/<class>/<number>.jpg`, `counts[split]` images in all; made when it is missing."""
    if folder.exists():
        return folder
    temporary = folder.with_name(folder.name + ".part")
    shutil.rmtree(temporary, ignore_errors=True)

    def write(place: int, split: str, index: int) -> None:
        label = classes[index % len(classes)]
        generator = np.random.default_rng([place, index, label])
        file = temporary / split / f"class{label:02d}" / f"{index:05d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(label, generator, noise=noise, width=width)).save(file, quality=QUALITY)

    wanted = [(place, split, index) for place, (split, n) in enumerate(counts.items()) for index in range(n)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(write, *zip(*wanted, strict=True)))
    temporary.rename(folder)
    return folder


def picture(label: int, generator: np.random.Generator, *, noise: float, width: int) -> npt.NDArray[np.uint8]:
    """Return one image (H, W, 3) of a class; `noise` is the spread of what hides it, in grey levels."""
    height = round(width * HEIGHT / WIDTH)
    angle = math.pi * (label * 0.31) + generator.normal(0, 0.15)
    period = width / (6 + 3 * (label % 4)) * generator.uniform(0.85, 1.15)
    y, x = np.mgrid[0:height, 0:width]
    wave = np.sin(2 * math.pi * (x * math.cos(angle) + y * math.sin(angle)) / period + generator.uniform(0, 6.28))
    hue = 2 * math.pi * (label * 0.618) + generator.normal(0, 0.35)
    colour = np.cos(hue + np.array([0, 2.09, 4.19]))  # (3,)
    base = generator.uniform(90, 160) + 30 * colour + 35 * wave[..., None] * (0.4 + colour)
    coarse = generator.normal(0, noise, (6, 8, 3)).clip(-120, 120)
    blobs = np.stack([_enlarged(coarse[..., channel], (width, height)) for channel in range(3)], axis=-1)
    return (base + blobs + generator.normal(0, noise / 3, (height, width, 3))).clip(0, 255).astype(np.uint8)


def _enlarged(values: npt.NDArray[np.float64], size: tuple[int, int]) -> npt.NDArray[np.float32]:
    return np.asarray(Image.fromarray(values.astype(np.float32)).resize(size, Image.Resampling.BICUBIC))
