"""From a policy to what trains: parameters, norm statistics, and the mode of every module. Knows no architecture."""

from fttune.freezing.auto import PartGradient, autofreeze_count, rgn_multipliers, snr_multipliers
from fttune.freezing.lora import insert_lora, merged_state
from fttune.freezing.parts import (
    HEAD,
    Freezing,
    Part,
    Parts,
    Trained,
    apply_phase,
    apply_policy,
    has_running_norms,
    named_parameters,
    named_tensors,
    trained_names,
)

__all__ = [
    "HEAD",
    "Freezing",
    "Part",
    "PartGradient",
    "Parts",
    "Trained",
    "apply_phase",
    "apply_policy",
    "autofreeze_count",
    "has_running_norms",
    "insert_lora",
    "merged_state",
    "named_parameters",
    "named_tensors",
    "rgn_multipliers",
    "snr_multipliers",
    "trained_names",
]
