"""Small real recipes for tests: digits of 8 x 8 pixels, a net of 78 k parameters, seconds for a whole study."""

from pathlib import Path
from typing import Any

import yaml

from fttune.config import Experiment, Study, load_experiment, load_study

EXPERIMENT: dict[str, Any] = {
    "task": "classification",
    "data": {
        "source": "digits",
        "classes": [0, 1, 2],
        "limit_per_class": 8,
        "image_size": 8,
        "resize": 8,
        "split": {"val": 0.2, "test": 0.6, "seed": 0},
    },
    "backbone": {"name": "cifar_resnet8", "weights": "none"},
    "freeze": {"unfrozen_stages": "all"},
    "optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.9},
    "training": {"epochs": 2, "batch_size": 8},
}
STUDY: dict[str, Any] = {
    "experiment": "../experiments/tiny.yaml",
    "metric": "val/accuracy",
    "direction": "maximize",
    "budget": {"n_trials": 4, "max_failed": 3},
    "batch": 2,
    "sampler": {"type": "random", "seed": 0},
    "pruner": {"type": "none"},
    "space": {
        "optimizer.lr": {"type": "float", "low": 1.0e-3, "high": 0.1, "log": True},
        "freeze.unfrozen_stages": {"type": "int", "low": 0, "high": 4},
    },
}

METRICS = [
    {"name": "val/accuracy", "direction": "maximize"},
    {"name": "trial/trainable_parameters", "direction": "minimize"},
]


def changed(base: dict[str, Any], **dotted: Any) -> dict[str, Any]:
    """Return a deep copy with other values at fields named with `__` for the dots between sections."""
    import copy

    result = copy.deepcopy(base)
    for field, value in dotted.items():
        *sections, leaf = field.split("__")
        place = result
        for section in sections:
            place = place.setdefault(section, {})
        place[leaf] = value
    return result


def write_experiment(root: Path, name: str = "tiny", **dotted: Any) -> Path:
    """Write `<root>/experiments/<name>.yaml` and return its path."""
    return _write(root / "experiments" / f"{name}.yaml", changed(EXPERIMENT, **dotted))


def write_study(root: Path, name: str = "tiny", **dotted: Any) -> Path:
    """Write `<root>/studies/<name>.yaml`, and the tiny experiment where there is none; return the study's path."""
    if not (root / "experiments" / "tiny.yaml").exists():
        write_experiment(root)
    return _write(root / "studies" / f"{name}.yaml", changed(STUDY, **dotted))


def tiny_experiment(root: Path, **dotted: Any) -> Experiment:
    """Write and load the tiny experiment."""
    return load_experiment(write_experiment(root, **dotted))


def tiny_study(root: Path, **dotted: Any) -> Study:
    """Write and load the tiny study."""
    return load_study(write_study(root, **dotted))


def write_study_of_several(root: Path, name: str = "several", **dotted: Any) -> Path:
    """Write the tiny study with `METRICS` in place of its one metric, and return its path."""
    file = write_study(root, name, **{"metrics": METRICS, **dotted})
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    return _write(file, {key: value for key, value in content.items() if key not in ("metric", "direction")})


def study_of_several(root: Path, **dotted: Any) -> Study:
    """Write and load the tiny study with several objectives."""
    return load_study(write_study_of_several(root, **dotted))


def _write(path: Path, content: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path
