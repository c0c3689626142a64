"""How a training stands, on disk: where it goes on after its process was killed. Knows no training.

A state is a file of tensors with its JSON beside it, which holds the checksum and comes last. The one before is kept
too, and taken when the newest is damaged.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from fttune import __version__
from fttune.config import Experiment
from fttune.config.fingerprint import digest, experiment_identity
from fttune.errors import WeightsError
from fttune.models.files import read_tensors, write_tensors
from fttune.training.inputs import Inputs

EVERY_SECONDS = 10.0  # of work: half of what may be repeated after a crash, for a state takes time to write too
PAUSED_SECONDS = 1.0  # of work at which a training that pauses is kept: others may train for long meanwhile


Saved = Callable[[Path], None]


def untold(_: Path) -> None:
    """Take a folder in which a state was saved, and do nothing."""


@dataclass(frozen=True)
class State:
    """Tensors by name, and facts that JSON can hold."""

    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors under names that tell them from other groups."""
    return {f"{prefix}:{name}": tensor for name, tensor in tensors.items()}


def unprefixed(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors of `prefixed` names under their own."""
    return {n.removeprefix(f"{prefix}:"): t for n, t in tensors.items() if n.startswith(f"{prefix}:")}


def owner_of(inputs: Inputs, monitor: str | None, *experiments: Experiment) -> str:
    """Return a digest of all that decides what trainings come to: a state of another one is none of theirs."""
    data, weights, members = inputs.data.fingerprint, inputs.weights.identity, inputs.data.train.members
    recipes = [digest(experiment_identity(experiment, data=data, weights=weights)) for experiment in experiments]
    rows = None if members is None else hashlib.sha256(members.numpy().tobytes()).hexdigest()
    return digest({"version": __version__, "monitor": monitor, "recipes": recipes, "rows": rows})


class Kept:
    """The states of one training in a folder; `owner` is what `owner_of` says of it.

    `saved` is called with the folder after each state that was written there.
    """

    def __init__(self, folder: Path, owner: str, *, saved: Saved = untold) -> None:
        self._folder, self._owner, self._tell = folder, owner, saved
        self._saved_at = time.monotonic()

    def load(self) -> State | None:
        """Return the newest whole state of this training, None when there is none."""
        for file in reversed(self._files()):
            with suppress(WeightsError, OSError, ValueError, KeyError):  # cut off or damaged: the one before is taken
                about = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
                if about["owner"] == self._owner:
                    return State(read_tensors(file, expected_sha256=about["sha256"])[0], about["facts"])
        return None

    def save(self, state: Callable[[], State | None], *, after_seconds: float) -> None:
        """Write a state when so much time has passed since the last one; None is what cannot be written now.

        Raises:
            CannotWrite: the disk is full or fails; the states before are untouched.
            Exception: what `saved` raises.
        """
        if time.monotonic() - self._saved_at < after_seconds or (found := state()) is None:
            return
        files = self._files()
        number = int(files[-1].stem.partition("-")[2]) + 1 if files else 1
        about = {"owner": self._owner, "facts": found.facts}
        write_tensors(self._folder / f"resume-{number:06d}.safetensors", found.tensors, about)
        for old in files[:-1]:
            _drop(old)
        self._tell(self._folder)
        self._saved_at = time.monotonic()

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob("resume-*.safetensors"))


def _drop(file: Path) -> None:
    file.unlink(missing_ok=True)
    file.with_suffix(".json").unlink(missing_ok=True)
