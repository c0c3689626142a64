"""What a run needs besides its recipe: decoded images and weights. Prepared once, shared by all runs that agree."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from fttune.config import Experiment
from fttune.config.data import CrossValidation
from fttune.config.policy import EVERYTHING, resolve
from fttune.config.workspace import Workspace
from fttune.data import ArrayCache, Folds, Geometry, ImageData, Part, load_data, load_folds
from fttune.freezing import trained_names
from fttune.models import (
    Architecture,
    Backbone,
    Weights,
    architecture_of,
    find_architecture,
    load_weights,
    weights_of_module,
)
from fttune.training.activations import Activations
from fttune.training.resident import DeviceImages
from fttune.training.workbench import Workbench


@dataclass(frozen=True)
class Inputs:
    """Images as `data.geometry` cuts them, and the weights whose statistics normalise them.

    `architecture` is what they belong to; None where the recipe's `backbone.name` says all, without a plugin.
    `on_device` holds what of the images lives on devices; inputs that share it share them.
    `workbench` holds what their runs leave for each other. With `folds`, `data` are those of one of them.
    """

    data: ImageData
    weights: Weights
    geometry: Geometry
    architecture: Architecture | None = None
    on_device: DeviceImages = field(default_factory=DeviceImages, repr=False, compare=False)
    workbench: Workbench = field(default_factory=Workbench, compare=False, repr=False)
    folds: Folds | None = field(default=None, compare=False, repr=False)

    def of_fold(self, number: int) -> "Inputs":
        """Return the inputs of a fold, from 0, which share all with the others'; without folds there is one."""
        return self._of_folds[number]

    @cached_property
    def _of_folds(self) -> "tuple[Inputs, ...]":
        if self.folds is None:
            return (self,)
        return tuple(dataclasses.replace(self, data=data) for data in self.folds.data)

    def stages(self, experiment: Experiment) -> tuple[str, ...]:
        """Return the names of a recipe's stages, from the input to the output."""
        return self._own_stages if self.architecture else find_architecture(experiment.backbone.name).stages()

    @cached_property
    def _own_stages(self) -> tuple[str, ...]:
        assert self.architecture is not None, "asked before"
        return self.architecture.stages()

    def plain(self) -> "Inputs":
        """Return the same inputs for runs that leave nothing to each other, and keep no activations."""
        return dataclasses.replace(self, workbench=Workbench(activations=Activations(memory_bytes=0)))

    def batch(self, part: Part, rows: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return images (B, 3, H, W) uint8 and labels (B,) int64 of some rows, on the device.

        The images are in channels-last order in memory, as they are stored.
        """
        return self.on_device.of(part, device).batch(rows), part.labels_of(rows).to(device, non_blocking=True)

    def batches(self, part: Part, order: Sequence[Tensor], device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield what `batch` returns for each of `order`; on a GPU the next batch is on its way meanwhile."""
        for rows, images in zip(order, self.on_device.of(part, device).batches(order), strict=True):
            yield images, part.labels_of(rows).to(device, non_blocking=True)

    def normalise(self, images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return uint8 images as `dtype`, shifted and scaled by the weights' own statistics."""
        return self.weights.preprocessing.normalised(images, dtype)


def geometry_of(experiment: Experiment, weights: Weights) -> Geometry:
    """Return how images become squares: the recipe's sizes, else the weights' own."""
    data, own = experiment.data, weights.preprocessing
    return Geometry(data.resize or own.resize_for(data.image_size), data.image_size, own.interpolation)


def prepare(
    experiment: Experiment,
    workspace: Workspace,
    *,
    evaluation: CrossValidation | None = None,
    train_on_val: bool = False,
    weights_file: Path | None = None,
    module: nn.Module | None = None,
) -> Inputs:
    """Return the inputs of a recipe; `weights_file` stands in for `experiment:<name>`, `module` for the backbone.

    With `evaluation` they have folds, and are those of the first one. With `train_on_val` the validation samples train
    too, and nothing validates.

    Raises:
        BadInput: the backbone is not to be had, or its stages do not allow the policy (PolicyRefused).
        WeightsError, DataError: what the recipe names cannot be used.
    """
    if module is not None:
        architecture, weights = architecture_of(module), weights_of_module(module)
    else:
        architecture = find_architecture(experiment.backbone.name, workspace.plugins)
        weights = load_weights(experiment.backbone, root=workspace.root, file=weights_file)
    _check_policy(experiment, architecture)
    if architecture.identity:
        weights = dataclasses.replace(weights, identity=f"{weights.identity}, {architecture.identity}")
    geometry = geometry_of(experiment, weights)
    arrays = ArrayCache(workspace.arrays, workspace.cache_bytes, elsewhere=workspace.mirror("arrays"))
    places = {"cache": workspace.cache, "root": workspace.root}
    folds = load_folds(experiment.data, geometry, evaluation, arrays=arrays, **places) if evaluation else None
    if folds is not None:
        data = folds.data[0]
    else:
        data = load_data(experiment.data, geometry, arrays=arrays, train_on_val=train_on_val, **places)
    arrays.notices.clear()  # they are the data's now
    # What a module in hand computes is known by no name.
    activations = Activations(arrays if module is None else None)
    return Inputs(data, weights, geometry, architecture, workbench=Workbench(activations=activations), folds=folds)


def _check_policy(experiment: Experiment, architecture: Architecture) -> None:
    """Refuse a policy that the stages, or the names of the parameters, do not allow.

    The configuration knows neither for a backbone from timm or of one's own, nor any names of parameters.
    """
    policy = resolve(experiment.freeze, architecture.stages(), epochs=experiment.training.epochs)
    choosing = [phase for phase in policy.phases if phase.only != EVERYTHING]
    if choosing:
        module = architecture.sketch()
        parts = Backbone(architecture.name, module, architecture.cut(module), head_is_new=True).parts()
        for phase in choosing:
            trained_names(parts, policy, phase)
