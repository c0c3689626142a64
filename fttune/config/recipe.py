"""The canonical form of an experiment: two recipes that train the same have the same one, however they are written.

`unfrozen_stages: 5`, `1.0`, `all` and the preset `full` are one recipe on a ResNet, and so are an effective lr and the
lr it means. Fields that cannot act are left out, defaults filled in.
"""

from collections.abc import Mapping
from typing import Any

from pydantic_core import to_jsonable_python

from fttune.config import known
from fttune.config.conditions import silenced_by
from fttune.config.experiment import Experiment, flatten
from fttune.config.fingerprint import NO_INFLUENCE, digest
from fttune.config.policy import Policy, resolve
from fttune.config.study import Study


def canonical(experiment: Experiment) -> Mapping[str, Any]:
    """Return the fields that decide about a training, by dotted path, in one spelling."""
    tree = experiment.model_dump(exclude_none=True)
    tree["optimizer"] = {**tree["optimizer"], "lr": experiment.optimizer.learning_rate}
    tree["optimizer"].pop("elr", None)
    fields = {
        name: value
        for name, value in flatten(tree).items()
        if name not in NO_INFLUENCE and silenced_by(Experiment, tree, name) is None
    }
    entry = known.backbones().get(experiment.backbone.name)
    if entry is None:
        return fields
    policy = resolve(experiment.freeze, entry.stages, epochs=experiment.training.epochs)
    rest = {name: value for name, value in fields.items() if not name.startswith("freeze.")}
    return {**rest, "freeze": _plain(policy)}


def recipe_digest(experiment: Experiment) -> str:
    """Return the sha256 of the canonical form as 64 hex digits."""
    return digest(canonical(experiment))


def trial_digest(study: Study, values: Mapping[str, Any]) -> str | None:
    """Return the digest of the recipe that a trial's values make, None where they make none.

    The study's metric chooses the best epoch, whatever `training.monitor` says.
    """
    if study.experiment.refusal(values) is not None:
        return None
    return recipe_digest(study.experiment.replace({**values, "training.monitor": study.metric}))


def _plain(policy: Policy) -> dict[str, Any]:
    """Return a policy without what cannot act where no stage trains: it would change nothing."""
    plain: dict[str, Any] = to_jsonable_python(policy)
    for phase in plain["phases"]:
        if not phase["stages"]:
            phase |= {"only": "", "layer_decay": 1.0, "stage_lr": {}}
    if not any(phase["stages"] for phase in plain["phases"]):
        plain |= {"l2_sp": None, "lora": None}
    return plain
