import json

import pytest

from fttune.config import load_study
from fttune.config.fingerprint import differences, digest, experiment_identity, study_identity

from .examples import experiment, experiment_fields, study, study_fields, write

LR = {"type": "float", "low": 0.001, "high": 0.1, "log": True}


def recipe(data="d", weights="w", **changes):
    return experiment_identity(experiment(**changes), data=data, weights=weights)


def search(base=None, **fields):
    return study_identity(study(base, **fields), data="d", weights="w")


def test_the_identity_of_a_recipe_is_every_field_with_data_and_weights_by_content():
    params = experiment().params()
    without = ("data.path", "training.device", "data.shift", "data.also_evaluate")
    expected = {k: v for k, v in params.items() if k not in without}
    expected |= {"data.content": "abc", "backbone.weights": "sha256:1", "data.split.rule": "content hash"}
    assert recipe("abc", "sha256:1") == expected


def test_paths_names_and_devices_do_not_change_a_recipe():
    base = recipe(data__source="folder", data__path="a")
    assert recipe(data__source="folder", data__path="b") == base
    assert recipe(data__source="folder", data__path="a", training__device="cpu") == base
    assert recipe(data__source="folder", data__path="a", backbone__weights="x.pt") == base
    named = experiment(data__source="folder", data__path="a").replace({"name": "other"})
    assert experiment_identity(named, data="d", weights="w") == base


def test_data_weights_and_every_other_field_change_a_recipe():
    base = recipe()
    assert recipe("other") != base
    assert recipe(weights="other") != base
    for change in ({"optimizer__lr": 0.5}, {"seed": 1}, {"training__precision": "fp32"}, {"data__split": {"seed": 1}}):
        assert differences(base, recipe(**change)) != []


def test_a_shift_changes_a_recipe_and_none_leaves_it_as_it_was_before_there_were_shifts():
    assert not any(key.startswith("data.shift") for key in recipe())
    assert recipe(data__shift="none") == recipe()
    assert differences(recipe(), recipe(data__shift={"rotate": 30})) == ["data.shift.rotate: (absent) -> 30.0"]
    assert recipe(data__shift={"rotate": 30}) != recipe(data__shift={"contrast": 0.3})


def test_views_and_their_kind_change_a_recipe():
    base = recipe(data__augment={"views": 4})
    assert recipe(data__augment={"views": 4, "kind": "standard"}) == base
    assert differences(base, recipe(data__augment={"views": 5})) == ["data.augment.views: 4 -> 5"]
    assert differences(base, recipe(data__augment="none")) == [
        "data.augment: (absent) -> none",
        "data.augment.kind: standard -> (absent)",
        "data.augment.views: 4 -> (absent)",
    ]


def test_what_is_evaluated_beside_does_not_change_a_recipe_or_study():
    also = {"ood": {"shift": {"rotate": 30}}}
    assert recipe(data__also_evaluate=also) == recipe()
    assert search(experiment(data__also_evaluate=also)) == search()


def test_a_default_written_out_is_the_same_recipe():
    assert recipe(optimizer__momentum=0.9, seed=0, data__split={"val": 0.2}) == recipe()
    assert recipe(optimizer__lr=1) == recipe(optimizer__lr=1.0)


CHANGES_A_STUDY = [
    {"metric": "val/macro_f1"},
    {"metric": "val/loss", "direction": "minimize"},
    {"batch": 4},
    {"sampler": {"type": "random"}},
    {"sampler": {"seed": 1}},
    {"pruner": {"type": "median"}},
    {"pruner": {"type": "median", "startup_trials": 1}},
    {"space": {"optimizer.lr": {**LR, "high": 0.2}}},
    {"space": {"optimizer.lr": {**LR, "log": False}}},
    {"space": {"optimizer.lr": LR, "optimizer.momentum": {"type": "float", "low": 0, "high": 0.5}}},
]
CHANGES_NO_STUDY = [
    {"budget": {"n_trials": 100, "timeout_minutes": 1, "max_failed": 1}},
    {"baselines": [{"optimizer.lr": 0.01}]},
    {"storage": "sqlite:///x.db"},
    {"retention": {"keep": "best_3"}},
    {"nightly": {"weight": 2.0, "every": "week"}},
    {"retries": 0},
    {"tracking": {"uri": "http://localhost"}},
    {"name": "other"},
]


@pytest.mark.parametrize("change", CHANGES_A_STUDY, ids=str)
def test_what_is_searched_and_how_belongs_to_the_identity(change):
    assert differences(search(), search(**change)) != []
    assert digest(search()) != digest(search(**change))


@pytest.mark.parametrize("change", CHANGES_NO_STUDY, ids=str)
def test_budget_baselines_and_places_do_not_belong_to_the_identity(change):
    assert search(**change) == search()
    assert differences(search(), search(**change)) == []


def test_a_study_contains_the_identity_of_its_experiment():
    base = experiment(optimizer__momentum=0.5)
    inside = {k.removeprefix("experiment."): v for k, v in search(base).items() if k.startswith("experiment.")}
    assert inside == experiment_identity(base, data="d", weights="w")
    assert search(base) != search()


def test_the_identity_of_a_study_is_flat_and_survives_json():
    identity = search(space={"optimizer.lr": {"type": "categorical", "choices": [0.1, 1]}})
    assert json.loads(json.dumps(identity)) == identity
    assert identity["space.optimizer.lr.choices"] == [0.1, 1]
    assert identity["sampler.type"] == "tpe"
    assert not any(isinstance(value, dict) for value in identity.values())


def test_comments_order_and_spelling_of_a_file_do_not_change_the_digest(tmp_path):
    write(tmp_path, experiment_fields())
    one = load_study(write(tmp_path, study_fields(), "one.yaml"))
    text = """# another text
space:
  optimizer.lr: {high: 1.0e-1, log: true, low: 1e-3, type: float}
budget:
    n_trials: 9
experiment: ./recipe.yaml
"""
    two = load_study(write(tmp_path, text, "two.yaml"))
    digests = {digest(study_identity(s, data="d", weights="w")) for s in (one, two)}
    assert len(digests) == 1
    assert len(digests.pop()) == 64


def test_differences_are_one_line_per_path_with_both_values():
    old, new = search(pruner={"type": "median"}), search(batch=4, pruner={"type": "none"})
    assert differences(old, new) == [
        "batch: 8 -> 4",
        "pruner.startup_trials: 5 -> (absent)",
        "pruner.type: median -> none",
        "pruner.warmup_epochs: 0 -> (absent)",
    ]
    assert differences(new, new) == []


def test_two_digests_differ_exactly_when_there_is_a_difference_to_show():
    values = [1, 1.0, True, "1", None, [1], [1.0], "true"]
    for a in values:
        for b in values:
            assert (digest({"x": a}) != digest({"x": b})) == bool(differences({"x": a}, {"x": b}))
