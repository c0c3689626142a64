import math
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fttune.training.lr_range import LrRange, RangeTest, lr_range_test, propose, smooth, sweep

STEPS = 100


def least_squares(momentum, seed):
    """Mini-batch SGD on a linear regression with noisy targets: its step function, and the lr at which it diverges.

    Gradient descent with momentum m on a quadratic of largest curvature L is stable below 2 (1 + m) / L (Polyak 1964).
    """
    draws = torch.Generator().manual_seed(seed)
    x = torch.randn(256, 5, generator=draws) * torch.tensor([3.0, 1.0, 1.0, 0.3, 0.1])
    y = x @ torch.randn(5, generator=draws) + 0.3 * torch.randn(256, generator=draws)
    w = torch.zeros(5, requires_grad=True)
    optimizer = torch.optim.SGD([w], lr=1.0, momentum=momentum)
    curvature = torch.linalg.eigvalsh(2 * x.T @ x / len(x))[-1].item()

    def step(_, lr):
        rows = torch.randint(256, (32,), generator=draws)
        optimizer.param_groups[0]["lr"] = lr
        loss = (x[rows] @ w - y[rows]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step, 2 * (1 + momentum) / curvature


@pytest.mark.parametrize("steps", [50, 100, 200])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("seed", range(3))
def test_the_proposed_range_lies_below_the_limit_of_stability(seed, momentum, steps):
    step, limit = least_squares(momentum, seed)
    test = sweep(step, low=1e-6, high=10.0, steps=steps)
    found = propose(test, steps=steps)
    if steps == 50 and momentum and found is None:
        return  # too short to tell a fall from noise: nothing is proposed
    assert found is not None
    assert (1 - momentum) * limit / 100 < found.high < limit  # the loss falls by the effective lr
    assert found.low <= found.high / 9
    if steps > 50 or not momentum:  # momentum swings, and a short sweep may end in one
        assert test.rates[-1] > limit
    assert "rose above 4 times" in test.ended or "became" in test.ended


def test_the_lr_rises_exponentially_from_low_to_high():
    seen = []
    test = sweep(lambda step, lr: seen.append((step, lr)) or 1.0, low=1e-4, high=1.0, steps=5)
    assert test.rates == pytest.approx((1e-4, 1e-3, 1e-2, 1e-1, 1.0))
    assert seen == list(enumerate(test.rates))
    assert "all 5 steps" in test.ended


@given(losses=st.lists(st.floats(0, 100), min_size=1, max_size=60), window=st.floats(1, 40))
def test_smoothing_is_the_weighted_mean_with_weights_that_fall_by_beta(losses, window):
    beta = 1 - 1 / window
    for end, smoothed in enumerate(smooth(losses, window=window), start=1):
        weights = [beta ** (end - 1 - index) for index in range(end)]
        mean = sum(w * loss for w, loss in zip(weights, losses, strict=False)) / sum(weights)
        assert smoothed == pytest.approx(mean, abs=1e-9)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_the_sweep_and_is_left_out(bad):
    test = sweep(lambda step, _: bad if step == 30 else 1.0, low=1e-6, high=1.0, steps=STEPS)
    assert (len(test.rates), len(test.losses), len(test.smoothed)) == (30, 30, 30)
    assert test.ended.startswith(f"the loss became {bad} at lr")


def test_a_sweep_ends_when_the_smoothed_loss_exceeds_four_times_its_best():
    test = sweep(lambda step, _: 1.0 if step < 50 else 100.0, low=1e-6, high=1.0, steps=STEPS)
    assert len(test.rates) == 51  # one value of 100 lifts a mean over about ten to 10.9
    assert "rose above 4 times its best" in test.ended


def test_a_lucky_first_batch_is_no_best_loss():
    test = sweep(lambda step, _: 0.01 if step == 0 else 1.0, low=1e-6, high=1.0, steps=STEPS)
    assert len(test.rates) == STEPS


def test_the_range_is_a_tenth_of_where_the_loss_is_lowest_and_of_where_it_began_to_fall():
    rates = tuple(10 ** (-6 + step * 6 / (STEPS - 1)) for step in range(STEPS))
    losses = tuple(2.0 if lr < 2.1e-3 else 1.0 if lr < 0.58 else 3.0 for lr in rates)
    test = RangeTest(rates, losses, losses, "")
    # it begins to fall at the first lr of 2.1e-3 or more (2.2e-3); all values up to 0.58 are equal, the first counts
    assert propose(test, steps=STEPS) == LrRange(low=2e-5, high=2e-4)
    falling = tuple(loss - 1e-3 * step if loss == 1.0 else loss for step, loss in enumerate(losses))
    assert propose(RangeTest(rates, falling, falling, ""), steps=STEPS) == LrRange(low=2e-4, high=5e-2)


@pytest.mark.parametrize("loss", [lambda _: 1.0, lambda step: 1.0 + 0.01 * step, lambda step: 1.0 - 1e-4 * step])
def test_nothing_is_proposed_when_the_loss_never_falls(loss):
    assert propose(sweep(lambda step, _: loss(step), low=1e-6, high=1.0, steps=STEPS), steps=STEPS) is None


def test_noise_is_hardly_ever_taken_for_a_fall():
    found = 0
    for seed in range(100):
        noise = random.Random(seed)
        test = sweep(lambda _, __, noise=noise: noise.gauss(1.6, 0.3), low=1e-6, high=1.0, steps=STEPS)
        found += propose(test, steps=STEPS) is not None
    assert found <= 5


def test_a_sweep_that_ends_at_once_proposes_nothing():
    assert propose(sweep(lambda *_: math.nan, low=1e-6, high=1.0, steps=STEPS), steps=STEPS) is None


def test_the_test_of_a_recipe_repeats_itself_and_leaves_the_random_state_alone(make_inputs, make_recipe):
    before = torch.get_rng_state()
    one, two = (
        lr_range_test(make_recipe(data__augment="flip"), make_inputs(), low=1e-5, high=1.0, steps=50) for _ in range(2)
    )
    assert one == two
    assert one != lr_range_test(make_recipe(seed=1), make_inputs(), low=1e-5, high=1.0, steps=50)
    assert torch.equal(torch.get_rng_state(), before)


def test_it_trains_the_recipes_own_way(make_inputs, make_recipe):
    """At a constant lr the losses are those of `fine_tune`, with its optimizer, freezing and batches."""
    from fttune.training import fine_tune

    recipe = make_recipe(
        training__epochs=18, freeze__unfrozen_stages=1, freeze__layer_decay=0.5, optimizer__momentum=0.8
    )
    losses = lr_range_test(recipe, make_inputs(), low=0.05, high=0.05 * (1 + 1e-12), steps=50).losses
    assert losses == pytest.approx(fine_tune(recipe, make_inputs()).step_losses[:50], rel=1e-4)
