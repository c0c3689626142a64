"""Fine-tune one recipe. Knows neither Optuna nor MLflow; images and weights reach it as files."""

from fttune.training.checkpoints import CheckpointFolder, library_versions
from fttune.training.device import choose_device
from fttune.training.fine_tune import FineTuneResult, check_recipe, fine_tune
from fttune.training.inputs import Inputs, prepare

__all__ = [
    "CheckpointFolder",
    "FineTuneResult",
    "Inputs",
    "check_recipe",
    "choose_device",
    "fine_tune",
    "library_versions",
    "prepare",
]
