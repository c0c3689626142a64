"""What trainings cost where nothing is shared: figures of a configuration, that measuring leaves no trace of."""

from typing import Any

import pytest
import torch
from torch import nn

from fttune.models import architecture_of, weights_of_module
from fttune.training import Fit, Inputs, fine_tune
from fttune.training.cost import Cost, Costs
from fttune.training.events import EpochEnded
from fttune.training.training import Solo

FREEZES: tuple[dict[str, Any], ...] = (
    {"unfrozen_stages": 0},
    {"unfrozen_stages": 2, "norm_stats": "updated"},
    {"unfrozen_stages": "all"},
    {"phases": [{"train": "none", "epochs": 1}, {"train": "all", "epochs": 2, "lr": 0.003}]},
    {"preset": "auto_snr"},
    {"unfrozen_stages": 2, "penalty": {"l2_sp": 0.1}},
    {"unfrozen_stages": 2, "adapter": {"lora": {"rank": 2, "alpha": 4}}},
)
ONE = (EpochEnded(1, {}),)


@pytest.fixture(autouse=True)
def few_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """One timed call in a round is enough where no test looks at the clock."""
    monkeypatch.setattr("fttune.training.cost.ROUND_SECONDS", 1e-9)


class TinyNet(nn.Module):
    """Two Linears on 192 numbers, 5 hidden ones, 3 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.stages, self.head = {"body": ["flat", "first", "act"]}, "last"
        self.flat, self.first, self.act, self.last = nn.Flatten(), nn.Linear(192, 5), nn.ReLU(), nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.act(self.first(self.flat(x))))


def linear_inputs(inputs: Inputs) -> Inputs:
    net = TinyNet()
    return Inputs(inputs.data, weights_of_module(net), inputs.geometry, architecture_of(net))


@pytest.mark.parametrize(
    ("optimizer", "states", "steps"),
    [
        ({"optimizer__momentum": 0.0}, 0, 0),
        ({"optimizer__momentum": 0.9}, 1, 0),
        ({"optimizer__name": "adamw", "optimizer__lr": 0.01}, 2, 1),
    ],
)
@pytest.mark.parametrize("batch", [4, 7])
@pytest.mark.parametrize("depth", [0, "all"])
def test_peak_memory_is_what_can_be_counted_by_hand(depth, batch, optimizer, states, steps, make_inputs, make_recipe):
    fields = {"backbone__name": "plugin:TinyNet", "freeze__unfrozen_stages": depth, "training__batch_size": batch}
    found = Costs().of(make_recipe(**fields, **optimizer), linear_inputs(make_inputs()), ONE)
    body, head = [192 * 5, 5], [5 * 3, 3]
    trained = head if depth == 0 else body + head
    numbers = sum(body + head) + sum(trained)  # weights and gradients
    numbers += states * sum(trained) + steps * len(trained)  # momenta; AdamW counts its steps, too
    numbers += batch * 5 + batch * 3 + 1  # what the head sees, the log of its softmax, the sum of the weights
    numbers += batch * 192 if depth == "all" else 0  # what the first Linear sees; ReLU keeps what the head sees
    assert found.peak_memory_bytes == 4 * numbers + 8 * batch  # labels are int64


def test_peak_memory_grows_with_depth_and_batch_size(make_inputs, make_recipe):
    inputs, costs = make_inputs(), Costs()

    def peak(depth: int, batch: int) -> int:
        recipe = make_recipe(freeze__unfrozen_stages=depth, training__batch_size=batch)
        return costs.of(recipe, inputs, ONE).peak_memory_bytes

    for peaks in ([peak(depth, 8) for depth in range(5)], [peak(2, batch) for batch in (2, 4, 8, 16)]):
        assert peaks == sorted(set(peaks))


def test_peak_memory_is_the_same_in_every_measurement_and_with_more_epochs(make_inputs, make_recipe):
    found = {
        Costs()
        .of(make_recipe(**fields), make_inputs(), [EpochEnded(n + 1, {}) for n in range(epochs)])
        .peak_memory_bytes
        for epochs in (1, 3)
        for fields in ({}, {"seed": 4}, {"optimizer__lr": 10.0}, {"optimizer__momentum": 0.1})
    }
    assert len(found) == 1


@pytest.mark.parametrize("freeze", FREEZES, ids=str)
def test_measuring_changes_nothing_for_whoever_trains_next(freeze, make_inputs, make_recipe):
    recipe = make_recipe(freeze=freeze, training__epochs=3)
    expected = fine_tune(recipe, make_inputs())
    inputs = make_inputs()
    before = fine_tune(recipe, inputs)
    torch.manual_seed(7)
    state = torch.get_rng_state()
    Costs().of(recipe, inputs, before.epochs)
    assert torch.equal(torch.get_rng_state(), state)
    after = fine_tune(recipe, inputs)
    assert before.step_losses == after.step_losses == expected.step_losses


def test_measuring_changes_nothing_for_a_training_that_waits(make_inputs, make_recipe):
    recipe, inputs = make_recipe(training__epochs=3), make_inputs()
    waiting = Fit(Solo(recipe, inputs))
    assert waiting.go_on(lambda _: "pause") is None
    for freeze in FREEZES[:3]:
        Costs().of(make_recipe(freeze=freeze), inputs, ONE)
    result = waiting.go_on(lambda _: "go")
    assert result is not None
    assert result.step_losses == fine_tune(recipe, make_inputs()).step_losses


def test_a_warm_cache_does_not_change_the_seconds(make_inputs, make_recipe):
    """With activations kept, an epoch skips the frozen stages; its cost does not."""
    recipe, inputs, costs = make_recipe(freeze__unfrozen_stages=1), make_inputs(), Costs()
    cold = costs.of(recipe, inputs.plain(), ONE)
    fine_tune(recipe, inputs)
    assert inputs.workbench.activations._kept
    assert costs.of(recipe, inputs, ONE) == cold
    measured_warm = Costs().of(recipe, inputs, ONE)
    assert measured_warm.peak_memory_bytes == cold.peak_memory_bytes


class Kept(dict[str, Any]):
    """What a study keeps, and how often something was measured for it."""

    settled = 0

    def costs(self) -> Costs:
        return Costs(dict(self), keep=self.update, settle=self._settle)

    def _settle(self) -> None:
        self.settled += 1


SAME = (
    {"optimizer__lr": 0.5},
    {"seed": 3},
    {"optimizer__momentum": 0.1},
    {"training__epochs": 7},
    {"training__schedule": "cosine"},
    {"freeze": {"train": "all", "layer_decay": 0.7}},
    {"freeze": {"preset": "full"}},
)
OTHER = (
    {"freeze": {"unfrozen_stages": 2}},
    {"training__batch_size": 4},
    {"optimizer__momentum": 0.0},
    {"optimizer__name": "adamw"},
    {"training__label_smoothing": 0.1},
    {"training__precision": "float64"},
    {"data__augment": "flip"},
    {"freeze": {"unfrozen_stages": "all", "norm_stats": "all_frozen"}},
)


def test_recipes_of_one_configuration_have_the_same_cost_and_are_measured_once(make_inputs, make_recipe):
    kept, inputs = Kept(), make_inputs()
    costs = kept.costs()
    first = costs.of(make_recipe(), inputs, ONE)
    assert {costs.of(make_recipe(**fields), inputs, ONE) for fields in SAME} == {first}
    assert (kept.settled, len(kept)) == (1, 1)
    for count, fields in enumerate(OTHER, start=2):
        costs.of(make_recipe(**fields), inputs, ONE)
        assert (kept.settled, len(kept)) == (count, count)


def test_a_later_process_goes_by_the_figures_that_were_kept(make_inputs, make_recipe):
    kept = Kept()
    first = kept.costs().of(make_recipe(), make_inputs(), ONE)
    assert kept.costs().of(make_recipe(), make_inputs(), ONE) == first
    assert kept.settled == 1


def test_seconds_are_those_of_the_epochs_that_ran_in_each_phase(make_inputs, make_recipe):
    phases = [{"unfrozen_stages": 0, "until_plateau": {"patience_epochs": 1}}, {"train": "all", "epochs": 2}]
    recipe, inputs, costs = make_recipe(freeze={"phases": phases}, training__epochs=6), make_inputs(), Costs()
    result = fine_tune(recipe, inputs)
    assert [ended.phase for ended in result.epochs] == sorted(ended.phase for ended in result.epochs)
    in_first = sum(ended.phase == 0 for ended in result.epochs)
    assert {ended.phase for ended in result.epochs} == {0, 1}
    linear_probe = costs.of(make_recipe(freeze__unfrozen_stages=0), inputs, ONE)
    full = costs.of(make_recipe(), inputs, ONE)
    expected = in_first * linear_probe.seconds + 2 * full.seconds
    found = costs.of(recipe, inputs, result.epochs)
    assert found == Cost(pytest.approx(expected), full.peak_memory_bytes)


def test_an_epoch_costs_its_steps_and_its_batches_of_validation_images(make_inputs, make_recipe):
    kept = Kept()
    kept.costs().of(make_recipe(), make_inputs(), ONE)
    (figures,) = kept.values()
    figures |= {"step_seconds": 1.0, "evaluation_seconds": 100.0}
    labels = {"train": [0, 1, 2] * 7, "val": [0, 1, 2] * 22}  # 21 in batches of 8, 66 in batches of 64
    assert kept.costs().of(make_recipe(), make_inputs(**labels), ONE).seconds == 3 + 200


def test_stages_that_autofreeze_has_stopped_cost_nothing_more(make_inputs, make_recipe):
    recipe, inputs, costs = make_recipe(freeze={"auto": "autofreeze"}), make_inputs(), Costs()
    masks = (0b11111, 0b11100, 0b10000)
    found = [costs.of(recipe, inputs, [EpochEnded(1, {"stages_trained": float(mask)})]) for mask in masks]
    peaks = [cost.peak_memory_bytes for cost in found]
    assert peaks == sorted(set(peaks), reverse=True)
    assert costs.of(recipe, inputs, [EpochEnded(n, {"stages_trained": 31.0}) for n in (1, 2)]).seconds == pytest.approx(
        2 * found[0].seconds
    )
