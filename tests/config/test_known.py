import importlib.resources
import json
import re

import pytest

from fttune.config import known
from fttune.config.sections import NAME


def test_a_near_name_is_suggested_whatever_its_case():
    assert known.did_you_mean("Momentun", ["lr", "momentum"]) == "; did you mean 'momentum'?"
    assert known.did_you_mean("SGD", ["sgd", "adamw"]) == "; did you mean 'sgd'?"


def test_no_name_is_suggested_when_none_is_near():
    assert known.did_you_mean("zzz", ["lr", "momentum"]) == ""
    assert known.did_you_mean("lr", []) == ""
    assert known.did_you_mean("x" * 1_000_000, ["lr"]) == ""


def test_few_names_are_listed_and_many_are_cut_to_the_nearest():
    assert known.one_of(5, ["a"]) == "must be a, got 5"
    assert known.one_of("cc", ["a", "b"]) == "must be one of a, b, got 'cc'"
    many = [f"name{i}" for i in range(13)]
    assert known.one_of("nam1", many) == "unknown name 'nam1'; nearest: name1, name12, name11"
    assert known.one_of("?", many) == "unknown name '?'"


@pytest.mark.parametrize("value", ["x" * 100_000, list(range(100_000)), {"a": "\n" * 100}])
def test_a_value_is_shown_on_one_short_line(value):
    assert len(known.shown(value)) <= 80
    assert "\n" not in known.shown(value)
    assert len(known.one_of(value, ["a", "b"])) < 120


def test_every_backbone_has_stages_from_the_stem_on_and_weights_by_their_torchvision_names():
    backbones = known.backbones()
    assert {"cifar_resnet8", "resnet18"} <= backbones.keys()
    for entry in backbones.values():
        assert entry.stages[0] == "stem"
        assert len(set(entry.stages)) == len(entry.stages) >= 2
        assert all(re.fullmatch(NAME, stage) and stage != "head" for stage in entry.stages)
        assert len(entry.stage_parameters) == len(entry.stages)
        assert 0 < sum(entry.stage_parameters) < entry.parameters
        assert all(member.isidentifier() and member.isupper() for member in entry.weights)


def test_every_data_set_has_its_images_in_one_piece_or_in_known_splits():
    datasets = known.torchvision_datasets()
    assert {"CIFAR10", "OxfordIIITPet"} <= datasets.keys()
    for splits in datasets.values():
        assert splits.keys() == {"all"} or {"train"} <= splits.keys() <= {"train", "val", "test"}


def test_no_name_stands_twice_in_the_data_files():
    def once(pairs):
        assert len(dict(pairs)) == len(pairs)
        return dict(pairs)

    for file in ("backbones.json", "torchvision_datasets.json"):
        text = importlib.resources.files("fttune.config").joinpath(file).read_text(encoding="utf-8")
        assert json.loads(text, object_pairs_hook=once)
