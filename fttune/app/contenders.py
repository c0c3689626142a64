"""A confirmed recipe as it stands for the champion's place: its models, one per seed, and what they say of images."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from fttune.app.confirm import confirm_key
from fttune.app.session import Session
from fttune.data import Part
from fttune.errors import BadInput
from fttune.files import write_atomically
from fttune.models import load_model
from fttune.models.sidecar import sidecar_of
from fttune.report.takeover import Hits
from fttune.training.device import best_device
from fttune.training.events import STUDY_ID
from fttune.training.predictions import probabilities

Names = npt.NDArray[np.str_]


@dataclass(frozen=True)
class Contender:
    """A trial of a study's generation under fresh seeds; the model of `seed`, which validates best, is the one to use.

    `data` is the fingerprint of the data that its models were trained on.
    """

    experiment: str
    study: str
    study_id: str
    trial: int
    seeds: tuple[int, ...]
    seed: int
    data: str

    @property
    def key(self) -> str:
        """What tells it from all others."""
        return f"{self.study_id}/{self.trial}/{self.seed}"

    @property
    def name(self) -> str:
        """What people call it."""
        return f"trial {self.trial} of {self.study}"

    def tags(self) -> dict[str, str]:
        """Return it as tags of a registered version."""
        return {
            "fttune.experiment": self.experiment,
            "fttune.study": self.study,
            STUDY_ID: self.study_id,
            "fttune.trial": str(self.trial),
            "fttune.seeds": " ".join(map(str, self.seeds)),
            "fttune.seed": str(self.seed),
            "fttune.data.fingerprint": self.data,
        }

    @classmethod
    def of(cls, tags: Mapping[str, str]) -> "Contender":
        """Return what `tags` were made of."""
        return cls(
            tags["fttune.experiment"],
            tags["fttune.study"],
            tags[STUDY_ID],
            int(tags["fttune.trial"]),
            tuple(map(int, tags["fttune.seeds"].split())),
            int(tags["fttune.seed"]),
            tags["fttune.data.fingerprint"],
        )

    def run(self, seed: int | None = None) -> tuple[str, dict[str, str]]:
        """Return experiment and tags by which MLflow finds the run of one of its models; default: of that to use."""
        key = confirm_key(self.study, self.trial, self.seed if seed is None else seed)
        return self.experiment, {"fttune.run": key, STUDY_ID: self.study_id}


def checkpoint_of(session: Session, one: Contender, seed: int) -> Path:
    """Return the checkpoint of one of a contender's models. Raises BadInput when it is gone."""
    experiment, tags = one.run(seed)
    found = session.checkpoint(experiment, tags)
    if found is None:
        run = tags["fttune.run"]
        raise BadInput(f"the checkpoint of {run} is not in MLflow, so nobody can judge it; restore its artifacts")
    return found


def said(session: Session, one: Contender, part: Part, *, seed: int) -> Names:
    """Return the class that a contender's model takes each image of a split for, by name.

    The model's own classes and preprocessing count: those of the data may be other ones by now.
    """
    checkpoint = checkpoint_of(session, one, seed)
    model = load_model(checkpoint, plugins=session.workspace.plugins).to(best_device())
    about = sidecar_of(checkpoint)
    assert about is not None, "`load_model` has read it"
    found = probabilities(model, about.preprocessing, part.images).argmax(1).numpy()
    names: Names = np.array(about.classes)[found]
    return names


def hits(session: Session, one: Contender, part: Part, classes: Sequence[str]) -> Hits:
    """Return which samples of a split each of a contender's models takes for what they are, (S, N)."""
    truth = truth_of(part, classes)
    return np.stack([said(session, one, part, seed=seed) == truth for seed in one.seeds])


def truth_of(part: Part, classes: Sequence[str]) -> Names:
    """Return the classes of a split's samples by name."""
    names: Names = np.array(classes)[part.labels.numpy()]
    return names


def content_keys(part: Part) -> list[str]:
    """Return a name for each image that its pixels decide alone, so that it is known again whatever its file is called.

    Copies are numbered.
    """
    seen: Counter[str] = Counter()
    keys = []
    for pixels in part.images:
        digest = hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()[:20]
        seen[digest] += 1
        keys.append(f"{digest}-{seen[digest]}")
    return keys


def write_hits(file: Path, part: Part, predicted: Names, classes: Sequence[str]) -> Path:
    """Write what a champion says of each test image beside what it is, for the day on which the data have changed."""
    frame = pd.DataFrame({"image": content_keys(part), "class": truth_of(part, classes), "predicted": predicted})
    write_atomically(file, lambda temporary: frame.to_csv(temporary, index=False))
    return file


def read_hits(file: Path) -> dict[str, bool]:
    """Return which images were classified rightly, by name."""
    frame = pd.read_csv(file, dtype=str, keep_default_na=False)
    return dict(zip(frame["image"], (frame["class"] == frame["predicted"]).tolist(), strict=True))
