import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fttune.config import Experiment
from fttune.config.experiment import flatten
from fttune.config.fields import field_names, is_field, put, remove, value_at

from .examples import experiment

NAMES = field_names(Experiment)


def test_fields_come_from_the_schema_and_not_from_what_is_set():
    for name in ("seed", "optimizer.elr", "training.step_epochs", "freeze.train", "freeze.train.window"):
        assert name in NAMES
    for name in ("freeze.penalty", "freeze.penalty.l2_sp", "freeze.adapter.lora.rank", "freeze.phases"):
        assert name in NAMES
    for name in ("name", "optimizer", "freeze", "freeze.phases.epochs", "freeze.head"):
        assert name not in NAMES


def test_the_keys_of_a_mapping_are_free():
    assert is_field(Experiment, "freeze.stage_lr.layer1")
    assert is_field(Experiment, "freeze.stage_lr")
    for name in ("freeze.stage_lr.a.b", "optimizer.lr.x", "freeze.train.x", "", ".", "a.b", "freeze.stage_lr."):
        assert not is_field(Experiment, name)


@pytest.mark.parametrize(
    "base", [{}, {"optimizer__name": "adamw"}, {"freeze__preset": "last_k"}, {"training__schedule": "polynomial"}]
)
def test_a_field_says_what_the_built_experiment_says(base):
    built = experiment(**base)
    whole = flatten(built.model_dump())
    for name in NAMES:
        if name in whole:
            assert value_at(Experiment, built.given(), name) == whole[name], name


def test_what_is_not_there_says_nothing():
    given = experiment(freeze__train={"first": 1}).given()
    assert value_at(Experiment, given, "freeze.train.first") == 1
    assert value_at(Experiment, given, "freeze.train") == {"first": 1}
    for name in ("freeze.train.last", "freeze.adapter.lora.rank", "freeze.stage_lr.layer1", "x.y", "seed.x"):
        assert value_at(Experiment, given, name) is None


@settings(deadline=None, max_examples=50)
@given(st.sampled_from(NAMES), st.integers())
def test_what_is_put_is_said_and_what_is_removed_is_not(name, value):
    tree = {}
    put(tree, name, value)
    assert value_at(Experiment, tree, name) == value
    remove(tree, name)
    assert name not in flatten(tree)
