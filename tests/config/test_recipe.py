import pytest

from fttune.config.recipe import recipe_digest, trial_digest

from .examples import ABSENT, experiment, study
from .test_study import oneof

BASE = {"training__epochs": 4, "optimizer__momentum": 0.9}
SAME = [
    ({"freeze__unfrozen_stages": 4}, {"freeze__unfrozen_stages": "all"}),
    ({"freeze__unfrozen_stages": 4}, {"freeze__unfrozen_stages": 1.0}),
    ({"freeze__unfrozen_stages": 2}, {"freeze__unfrozen_stages": 0.5}),
    ({"freeze__unfrozen_stages": 2}, {"freeze__train": {"last": 2}}),
    ({"freeze__unfrozen_stages": "all"}, {"freeze__preset": "full"}),
    ({"freeze__preset": "last_k", "freeze__k": 3}, {"freeze__train": {"stages": ["layer1", "layer2", "layer3"]}}),
    ({}, {"freeze__unfrozen_stages": 0}),
    ({}, {"freeze__layer_decay": 0.5}),
    ({"optimizer__lr": 0.01}, {"optimizer__lr": ABSENT, "optimizer__elr": 0.1}),
    ({"training__device": "cpu"}, {"training__device": "cuda"}),
    ({"data__augment": {"views": 4}}, {"data__augment": {"kind": "standard", "views": 4}}),
    (
        {"optimizer__name": "adamw", "optimizer__momentum": ABSENT},
        {"optimizer__name": "adamw", "optimizer__momentum": None},
    ),
]
OTHER = [
    ({"freeze__unfrozen_stages": 1}, {"freeze__unfrozen_stages": 1.0}),
    ({"freeze__unfrozen_stages": 1}, {"freeze__train": {"first": 1}}),
    ({"freeze__unfrozen_stages": 1}, {"freeze__unfrozen_stages": 1, "freeze__layer_decay": 0.5}),
    ({"optimizer__lr": 0.1}, {"optimizer__lr": ABSENT, "optimizer__elr": 0.1}),
    ({"seed": 0}, {"seed": 1}),
    ({"data__augment": {"views": 4}}, {"data__augment": {"views": 5}}),
    ({"data__augment": {"views": 4}}, {"data__augment": {"views": 4, "kind": "flip"}}),
    ({"data__augment": {"views": 4}}, {"data__augment": "standard"}),
]


def digest(changes):
    fields = {**BASE, **changes}
    return recipe_digest(
        experiment(**{k: v for k, v in fields.items() if not (v is ABSENT and k not in ("optimizer__lr",))})
    )


@pytest.mark.parametrize(("one", "other"), SAME)
def test_one_recipe_written_twice_has_one_digest(one, other):
    assert digest(one) == digest(other)


@pytest.mark.parametrize(("one", "other"), OTHER)
def test_two_recipes_have_two_digests(one, other):
    assert digest(one) != digest(other)


def test_the_metric_of_the_study_decides_and_what_is_no_recipe_has_no_digest():
    s = study(space={"training.monitor": oneof("val/loss", "val/accuracy")})
    assert trial_digest(s, {"training.monitor": "val/loss"}) == trial_digest(s, {"training.monitor": "val/accuracy"})
    assert trial_digest(s, {"optimizer.lr": -1.0}) is None
