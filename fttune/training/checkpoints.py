"""The best and the last state of a run: held in memory while it trains, written once at its end."""

import platform
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fttune import __version__
from fttune.config.sections import VAL_METRICS
from fttune.freezing import merged_state
from fttune.models.files import write_tensors
from fttune.models.tensor_file import Shared
from fttune.training.events import EpochEnded
from fttune.training.resume import Saved, untold


@dataclass(frozen=True)
class CheckpointFolder:
    """Where a run's checkpoints go; `keep_last` adds the last epoch's beside the best one's.

    In `states` is kept, and looked for, what a process goes on from after a crash; with `keeps_end` also after the last
    epoch, where others are to follow before all of it counts. None keeps nothing. `saved` is called with the folder
    after each state.
    """

    folder: Path
    keep_last: bool = False
    states: Path | None = None
    keeps_end: bool = False
    saved: Saved = untold


@dataclass(frozen=True)
class Snapshot:
    """The tensors of a module at the end of an epoch: those of `state`, and those that others have too."""

    ended: EpochEnded
    state: Mapping[str, Tensor]
    shared: Shared = field(default_factory=Shared)

    @classmethod
    def of(
        cls, ended: EpochEnded, module: nn.Module, *, start: Mapping[str, Tensor], changing: Collection[str]
    ) -> "Snapshot":
        """Return a module's state, adapters merged, that later steps cannot change.

        Only the tensors named in `changing` are copied, and merged ones; all others are as they are in `start`.
        """
        state = {
            name: start[name] if name in start and name not in changing else tensor.detach().to("cpu", copy=True)
            for name, tensor in merged_state(module).items()
        }
        return cls(ended, state)

    def replaced(self, tensors: Mapping[str, Tensor]) -> "Snapshot":
        """Return a snapshot with other tensors under some of the names."""
        return replace(self, state={**self.state, **tensors})

    def write(self, file: Path, about: Mapping[str, Any]) -> list[Path]:
        """Write `.safetensors` with its JSON beside it; return both paths, the JSON last."""
        epoch = {"epoch": self.ended.epoch, "metrics": dict(self.ended.metrics)}
        write_tensors(file, self.state, {**about, **epoch, "versions": library_versions()}, shared=self.shared)
        return [file, file.with_suffix(".json")]


class BestEpoch:
    """Follow a run's epochs and hold the best one: by `monitor`, the first on ties; without it, the last."""

    def __init__(self, monitor: str | None) -> None:
        self.monitor = monitor
        self.snapshot: Snapshot | None = None

    @property
    def ended(self) -> EpochEnded | None:
        """The best epoch so far."""
        return self.snapshot.ended if self.snapshot else None

    def offer(self, ended: EpochEnded, take: Callable[[EpochEnded], Snapshot]) -> None:
        """Take a snapshot when this epoch is better than all before."""
        if self.ended is None or self._better(ended, self.ended):
            self.snapshot = take(ended)

    def stalled(self, epoch: int, *, first: int, patience: int | None) -> bool:
        """Return whether `patience` epochs were no better, counted from epoch `first` at the earliest."""
        assert self.ended is not None, "an epoch was offered"
        return patience is not None and epoch - max(self.ended.epoch, first - 1) >= patience

    def _better(self, new: EpochEnded, old: EpochEnded) -> bool:
        if self.monitor is None:
            return True
        a, b = new.metrics[self.monitor], old.metrics[self.monitor]
        return a < b if VAL_METRICS[self.monitor] == "minimize" else a > b


@cache
def library_versions() -> dict[str, str]:
    """Return the versions of the parts that can change a result."""
    names = ("torch", "torchvision", "numpy", "pillow")
    return {"python": platform.python_version(), "fttune": __version__, **{name: version(name) for name in names}}
