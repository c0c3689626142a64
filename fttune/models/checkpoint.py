"""A finished checkpoint back to a model: `best.safetensors` with `best.json` beside it is all that is needed."""

from pathlib import Path

from torch import nn

from fttune.errors import WeightsError
from fttune.models.backbone import build_backbone
from fttune.models.families import BY_NAME
from fttune.models.files import read_sidecar
from fttune.models.weights import weights_from_file


def load_model(file: Path) -> nn.Module:
    """Return the model of a checkpoint in evaluation mode; it maps normalised images (B, 3, H, W) to logits.

    Raises:
        WeightsError: the checkpoint is damaged, or not one that fttune wrote.
    """
    sidecar = read_sidecar(file)
    if not sidecar:
        raise WeightsError(f"{file}: there is no {file.with_suffix('.json').name} beside it")
    name = sidecar["experiment"]["backbone"]["name"]
    if name not in BY_NAME:
        raise WeightsError(f"{file}: the backbone {name} is not one that this fttune knows; upgrade fttune")
    backbone = build_backbone(name, weights_from_file(file), classes=tuple(sidecar["classes"]), seed=0)
    return backbone.module.eval()
