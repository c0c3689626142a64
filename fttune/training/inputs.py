"""What a run needs besides its recipe: decoded images and weights. Prepared once, shared by all runs that agree."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fttune.config import Experiment
from fttune.config.workspace import Workspace
from fttune.data import Geometry, ImageData, Part, load_data
from fttune.models import Weights, load_weights


@dataclass(frozen=True)
class Inputs:
    """Images as `data.geometry` cuts them, and the weights whose statistics normalise them."""

    data: ImageData
    weights: Weights
    geometry: Geometry

    def batch(self, part: Part, rows: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return images (B, 3, H, W) uint8 and labels (B,) int64 of some rows, on the device.

        The images are in channels-last order in memory, as they are stored.
        """
        images = torch.from_numpy(part.images[rows.numpy()]).permute(0, 3, 1, 2)
        return images.to(device, non_blocking=True), part.labels[rows].to(device, non_blocking=True)

    def normalise(self, images: Tensor) -> Tensor:
        """Return uint8 images as float32, shifted and scaled by the weights' own statistics."""
        own = self.weights.preprocessing
        # A tensor that is made on the device would wait for it.
        mean, std = (torch.tensor(c).view(1, 3, 1, 1).to(images.device, non_blocking=True) for c in (own.mean, own.std))
        return images.float().div_(255).sub_(mean).div_(std)


def geometry_of(experiment: Experiment, weights: Weights) -> Geometry:
    """Return how images become squares: the recipe's sizes, else the weights' own."""
    data, own = experiment.data, weights.preprocessing
    return Geometry(data.resize or own.resize_for(data.image_size), data.image_size, own.interpolation)


def prepare(experiment: Experiment, workspace: Workspace, *, weights_file: Path | None = None) -> Inputs:
    """Return the inputs of a recipe; `weights_file` stands in for `experiment:<name>`.

    Raises:
        WeightsError, DataError: what the recipe names cannot be used.
    """
    weights = load_weights(experiment.backbone, root=workspace.root, file=weights_file)
    geometry = geometry_of(experiment, weights)
    data = load_data(experiment.data, geometry, cache=workspace.cache, root=workspace.root)
    return Inputs(data, weights, geometry)
