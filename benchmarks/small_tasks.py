"""Small fine-tuning tasks on which a plain study takes at most a minute, with the nets that they begin from.

Of images that cost nothing to read: `digits`, two each of the handwritten digits 5-9, from a net of the digits 0-4 (as
`experiments/digits.yaml`); `faint`, twenty of each digit at a tenth of its contrast, from a net of all digits;
`textures`, eight JPEG files of 80 x 60 pixels for each of five textures, from a net of five others. On plain's side,
digits stay in memory. Of photographs, JPEG files of 500 x 374 pixels, from the same net of five textures:
`photographs`, eight for each of five other textures; `few`, three for each; `noisy`, eight of each of the net's own
textures under seven times their noise. All with the ResNet-8 of 78 k parameters, which the plain program trains on the
source task: nothing is downloaded. Every task has a new head.
"""

import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_digits

from benchmarks.pictures import picture_folder
from benchmarks.plain_training import METRIC, Recipe, Task, Trainer
from fttune.models.cifar_resnet import cifar_resnet8

STAGES = (("conv1", "bn1"), ("layer1",), ("layer2",), ("layer3",))
HELD_OUT_SHARE = 0.4  # of each digit's images, for validation and again for test
SOURCE_RECIPE, SOURCE_EPOCHS = Recipe(0.03, 0.9, len(STAGES)), 20
TEXTURE_COUNTS = {"train": 40, "val": 150, "test": 500}
SOURCE_COUNTS = {"train": 400, "val": 100}
PHOTOGRAPH_COUNTS = {"val": 75, "test": 500}


def digits(folder: Path) -> Task:
    """New classes: two training images of each."""
    start = _digit_task(digit_folder(folder / "digits-0-4", range(5)), epochs=SOURCE_EPOCHS, batch_size=32)
    data = digit_folder(folder / "digits-5-9", range(5, 10), per_class=2)
    return _pretrained(start, _digit_task(data, epochs=6, batch_size=5))


def faint(folder: Path) -> Task:
    """A change of the input: digits at a tenth of their contrast."""
    start = _digit_task(digit_folder(folder / "digits-all", range(10)), epochs=SOURCE_EPOCHS, batch_size=32)
    data = digit_folder(folder / "digits-faint", range(10), per_class=20, contrast=0.1)
    return _pretrained(start, _digit_task(data, epochs=6, batch_size=32))


def textures(folder: Path) -> Task:
    """New classes as JPEG files, decoded in every epoch."""
    return _of_pictures(folder, picture_folder(folder / "textures-5-9", TEXTURE_COUNTS, classes=range(5, 10), width=80))


def photographs(folder: Path) -> Task:
    """The same as larger files, whose decoding takes most of plain's time."""
    return _of_photographs(folder, "photographs", range(5, 10), train=40)


def few(folder: Path) -> Task:
    """New classes, three training images of each."""
    return _of_photographs(folder, "few", range(5, 10), train=15)


def noisy(folder: Path) -> Task:
    """A change of the input: the source's classes under noise."""
    return _of_photographs(folder, "noisy", range(5), train=40, noise=200.0)  # grey levels; the source's have 30


TASKS = {
    "digits": digits,
    "faint": faint,
    "textures": textures,
    "photographs": photographs,
    "few": few,
    "noisy": noisy,
}


def digit_folder(folder: Path, classes: Iterable[int], *, per_class: int | None = None, contrast: float = 1.0) -> Path:
    """Return `folder` with PNG files of scikit-learn's digits by split and class; made when it is missing."""
    if folder.exists():
        return folder
    temporary = folder.with_name(folder.name + ".part")
    shutil.rmtree(temporary, ignore_errors=True)
    bunch = load_digits()
    for digit in classes:
        rows = np.flatnonzero(bunch.target == digit)
        held = round(HELD_OUT_SHARE * len(rows))
        train = rows[2 * held :][:per_class]
        for split, members in {"val": rows[:held], "test": rows[held : 2 * held], "train": train}.items():
            place = temporary / split / str(digit)
            place.mkdir(parents=True)
            for row in members:
                pixels = bunch.images[row] * (255 / 16)  # (8, 8) of 0..255
                pixels = (pixels - pixels.mean()) * contrast + pixels.mean()
                Image.fromarray(np.rint(pixels).clip(0, 255).astype(np.uint8)).save(place / f"{row:04d}.png")
    temporary.rename(folder)
    return folder


def _of_photographs(folder: Path, name: str, classes: range, *, train: int, noise: float = 30.0) -> Task:
    counts = {"train": train, **PHOTOGRAPH_COUNTS}
    return _of_pictures(folder, picture_folder(folder / name, counts, classes=classes, noise=noise, width=500))


def _of_pictures(folder: Path, data: Path) -> Task:
    source = picture_folder(folder / "textures-0-4", SOURCE_COUNTS, classes=range(5), width=80)
    task = Task(data, data, cifar_resnet8, STAGES, image_size=32, resize=32, epochs=5, batch_size=10)
    return _pretrained(replace(task, data=source, epochs=SOURCE_EPOCHS, batch_size=32, in_memory=True), task)


def _digit_task(data: Path, *, epochs: int, batch_size: int) -> Task:
    task = Task(data, data, cifar_resnet8, STAGES, image_size=8, resize=8, epochs=epochs, batch_size=batch_size)
    return replace(task, in_memory=True)


def _pretrained(source: Task, target: Task) -> Task:
    """Return the target with weights that the plain program has trained on the source; trained when missing."""
    file = source.data.with_suffix(".safetensors")
    if not file.exists():
        torch.manual_seed(0)
        random = file.with_suffix(".random")
        save_file(cifar_resnet8().state_dict(), str(random))
        trainer = Trainer(replace(source, weights=random))
        best = max(metrics[METRIC] for metrics in trainer.train(SOURCE_RECIPE))
        print(f"{file.stem}: the net to begin from reaches {best:.3f} on its own validation images")
        save_file(trainer.best, str(random))
        random.rename(file)
    return replace(target, weights=file)
