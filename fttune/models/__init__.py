"""Names to backbones: ordered, named stages plus a head, and their weights. The only room that knows architectures."""

from fttune.models.backbone import Backbone, build_backbone
from fttune.models.checkpoint import load_model
from fttune.models.families import FAMILIES, Stage
from fttune.models.weights import Preprocessing, Weights, load_weights

__all__ = ["FAMILIES", "Backbone", "Preprocessing", "Stage", "Weights", "build_backbone", "load_model", "load_weights"]
