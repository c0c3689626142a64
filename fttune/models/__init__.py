"""Names to backbones: ordered, named stages plus a head, and their weights. The only room that knows architectures."""

from fttune.models.architectures import Architecture, architecture_of, find_architecture
from fttune.models.backbone import Backbone, Outputs, build_backbone
from fttune.models.checkpoint import load_model
from fttune.models.cut import Cut, Stage
from fttune.models.families import FAMILIES, same_family
from fttune.models.preprocessing import Preprocessing
from fttune.models.weights import Weights, load_weights, weights_of_module

__all__ = [
    "FAMILIES",
    "Architecture",
    "Backbone",
    "Cut",
    "Outputs",
    "Preprocessing",
    "Stage",
    "Weights",
    "architecture_of",
    "build_backbone",
    "find_architecture",
    "load_model",
    "load_weights",
    "same_family",
    "weights_of_module",
]
