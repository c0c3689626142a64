"""Whether `trial/seconds` says what a training takes where nothing is shared.

The work: every depth of a ResNet-18 on generated pictures of 64 pixels, trained without kept activations or a cohort.
The baseline: the clock, over the fastest of some epochs after the first. Prints both, and the ratio.
"""

import argparse
import tempfile
from pathlib import Path

import torch

from benchmarks.pictures import picture_folder
from fttune.config import Experiment
from fttune.config.workspace import Workspace
from fttune.training import Costs, fine_tune, prepare

EPOCHS = 3


def main() -> None:
    """Measure every depth."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=64, help="for training; half as many for validation")
    images = parser.parse_args().images
    print(f"{torch.get_num_threads()} threads, {images} images")
    print("unfrozen stages  epoch by trial/seconds  epoch by the clock  ratio")
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace.at(Path(folder))
        picture_folder(
            Path(folder) / "data", {"train": images, "val": images // 2, "test": 2}, classes=range(2), width=80
        )
        base = Experiment.model_validate(
            {
                "data": {"source": "folder", "path": "data", "image_size": 64, "resize": 64},
                "backbone": {"name": "resnet18", "weights": "none"},
                "optimizer": {"lr": 0.01},
                "training": {"epochs": EPOCHS, "batch_size": 16},
            }
        )
        inputs = prepare(base, workspace)
        for depth in range(6):
            recipe = base.replace({"freeze.unfrozen_stages": depth})
            result = fine_tune(recipe, inputs.plain())
            clock = min(ended.metrics["epoch_seconds"] for ended in result.epochs[1:])
            cost = Costs().of(recipe, inputs, result.epochs).seconds / EPOCHS
            print(f"{depth:15d}  {cost:22.3f}  {clock:18.3f}  {cost / clock:5.2f}")


if __name__ == "__main__":
    main()
