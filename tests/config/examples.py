"""The smallest valid experiment and study, variants of them by dotted path, and how they are written to disk."""

import copy
import json
import math
from pathlib import Path
from typing import Any

from fttune.config import Experiment, Study
from fttune.errors import ConfigError

_EXPERIMENT = {
    "data": {"source": "digits", "image_size": 8, "resize": 8},
    "backbone": {"name": "cifar_resnet8", "weights": "none"},
    "optimizer": {"lr": 0.01},
    "training": {"epochs": 2},
}
_STUDY = {
    "experiment": "recipe.yaml",
    "budget": {"n_trials": 4},
    "space": {"optimizer.lr": {"type": "float", "low": 0.001, "high": 0.1, "log": True}},
}
ABSENT = object()


def experiment_fields(changes: dict[str, Any] | None = None) -> dict[str, Any]:
    return _changed(_EXPERIMENT, changes or {})


def study_fields(changes: dict[str, Any] | None = None) -> dict[str, Any]:
    return _changed(_STUDY, changes or {})


def experiment(**changes: Any) -> Experiment:
    """`experiment(optimizer__lr=1.0)` is the smallest experiment with another `optimizer.lr`."""
    return Experiment.model_validate(experiment_fields({k.replace("__", "."): v for k, v in changes.items()}))


def study(base: Experiment | None = None, **fields: Any) -> Study:
    return Study.model_validate({**_STUDY, **fields, "experiment": base or experiment()})


def _changed(tree: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    tree = copy.deepcopy(tree)
    for dotted in sorted(changes):
        *sections, leaf = dotted.split(".")
        place = tree
        for section in sections:
            place = place.setdefault(section, {}) if isinstance(place, dict) else place
        if changes[dotted] is ABSENT:
            del place[leaf]
        elif isinstance(place, dict):
            place[leaf] = changes[dotted]
    return tree


def as_yaml(value: Any) -> str:
    """JSON, which is YAML, with YAML's words for the numbers that JSON lacks."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)}: {as_yaml(v)}" for key, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(as_yaml, value)) + "]"
    if isinstance(value, float) and not math.isfinite(value):
        return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
    return json.dumps(value)


def write(folder: Path, fields: Any, name: str = "recipe.yaml") -> Path:
    file = folder / name
    file.write_text(fields if isinstance(fields, str) else as_yaml(fields), encoding="utf-8")
    return file


def lines(error: ConfigError) -> list[str]:
    """The problems of an error as `field: message`, without the file that each line of the message starts with."""
    text = str(error).splitlines()
    assert all(line.startswith(f"{error.file}: ") for line in text)
    assert len(text) == len(error.problems)
    return [line.removeprefix(f"{error.file}: ") for line in text]
