"""Where a backbone's weights come from, and the preprocessing that they were trained with."""

import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import torch
import torchvision
from torch import Tensor

from fttune.config.sections import Backbone as BackboneConfig
from fttune.errors import WeightsError
from fttune.models.files import DAMAGED, read_sidecar, read_tensors, reason

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """What images looked like when the weights were made; sizes in pixels, `mean` and `std` of values in 0..1."""

    resize: int = 256
    crop: int = 224
    interpolation: str = "bilinear"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def resize_for(self, image_size: int) -> int:
        """Return the shorter side before a crop to `image_size`, in the weights' own proportion."""
        return max(image_size, round(image_size * self.resize / self.crop))


@dataclass(frozen=True)
class Weights:
    """Tensors by the module's own names (None: random), what they are called, and what they were made for."""

    state: Mapping[str, Tensor] | None
    identity: str
    classes: tuple[str, ...] | None = None
    preprocessing: Preprocessing = Preprocessing()
    source: str | None = None

    @property
    def name(self) -> str:
        """What a person calls them: their file, else their identity."""
        return self.source or self.identity


def load_weights(backbone: BackboneConfig, *, root: Path, file: Path | None = None) -> Weights:
    """Return the weights that a configuration names.

    `file` stands in for `experiment:<name>`, which only the caller can resolve. Relative files lie under `root`.

    Raises:
        WeightsError: a download failed, or a file is missing, damaged or not a state dict.
    """
    if file is not None:
        return weights_from_file(file)
    if backbone.weights.startswith("experiment:"):
        raise WeightsError(f"{backbone.weights} has not been resolved to a file; use fttune.fine_tune")
    if backbone.weights == "none":
        return Weights(None, "none")
    if Path(backbone.weights).suffix:
        return weights_from_file(root / backbone.weights)
    return _from_torchvision(backbone)


def weights_from_file(file: Path) -> Weights:
    """Return the weights of a file; a checkpoint's classes and preprocessing stand in the JSON beside it.

    Raises:
        WeightsError: the file is missing, damaged or not a state dict.
    """
    sidecar = read_sidecar(file)
    state, sha256 = read_tensors(file, expected_sha256=sidecar.get("sha256"))
    if not sidecar:
        return Weights(state, f"sha256:{sha256}", source=str(file))
    fields = sidecar["preprocessing"]
    mean, std = tuple(fields["mean"]), tuple(fields["std"])
    preprocessing = Preprocessing(fields["resize"], fields["crop"], fields["interpolation"], mean, std)
    return Weights(state, f"sha256:{sha256}", tuple(sidecar["classes"]), preprocessing, str(file))


def _from_torchvision(backbone: BackboneConfig) -> Weights:
    enum = torchvision.models.get_model_weights(backbone.name)[backbone.weights]
    try:
        with redirect_stdout(sys.stderr):  # torch announces a download on stdout, where results go
            state = enum.get_state_dict(progress=False, check_hash=True, map_location="cpu", weights_only=True)
    except (OSError, HTTPException, *DAMAGED) as error:
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise WeightsError(
            f"the weights {backbone.weights} of {backbone.name} could not be downloaded or read ({reason(error)}). "
            f"Put the file {Path(enum.url).name} into {folder} (in place of a damaged one), "
            "or set backbone.weights: <file>"
        ) from error
    transform = enum.transforms()
    own = Preprocessing(
        transform.resize_size[0],
        transform.crop_size[0],
        transform.interpolation.value,
        tuple(transform.mean),
        tuple(transform.std),
    )
    return Weights(state, str(enum), tuple(enum.meta["categories"]), own)
