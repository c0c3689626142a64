"""Fine-tune one recipe. Knows neither Optuna nor MLflow; images and weights reach it as files."""

from fttune.training.checkpoints import CheckpointFolder, library_versions
from fttune.training.cohort import cohort_key, is_member, plan
from fttune.training.cost import Costs
from fttune.training.device import choose_device
from fttune.training.features import features_of
from fttune.training.fine_tune import FineTuneResult, Fit, Verdict, check_recipe, fine_tune, finish
from fttune.training.folds import best_fold, fold_ended, in_fold, over_folds
from fttune.training.inputs import Inputs, prepare
from fttune.training.memory import memory_errors_told
from fttune.training.training import Training

__all__ = [
    "CheckpointFolder",
    "Costs",
    "FineTuneResult",
    "Fit",
    "Inputs",
    "Training",
    "Verdict",
    "best_fold",
    "check_recipe",
    "choose_device",
    "cohort_key",
    "features_of",
    "fine_tune",
    "finish",
    "fold_ended",
    "in_fold",
    "is_member",
    "library_versions",
    "memory_errors_told",
    "over_folds",
    "plan",
    "prepare",
]
