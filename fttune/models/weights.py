"""Where a backbone's weights come from, and the preprocessing that they were trained with."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError

import torch
import torchvision
from torch import Tensor

from fttune.config.sections import Backbone as BackboneConfig
from fttune.errors import WeightsError
from fttune.models.files import read_sidecar, read_tensors

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


def load_weights(backbone: BackboneConfig, *, root: Path, file: Path | None = None) -> Weights:
    """Return the weights that a configuration names.

    `file` stands in for `experiment:<name>`, which only the caller can resolve. Relative files lie under `root`.

    Raises:
        WeightsError: a download failed, or a file is missing, damaged or not a state dict.
    """
    if file is not None:
        return _from_file(file)
    if backbone.weights.startswith("experiment:"):
        raise WeightsError(f"{backbone.weights} has not been resolved to a file; use fttune.fine_tune")
    if backbone.weights == "none":
        return Weights(None, "none")
    if Path(backbone.weights).suffix:
        return _from_file(root / backbone.weights)
    return _from_torchvision(backbone)


def _from_file(file: Path) -> Weights:
    sidecar = read_sidecar(file)
    state, sha256 = read_tensors(file, expected_sha256=sidecar.get("sha256"))
    if not sidecar:
        return Weights(state, f"sha256:{sha256}")
    fields = sidecar["preprocessing"]
    mean, std = tuple(fields["mean"]), tuple(fields["std"])
    preprocessing = Preprocessing(fields["resize"], fields["crop"], fields["interpolation"], mean, std)
    return Weights(state, f"sha256:{sha256}", tuple(sidecar["classes"]), preprocessing)


def _from_torchvision(backbone: BackboneConfig) -> Weights:
    enum = torchvision.models.get_model_weights(backbone.name)[backbone.weights]
    try:
        state = enum.get_state_dict(progress=False, check_hash=True)
    except (URLError, OSError, RuntimeError) as error:
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise WeightsError(
            f"the weights {backbone.weights} of {backbone.name} could not be downloaded ({error}). "
            f"Put the file {Path(enum.url).name} into {folder}, or set backbone.weights: <file>"
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
