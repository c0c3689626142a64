"""What makes two recipes, or two studies, the same: a flat mapping of all that can change a result.

Not in it: budget, baselines, retention, nightly, storage, tracking, device, `data.also_evaluate`, paths and comments.
Data and weights stand in it by their content, which the caller knows.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

from fttune.config.experiment import Experiment, flatten
from fttune.config.study import Study
from fttune.errors import StudyChanged

Identity = Mapping[str, Any]
DATA, WEIGHTS = "data.content", "backbone.weights"
FOLDS = "evaluation.assigned"
SPLIT_RULE = "data.split.rule"
BY_CONTENT = "content hash"  # before that there was no such entry, and a class's images were counted out by their names
_BY_CONTENT = ("data.path", WEIGHTS)
NO_INFLUENCE = ("training.device",)


def experiment_identity(experiment: Experiment, *, data: str, weights: str) -> Identity:
    """Return the identity of a recipe; `data` is the data's fingerprint, `weights` a name or `sha256:...`."""
    params = flatten(experiment.model_dump(exclude={"data": {"also_evaluate"}}))
    # Without fields that say nothing: an optional field that a later version brings changes no identity.
    fields = {k: v for k, v in params.items() if v is not None and k not in (*_BY_CONTENT, *NO_INFLUENCE)}
    if experiment.data.shift == "none":
        del fields["data.shift"]  # so identities from before there were shifts still hold
    return _plain({**fields, SPLIT_RULE: BY_CONTENT, DATA: data, WEIGHTS: weights})


def study_identity(study: Study, *, data: str, weights: str, folds: str | None = None) -> Identity:
    """Return the identity of a study: its experiment's, and how it searches; `folds` says what validates where."""
    recipe = experiment_identity(study.experiment, data=data, weights=weights)
    # What is optional stands in it only where it is there: so identities from before it came still hold.
    search = study.model_dump(include={"metric", "direction", "batch", "sampler", "pruner", "space", *study.optional})
    if study.evaluation is not None:
        search["evaluation"] |= {FOLDS.rpartition(".")[2]: folds}
    return _plain(
        {
            **{f"experiment.{key}": value for key, value in recipe.items()},
            **flatten(search),
            "space.order": list(study.space),
        }
    )


def digest(identity: Identity) -> str:
    """Return the sha256 of an identity as 64 hex digits."""
    return hashlib.sha256(_text(identity).encode()).hexdigest()


def _plain(identity: Identity) -> Identity:
    """Return the identity as it comes back from JSON, so that a stored one compares equal."""
    plain: Identity = json.loads(json.dumps(identity))
    return plain


def require_same(study: str, old: Identity, new: Identity, *, about_data: Callable[[], str] = lambda: "") -> None:
    """Refuse a stored study that was made from another identity than that of its file now. Raises StudyChanged.

    `about_data` tells how its data changed, and is asked when they have.
    """
    if changed := differences(old, new):
        if old.get(key := f"experiment.{DATA}") != new.get(key) and (told := about_data()):
            changed.append(told)
        lines = "\n".join(f"  {line}" for line in changed)
        raise StudyChanged(
            f"study {study} is not what it was when its trials ran:\n{lines}\n"
            "undo the change, or start a fresh generation beside the old one with `fttune search --new`"
        )


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return one line per dotted path whose value differs: `batch: 8 -> 4`."""
    absent = "(absent)"
    return [
        f"{key}: {old.get(key, absent)} -> {new.get(key, absent)}"
        for key in sorted({*old, *new})
        if _text(old.get(key, absent)) != _text(new.get(key, absent))  # as text: 1, 1.0 and true have other digests
    ]


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
