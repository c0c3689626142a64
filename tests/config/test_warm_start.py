import pytest

from fttune.config.warm_start import Fitted, WarmStart, fitted

from .examples import experiment, study

LR = {"type": "float", "low": 0.001, "high": 0.1, "log": True}
DEPTH = {"type": "int", "low": 0, "high": 4, "step": 2}
NAME = {"type": "categorical", "choices": ["sgd", "adamw"]}


def fit(space, searched, fixed=None, base=None, **fields):
    return fitted(study(base, space=space, **fields), searched, fixed or {})


def test_values_of_the_space_are_taken_as_they_are():
    assert fit({"optimizer.lr": LR}, {"optimizer.lr": 0.02}) == Fitted({"optimizer.lr": 0.02}, (), ())


@pytest.mark.parametrize(
    ("name", "distribution", "given", "taken"),
    [
        ("optimizer.lr", LR, 0.5, 0.1),
        ("optimizer.lr", LR, 1e-6, 0.001),
        ("freeze.unfrozen_stages", DEPTH, 9, 4),
        ("freeze.unfrozen_stages", DEPTH, 2.9, 2),
        ("optimizer.momentum", {"type": "float", "low": 0.0, "high": 0.9, "step": 0.3}, 0.4, 0.3),
    ],
)
def test_a_number_beside_the_space_becomes_the_nearest_one_and_is_named(name, distribution, given, taken):
    found = fit({name: distribution}, {name: given})
    assert found is not None and found.clipped == (name,)
    assert found.point[name] == pytest.approx(taken) and type(found.point[name]) is type(taken)


def test_what_is_not_in_the_space_or_no_choice_of_it_is_dropped_and_named():
    searched = {"optimizer.lr": 0.02, "optimizer.momentum": 0.5, "training.schedule": "linear"}
    space = {"optimizer.lr": LR, "training.schedule": {"type": "categorical", "choices": ["constant", "cosine"]}}
    assert fit(space, searched) == Fitted({"optimizer.lr": 0.02}, ("optimizer.momentum", "training.schedule"), ())


def test_nothing_that_fits_is_no_configuration():
    assert fit({"optimizer.lr": LR}, {"optimizer.momentum": 0.5}) is None
    assert fit({"optimizer.lr": LR}, {"optimizer.momentum": 0.5}, {"optimizer.lr": 0.02}) is None


def test_a_number_for_a_choice_and_a_word_for_a_number_do_not_fit():
    assert fit({"freeze.unfrozen_stages": DEPTH}, {"freeze.unfrozen_stages": "all"}) is None
    choices = {"type": "categorical", "choices": [1, 2]}
    assert fit({"freeze.unfrozen_stages": choices}, {"freeze.unfrozen_stages": 2.0}).point == {
        "freeze.unfrozen_stages": 2
    }
    assert fit({"freeze.unfrozen_stages": choices}, {"freeze.unfrozen_stages": 3}) is None


def test_what_the_other_study_did_not_search_comes_from_its_experiment_where_it_lies_in_the_space():
    space = {"optimizer.lr": LR, "optimizer.momentum": {"type": "float", "low": 0.0, "high": 0.95}}
    assert fit(space, {"optimizer.lr": 0.02}, {"optimizer.momentum": 0.5}).point == {
        "optimizer.lr": 0.02,
        "optimizer.momentum": 0.5,
    }
    found = fit(space, {"optimizer.lr": 0.02}, {"optimizer.momentum": 0.99})
    assert found == Fitted({"optimizer.lr": 0.02}, (), ()), "it is left to the sampler"


def test_a_parameter_that_would_not_act_is_dropped_and_one_that_hangs_on_an_open_one_too():
    momentum = {"type": "float", "low": 0.0, "high": 0.9, "when": {"optimizer.name": "sgd"}}
    space = {"optimizer.lr": LR, "optimizer.name": NAME, "optimizer.momentum": momentum}
    searched = {"optimizer.lr": 0.02, "optimizer.momentum": 0.5}
    base = experiment()
    found = fit(space, {**searched, "optimizer.name": "adamw"}, base=base)
    assert found == Fitted({"optimizer.lr": 0.02, "optimizer.name": "adamw"}, ("optimizer.momentum",), ())
    assert fit(space, searched, base=base) == Fitted({"optimizer.lr": 0.02}, ("optimizer.momentum",), ())
    whole = {**searched, "optimizer.name": "sgd"}
    assert fit(space, whole, base=base) == Fitted({k: whole[k] for k in space}, (), ())


def test_sources_are_auto_none_or_names_of_studies():
    assert WarmStart().sources == "none"
    assert WarmStart.model_validate({"from": ["pets", "pets@2"]}).sources == ("pets", "pets@2")
    assert study(warm_start={"from": "auto"}).warm_start.sources == "auto"
