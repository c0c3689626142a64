"""A finished checkpoint back to a model: `best.safetensors` with `best.json` beside it is all that is needed."""

from pathlib import Path

from torch import nn

from fttune.config.sections import Backbone as BackboneConfig
from fttune.errors import WeightsError
from fttune.models.backbone import build_backbone
from fttune.models.files import read_sidecar
from fttune.models.weights import load_weights


def load_model(file: Path) -> nn.Module:
    """Return the model of a checkpoint in evaluation mode; it maps normalised images (B, 3, H, W) to logits.

    Raises:
        WeightsError: the checkpoint is damaged, or not one that fttune wrote.
    """
    sidecar = read_sidecar(file)
    if not sidecar:
        raise WeightsError(f"{file}: there is no {file.with_suffix('.json').name} beside it")
    config = BackboneConfig.model_validate(sidecar["experiment"]["backbone"])
    weights = load_weights(config, root=file.parent, file=file)
    backbone = build_backbone(config.name, weights, classes=tuple(sidecar["classes"]), seed=0)
    return backbone.module.eval()
