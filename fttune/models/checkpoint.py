"""A finished checkpoint back to a model: `best.safetensors` with `best.json` beside it is all that is needed.

A checkpoint of one's own model also needs the plugin file that builds it: it holds tensors, never code.
"""

from collections.abc import Iterable
from pathlib import Path

from torch import nn

from fttune.errors import BadInput, WeightsError
from fttune.models.architectures import find_architecture
from fttune.models.backbone import build_backbone
from fttune.models.files import MOVE_AWAY
from fttune.models.plugins import PREFIX
from fttune.models.sidecar import sidecar_of
from fttune.models.weights import weights_from_file


def load_model(file: Path, *, plugins: Iterable[Path] = ()) -> nn.Module:
    """Return the model of a checkpoint in evaluation mode; it maps normalised images (B, 3, H, W) to logits.

    `plugins` are files that define the backbone `plugin:<name>` of such a checkpoint; they are run.

    Raises:
        WeightsError: the checkpoint is damaged, or not one that fttune wrote, or its backbone is not to be had.
    """
    sidecar = sidecar_of(file)
    if sidecar is None:
        rule = f"there is no {file.with_suffix('.json').name} beside it"
        raise WeightsError(f"{file}: {rule}; name a checkpoint that fttune wrote, and keep both files together")
    if sidecar.backbone is None:
        raise WeightsError(f"{file.with_suffix('.json')}: damaged: experiment.backbone.name missing; {MOVE_AWAY}")
    name, files = sidecar.backbone, tuple(plugins)
    if name.startswith(PREFIX) and not files:
        raise WeightsError(f"{file}: needs the plugin that builds {name}: load_model(file, plugins=[FILE.py])")
    try:
        architecture = find_architecture(name, files)
    except BadInput as error:
        raise WeightsError(f"{file}: its backbone {name} cannot be built here ({error})") from error
    weights = weights_from_file(file, backbone=name)
    backbone = build_backbone(architecture, weights, classes=sidecar.classes, seed=0)
    if backbone.head_is_new:
        rule = f"its head is not for the {len(sidecar.classes)} classes that its JSON names"
        raise WeightsError(f"{file}: damaged: {rule}; put back both files that were written")
    return backbone.module.eval()
