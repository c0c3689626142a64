"""How many parameters the stages of an architecture have, counted on its sketch: no weights, no memory."""

from torch import nn

from fttune.models.architectures import Architecture
from fttune.models.cut import member


def sizes(architecture: Architecture) -> tuple[dict[str, int], int]:
    """Return the parameters of each stage, auxiliary heads included, and those of the whole with its original head."""
    module = architecture.sketch()
    parts = architecture.cut(module)
    stages = {stage.name: sum(_size(member(module, path)) for path in stage.members) for stage in parts.stages}
    return stages, _size(module)


def _size(part: nn.Module | nn.Parameter) -> int:
    return part.numel() if isinstance(part, nn.Parameter) else sum(p.numel() for p in part.parameters())
