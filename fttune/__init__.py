"""fttune: which layers should be frozen, and what should learning rate and momentum be?

Importing it costs nothing; each name is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fttune.app.compare import compare
    from fttune.app.confirm import confirm
    from fttune.app.export import export
    from fttune.app.final import train_final
    from fttune.app.predict import predict
    from fttune.app.search import best_experiment, search
    from fttune.app.train import fine_tune, train
    from fttune.config import Experiment, Study, load_experiment, load_study
    from fttune.errors import FttuneError

__version__ = "0.1.0"

_HOMES = {
    "Experiment": "fttune.config",
    "FttuneError": "fttune.errors",
    "Study": "fttune.config",
    "best_experiment": "fttune.app.search",
    "compare": "fttune.app.compare",
    "confirm": "fttune.app.confirm",
    "export": "fttune.app.export",
    "fine_tune": "fttune.app.train",
    "load_experiment": "fttune.config",
    "load_study": "fttune.config",
    "predict": "fttune.app.predict",
    "search": "fttune.app.search",
    "train": "fttune.app.train",
    "train_final": "fttune.app.final",
}

__all__ = [
    "Experiment",
    "FttuneError",
    "Study",
    "best_experiment",
    "compare",
    "confirm",
    "export",
    "fine_tune",
    "load_experiment",
    "load_study",
    "predict",
    "search",
    "train",
    "train_final",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fttune' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
