"""A folder of handwritten digits and a study over it whose trials come in a known order: for whole nights."""

from datetime import date
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from fttune.config import Study
from fttune.config.workspace import Workspace
from fttune.nightly.part import run_part
from tests.recipes import write_experiment, write_study

CLASSES = range(5)
POOR, GOOD = (0.002, 0.00201, 0.00202), 0.02  # learning rates: three that are as good as each other, and a better one


def write_digits(top: Path, *, each: int, first: int = 0) -> None:
    """Write images `first` to `each` of each class, as `<class>/<number>.png`."""
    found = load_digits()
    for label in CLASSES:
        for number, image in enumerate(found.images[found.target == label][first:each], start=first):
            file = top / str(label) / f"{number:03d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((image * 15.9).astype(np.uint8)).convert("RGB").save(file)


def write_night_study(root: Path, name: str = "digits", **fields: object) -> Path:
    """Write a study that tries the poor learning rates one by one, and then the good one; return its file."""
    data = {"source": "folder", "path": "digits", "image_size": 8, "resize": 8, "split": {"val": 0.25, "test": 0.35}}
    if not (root / "experiments" / "tiny.yaml").exists():
        write_experiment(root, data=data, training__epochs=2, training__batch_size=16)
    space = {"optimizer.lr": {"type": "categorical", "choices": [*POOR, GOOD]}}
    base = {"sampler": {"type": "grid"}, "confirm": {"top_k": 1, "seeds": 4}, "nightly": {"trials_per_night": 1}}
    return write_study(root, name, **{**base, "space": space, **fields})


class Inline:
    """Runs each study's part in this process, whatever its hours; `before` is called first, to break something."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.ran: list[str] = []

    def run(self, study: Study, night: date, hours: float) -> str | None:
        """Run a part."""
        assert hours > 0
        self.ran.append(study.name)
        run_part(study, night, workspace=self.workspace)
        return None
