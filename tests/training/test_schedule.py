import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import lr_scheduler

from fttune.config.sections import Training
from fttune.training.schedule import lr_factor

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
    schedule=st.sampled_from([{}, {"schedule": "cosine"}, {"schedule": "step", "step_epochs": 2}]),
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
