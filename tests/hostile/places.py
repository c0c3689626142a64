"""What hostile cases begin with: a sound recipe, study, folder of images, table and checkpoint in a folder."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from fttune.models import build_backbone
from fttune.models.files import write_tensors
from fttune.models.weights import Weights
from tests.recipes import write_experiment, write_study

PIXELS = np.random.default_rng(0)
SIDE = 24
EXPERIMENT, STUDY = "experiments/tiny.yaml", "studies/tiny.yaml"


def prepare(root: Path) -> None:
    """Write the recipe and the study; `pets`, a table of it and a checkpoint are made by the cases that need them."""
    write_study(root)


def recipe(root: Path, **dotted: Any) -> Path:
    """Write the recipe with other values."""
    return write_experiment(root, **dotted)


def picture(file: Path, size: tuple[int, int] = (SIDE, SIDE), **options: Any) -> Path:
    """Write random pixels in the format of the name."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(PIXELS.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(file, **options)
    return file


def pets(root: Path, *classes: str, each: int = 6) -> Path:
    """Write a folder of two classes, and the recipe for it."""
    for label in classes or ("cat", "dog"):
        for index in range(each):
            picture(root / "pets" / label / f"{index}.png")
    data = {"source": "folder", "path": "pets", "image_size": 16, "split": {"val": 0.3, "test": 0.0}}
    recipe(root, data=data)
    return root / "pets"


def table(root: Path, text: str | bytes) -> Path:
    """Write a table beside images of two classes, and the recipe for it."""
    pets(root)
    recipe(root, data={"source": "csv", "path": "pets/table.csv", "image_size": 16, "split": {"val": 0.3, "test": 0.0}})
    file = root / "pets" / "table.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def rows() -> str:
    """Return the rows of a sound table."""
    lines = [f"{label}/{index}.png,{label}" for label in ("cat", "dog") for index in range(6)]
    return "path,label\n" + "\n".join(lines) + "\n"


def checkpoint(root: Path, *, classes: int = 3) -> Path:
    """Write a sound checkpoint with its JSON, a recipe that begins with it, and an image."""
    names = tuple(map(str, range(classes)))
    state = build_backbone("cifar_resnet8", Weights(None, "none"), classes=names, seed=0).module.state_dict()
    preprocessing = {
        "resize": 8,
        "crop": 8,
        "interpolation": "bilinear",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
    }
    recipe_of = {"backbone": {"name": "cifar_resnet8"}}
    about = {"experiment": recipe_of, "classes": list(names), "preprocessing": preprocessing}
    write_tensors(root / "w.safetensors", state, about)
    use(root, "w.safetensors")
    picture(root / "x.png")
    return root / "w.safetensors"


def use(root: Path, name: str) -> None:
    """Write the recipe that begins with a file of weights."""
    recipe(root, backbone__weights=name)


def edit(file: Path, **fields: Any) -> None:
    """Change fields of a checkpoint's JSON; a dotted one by `__`."""
    about = json.loads(file.with_suffix(".json").read_text())
    for dotted, value in fields.items():
        *sections, leaf = dotted.split("__")
        place = about
        for section in sections:
            place = place[section]
        place[leaf] = value
    file.with_suffix(".json").write_text(json.dumps(about))


def saved(root: Path, content: object, name: str = "w.pth", *, legacy: bool = False) -> Path:
    """Save something as torch does, without a JSON, and the recipe that begins with it."""
    torch.save(content, root / name, _use_new_zipfile_serialization=not legacy)
    use(root, name)
    picture(root / "x.png")
    return root / name


def state() -> dict[str, torch.Tensor]:
    """Return the tensors of a sound checkpoint."""
    names = ("0", "1", "2")
    return dict(build_backbone("cifar_resnet8", Weights(None, "none"), classes=names, seed=0).module.state_dict())
