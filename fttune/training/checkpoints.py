"""The best and the last state of a run: held in memory while it trains, written once at its end."""

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fttune import __version__
from fttune.config.sections import VAL_METRICS
from fttune.freezing import merged_state
from fttune.models.files import write_tensors
from fttune.training.events import EpochEnded


@dataclass(frozen=True)
class CheckpointFolder:
    """Where a run's checkpoints go; `keep_last` adds the last epoch's beside the best one's."""

    folder: Path
    keep_last: bool = False


@dataclass(frozen=True)
class Snapshot:
    """The tensors of a module at the end of an epoch, on the CPU."""

    ended: EpochEnded
    state: Mapping[str, Tensor]

    @classmethod
    def of(cls, ended: EpochEnded, module: nn.Module) -> "Snapshot":
        """Return a copy of the module's state, adapters merged, that later steps cannot change."""
        return cls(ended, {name: t.detach().to("cpu", copy=True) for name, t in merged_state(module).items()})

    def write(self, file: Path, about: Mapping[str, Any]) -> list[Path]:
        """Write `.safetensors` with its JSON beside it; return both paths, the JSON last."""
        epoch = {"epoch": self.ended.epoch, "metrics": dict(self.ended.metrics)}
        write_tensors(file, self.state, {**about, **epoch, "versions": library_versions()})
        return [file, file.with_suffix(".json")]


class BestEpoch:
    """Follow a run's epochs and hold the best one: by `monitor`, the first on ties; without it, the last."""

    def __init__(self, monitor: str | None) -> None:
        self.monitor = monitor
        self.snapshot: Snapshot | None = None

    def offer(self, ended: EpochEnded, module: nn.Module) -> None:
        """Take the module's state when this epoch is better than all before."""
        if self.snapshot is None or self._better(ended, self.snapshot.ended):
            self.snapshot = Snapshot.of(ended, module)

    def _better(self, new: EpochEnded, old: EpochEnded) -> bool:
        if self.monitor is None:
            return True
        a, b = new.metrics[self.monitor], old.metrics[self.monitor]
        return a < b if VAL_METRICS[self.monitor] == "minimize" else a > b


def library_versions() -> dict[str, str]:
    """Return the versions of the parts that can change a result."""
    names = ("torch", "torchvision", "numpy", "pillow")
    return {"python": platform.python_version(), "fttune": __version__, **{name: version(name) for name in names}}
