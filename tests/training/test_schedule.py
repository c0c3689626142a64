import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import lr_scheduler

from fttune.config.sections import Training
from fttune.training.schedule import lr_factor, plateau_factor

LR = 0.3


def ours(fields: dict[str, Any], steps_per_epoch: int) -> list[float]:
    training = Training.model_validate({"batch_size": 1, **fields})
    steps = range(training.epochs * steps_per_epoch)
    return [LR * lr_factor(training, step=step, steps_per_epoch=steps_per_epoch) for step in steps]


def torchs(steps: int, make) -> list[float]:
    """The lr of each step under one of torch's own schedulers."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=LR)
    scheduler, rates = make(optimizer), []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def warm_up(optimizer, steps: int) -> lr_scheduler.LRScheduler:
    return lr_scheduler.LinearLR(optimizer, start_factor=1 / steps, total_iters=steps - 1)


@pytest.mark.parametrize(("epochs", "per_epoch"), [(1, 1), (3, 7), (10, 4)])
def test_constant_never_changes(epochs, per_epoch):
    assert ours({"epochs": epochs}, per_epoch) == [LR] * (epochs * per_epoch)


@pytest.mark.parametrize(("epochs", "per_epoch"), [(1, 1), (3, 7), (10, 4)])
def test_cosine_is_torchs_cosine_annealing(epochs, per_epoch):
    steps = epochs * per_epoch
    expected = torchs(steps, lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=steps))
    assert ours({"epochs": epochs, "schedule": "cosine"}, per_epoch) == pytest.approx(expected)


@pytest.mark.parametrize(("every", "factor"), [(1, 0.5), (3, 0.1), (4, 0.9)])
def test_step_is_torchs_step_lr(every, factor):
    expected = torchs(50, lambda o: lr_scheduler.StepLR(o, step_size=every * 5, gamma=factor))
    fields = {"epochs": 10, "schedule": "step", "step_epochs": every, "step_factor": factor}
    assert ours(fields, 5) == pytest.approx(expected)


@pytest.mark.parametrize("warmup_epochs", [0.5, 1.0, 2.25])
def test_warm_up_is_torchs_linear_lr_and_cosine_covers_the_rest(warmup_epochs):
    warm = round(warmup_epochs * 8)
    expected = torchs(warm, lambda o: warm_up(o, warm))
    expected += torchs(40 - warm, lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=40 - warm))
    fields = {"epochs": 5, "schedule": "cosine", "warmup_epochs": warmup_epochs}
    assert ours(fields, 8) == pytest.approx(expected)


def test_steps_are_counted_from_the_start_of_the_run_and_not_from_the_end_of_the_warm_up():
    fields = {"epochs": 4, "schedule": "step", "step_epochs": 2, "step_factor": 0.1, "warmup_epochs": 1}
    assert ours(fields, 2) == pytest.approx([LR / 2, LR, LR, LR, LR / 10, LR / 10, LR / 10, LR / 10])


def test_a_warm_up_of_less_than_half_a_step_is_none():
    assert ours({"epochs": 2, "warmup_epochs": 0.04}, 10) == [LR] * 20


@settings(deadline=None)
@given(
    schedule=st.sampled_from(
        [
            {},
            {"schedule": "cosine"},
            {"schedule": "step", "step_epochs": 2},
            {"schedule": "polynomial", "power": 2.0},
            {"schedule": "plateau"},
        ]
    ),
    epochs=st.integers(1, 12),
    per_epoch=st.integers(1, 30),
    warmup=st.floats(0, 0.999),
)
def test_factors_lie_in_0_to_1_and_rise_during_the_warm_up_only(schedule, epochs, per_epoch, warmup):
    rates = ours({**schedule, "epochs": epochs, "warmup_epochs": warmup * epochs}, per_epoch)
    warm = round(warmup * epochs * per_epoch)
    assert all(0 < rate <= LR for rate in rates)
    assert all(a < b for a, b in itertools.pairwise(rates[:warm]))
    assert all(a >= b for a, b in itertools.pairwise(rates[warm:]))
    assert rates[warm : warm + 1] in ([], [pytest.approx(LR)]) or schedule.get("schedule") == "step"
    assert all(math.isfinite(rate) for rate in rates)


LENGTHS = {"epochs": st.integers(1, 12), "per_epoch": st.integers(1, 30)}


@settings(deadline=None)
@given(**LENGTHS)
def test_one_cycle_is_torchs_one_cycle_lr_at_any_length(epochs, per_epoch):
    steps = epochs * per_epoch
    expected = torchs(steps, lambda o: lr_scheduler.OneCycleLR(o, LR, total_steps=steps, cycle_momentum=False))
    assert ours({"epochs": epochs, "schedule": "one_cycle"}, per_epoch) == pytest.approx(expected)


@settings(deadline=None)
@given(**LENGTHS, power=st.floats(0.1, 5), warmup=st.floats(0, 0.999))
def test_polynomial_is_torchs_polynomial_lr_after_the_warm_up(epochs, per_epoch, power, warmup):
    steps = epochs * per_epoch
    warm = round(warmup * epochs * per_epoch)
    rest = max(steps - warm, 1)
    expected = torchs(warm, lambda o: warm_up(o, warm)) if warm else []
    expected += torchs(steps - warm, lambda o: lr_scheduler.PolynomialLR(o, total_iters=rest, power=power))
    fields = {"epochs": epochs, "schedule": "polynomial", "power": power, "warmup_epochs": warmup * epochs}
    assert ours(fields, per_epoch) == pytest.approx(expected, abs=1e-12)


@settings(deadline=None)
@given(
    losses=st.lists(st.sampled_from([-1.0, 0.0, 0.25, 0.5, 1.0]) | st.floats(-10, 10), max_size=40),
    factor=st.floats(0.05, 0.95),
    patience=st.integers(0, 4),
    direction=st.sampled_from(["minimize", "maximize"]),
)
def test_plateau_is_torchs_reduce_lr_on_plateau_without_threshold(losses, factor, patience, direction):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=LR)
    settings = {"factor": factor, "patience": patience, "threshold": 0, "threshold_mode": "abs", "eps": 0}
    mode = "min" if direction == "minimize" else "max"
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, mode, **settings)
    fields = {"schedule": "plateau", "plateau_factor": factor, "plateau_patience_epochs": patience}
    training = Training.model_validate({"epochs": 1, **fields})
    assert plateau_factor(training, [], direction) == 1
    for epoch, loss in enumerate(losses, 1):
        scheduler.step(loss)
        assert LR * plateau_factor(training, losses[:epoch], direction) == pytest.approx(
            optimizer.param_groups[0]["lr"]
        )


def test_plateau_cuts_to_a_tenth_after_three_epochs_in_a_row_without_a_better_one():
    training = Training(epochs=9, schedule="plateau")
    losses = [1.0, 0.5, 0.5, 0.6, 0.5, 0.4, 0.4]
    factors = [plateau_factor(training, losses[:epoch], "minimize") for epoch in range(len(losses) + 1)]
    assert factors == [1, 1, 1, 1, 1, 0.1, 0.1, 0.1]


@pytest.mark.parametrize("schedule", ["constant", "cosine", "polynomial", "one_cycle"])
def test_only_plateau_watches_the_monitored_values(schedule):
    assert plateau_factor(Training(epochs=9, schedule=schedule), [1.0] * 9, "minimize") == 1


def test_epochs_that_end_within_the_warm_up_are_no_plateau():
    training = Training(epochs=9, schedule="plateau", warmup_epochs=3.5, plateau_patience_epochs=0)
    values = [0.1, 0.2, 0.3, 0.9, 0.8, 0.8]
    assert [plateau_factor(training, values[:epoch], "minimize") for epoch in range(7)] == [1, 1, 1, 1, 1, 1, 0.1]


@settings(deadline=None)
@given(
    schedule=st.sampled_from(["constant", "cosine", "polynomial", "plateau", "one_cycle"]),
    stretch=st.integers(1, 5),
    per_epoch=st.integers(1, 7),
    warmup=st.floats(0, 20, exclude_max=True),
)
def test_a_stretch_may_be_as_short_as_the_warm_up_or_shorter(schedule, stretch, per_epoch, warmup):
    warmup = 0.0 if schedule == "one_cycle" else warmup
    training = Training(epochs=20, schedule=schedule, warmup_epochs=warmup)
    steps = range(stretch * per_epoch)
    factors = [lr_factor(training, step=step, steps_per_epoch=per_epoch, epochs=stretch) for step in steps]
    assert all(0 < factor <= 1 for factor in factors)


@given(schedule=st.sampled_from(["cosine", "polynomial", "one_cycle"]), stretch=st.integers(1, 9))
def test_a_stretch_of_a_run_is_scheduled_as_a_run_of_that_length(schedule, stretch):
    whole, short = Training(epochs=9, schedule=schedule), Training(epochs=stretch, schedule=schedule)
    for step in range(stretch * 3):
        alone = lr_factor(short, step=step, steps_per_epoch=3)
        assert lr_factor(whole, step=step, steps_per_epoch=3, epochs=stretch) == alone
