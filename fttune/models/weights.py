"""Where a backbone's weights come from, and the preprocessing that they were trained with."""

import hashlib
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import WeightsEnum

from fttune.config.sections import Backbone as BackboneConfig
from fttune.errors import WeightsError
from fttune.models import timm_models
from fttune.models.architectures import default_preprocessing
from fttune.models.families import BY_NAME
from fttune.models.files import DAMAGED, named, not_finite, read_tensors, reason
from fttune.models.preprocessing import Preprocessing
from fttune.models.sidecar import sidecar_of


@dataclass(frozen=True)
class Weights:
    """Tensors by the module's own names (None: random), what they are called, and what they were made for."""

    state: Mapping[str, Tensor] | None
    identity: str
    classes: tuple[str, ...] | None = None
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
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
        BadInput: timm is needed and not installed, or does not know the name.
    """
    if file is not None:
        return weights_from_file(file, backbone=backbone.name)
    if backbone.weights.startswith("experiment:"):
        raise WeightsError(f"{backbone.weights} has not been resolved to a file; use fttune.fine_tune")
    if backbone.weights == "none":
        return Weights(None, "none")
    if Path(backbone.weights).suffix:
        return weights_from_file(root / backbone.weights, backbone=backbone.name)
    if backbone.name.startswith(timm_models.PREFIX):
        name = backbone.name.removeprefix(timm_models.PREFIX)
        state, identity = timm_models.pretrained(name)
        return Weights(state, identity, preprocessing=timm_models.preprocessing(name))
    return _from_torchvision(backbone)


@dataclass(frozen=True)
class Download:
    """A file of published weights that is fetched when it is first needed, and the folder that it goes to."""

    url: str
    folder: Path


def missing_download(backbone: str, weights: str) -> Download | None:
    """Return what torchvision will have to fetch for published weights, None where the file is there already."""
    found = _download(torchvision.models.get_model_weights(backbone)[weights])
    return None if (found.folder / Path(found.url).name).is_file() else found


def _download(enum: WeightsEnum) -> Download:
    return Download(enum.url, Path(torch.hub.get_dir()) / "checkpoints")


def weights_of_module(module: nn.Module) -> Weights:
    """Return the tensors that a module of one's own holds now, copied; their sha256 is their identity."""
    state = {name: tensor.detach().cpu().clone() for name, tensor in module.state_dict().items()}
    digest = hashlib.sha256()
    for name, tensor in state.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return Weights(state, f"sha256:{digest.hexdigest()}", source=type(module).__name__)


def weights_from_file(file: Path, *, backbone: str) -> Weights:
    """Return the weights of a file; a checkpoint's classes and preprocessing stand in the JSON beside it.

    Without that JSON, the preprocessing is what the published weights of this backbone have in common.

    Raises:
        WeightsError: the file is missing, damaged, not a state dict, or holds NaN or infinite values.
    """
    sidecar = sidecar_of(file)
    state, sha256 = read_tensors(file, expected_sha256=sidecar.sha256 if sidecar else None)
    if bad := not_finite(state):
        raise WeightsError(
            f"{file}: {len(bad)} of {len(state)} tensors hold NaN or infinite values: {named(bad)}; "
            "no learning rate can train them: take the weights of a run that did not diverge"
        )
    if sidecar is None:
        return Weights(state, f"sha256:{sha256}", preprocessing=default_preprocessing(backbone), source=str(file))
    return Weights(state, f"sha256:{sha256}", sidecar.classes, sidecar.preprocessing, str(file))


def _from_torchvision(backbone: BackboneConfig) -> Weights:
    enum = torchvision.models.get_model_weights(backbone.name)[backbone.weights]
    try:
        with redirect_stdout(sys.stderr):  # torch announces a download on stdout, where results go
            state = enum.get_state_dict(progress=False, check_hash=True, map_location="cpu", weights_only=True)
    except (OSError, HTTPException, *DAMAGED) as error:
        file = _download(enum)
        raise WeightsError(
            f"the weights {backbone.weights} of {backbone.name} could not be downloaded or read ({reason(error)}). "
            f"Put the file {Path(file.url).name} into {file.folder} (in place of a damaged one), "
            "or set backbone.weights: <file>"
        ) from error
    return Weights(state, str(enum), tuple(enum.meta["categories"]), _published_preprocessing(backbone.name, enum))


def _published_preprocessing(name: str, enum: WeightsEnum) -> Preprocessing:
    """Return the weights' transform, joined with what torchvision's own model would do to its input."""
    transform, family = enum.transforms(), BY_NAME[name]
    mean, std = tuple(transform.mean), tuple(transform.std)
    if family.statistics is not None:
        mean, std = (family.statistics[0],) * 3, (family.statistics[1],) * 3
    return Preprocessing(transform.resize_size[0], transform.crop_size[0], transform.interpolation.value, mean, std)
