"""Trainings that pause for one another: each ends as if it had trained alone, and trains no epoch twice."""

from collections.abc import Callable

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fttune.training import FineTuneResult, Fit, Verdict, fine_tune, plan
from fttune.training.events import EpochEnded
from fttune.training.training import Solo
from tests.training.test_shortcuts import assert_same

FREEZES = (
    {"unfrozen_stages": 0},
    {"unfrozen_stages": 1},
    {"unfrozen_stages": 2, "norm_stats": "updated"},
    {"unfrozen_stages": "all"},
    {"phases": [{"train": "none", "epochs": 2}, {"train": "all", "epochs": 2, "lr": 0.003}]},
    {"preset": "auto_rgn"},
    {"unfrozen_stages": 2, "adapter": {"lora": {"rank": 2, "alpha": 4}}},
)
recipes = st.fixed_dictionaries(
    {
        "freeze": st.sampled_from(FREEZES),
        "optimizer__lr": st.sampled_from([0.001, 0.02]),
        "optimizer__momentum": st.sampled_from([0.0, 0.9]),
        "training__schedule": st.sampled_from(["constant", "cosine", "plateau"]),
        "training__early_stop_epochs": st.sampled_from([None, 1]),
        "seed": st.sampled_from([0, 1]),
    }
)


def waits_after(epochs: int) -> Callable[[EpochEnded], Verdict]:
    return lambda ended: "go" if ended.epoch < epochs else "pause"


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(fields=st.lists(recipes, min_size=2, max_size=4), every=st.sampled_from([1, 2]))
def test_trainings_that_take_turns_end_as_they_would_alone(fields, every, shared_inputs, make_recipe):
    inputs = shared_inputs()
    own = [make_recipe(**one, training__precision="float64", training__epochs=4) for one in fields]
    begins = plan(own, inputs)
    fits: dict[int, Fit] = {}
    results: dict[int, FineTuneResult] = {}
    for last in range(every, 4 + every, every):
        for index in range(len(own)):
            if index not in results:
                fits[index] = fits.get(index) or Fit(begins[index]())
                result = fits[index].go_on(waits_after(last) if last < 4 else lambda _: "go")
                results |= {index: result} if result else {}
    for index, recipe in enumerate(own):
        assert_same(results[index], fine_tune(recipe, inputs.plain()), rel=1e-9)
        epochs = [ended.epoch for ended in results[index].epochs]
        assert epochs == list(range(1, len(epochs) + 1))


def test_one_that_is_pruned_where_it_waits_leaves_the_model_to_the_last_that_used_it(shared_inputs, make_recipe):
    inputs = shared_inputs()
    shallow, deep, next_one = (
        make_recipe(freeze__unfrozen_stages=depth, training__precision="float64") for depth in (1, "all", 3)
    )
    waits = Fit(Solo(shallow, inputs))
    assert waits.go_on(waits_after(1)) is None
    fine_tune(deep, inputs)
    assert waits.go_on(lambda _: "prune").state == "pruned"
    assert_same(fine_tune(next_one, inputs), fine_tune(next_one, inputs.plain()), rel=1e-9)
