import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fttune.data import Part
from fttune.training.randomness import (
    augmentation_generator,
    dropout_seed,
    epoch_rows,
    epoch_seed,
    sample_order,
    shown_views,
)

SEEDS = st.integers(0, 2**32 - 1)
EPOCHS = st.integers(1, 100_000)
MULTIPLIER = 2654435761


def draws(seed: int) -> list[float]:
    return torch.rand(4, generator=torch.Generator().manual_seed(seed)).tolist()


@settings(deadline=None)
@given(n=st.integers(1, 200), seed=SEEDS, epoch=EPOCHS)
def test_the_order_of_samples_is_the_documented_formula(n, seed, epoch):
    generator = torch.Generator().manual_seed((seed * MULTIPLIER + epoch) % 2**32)
    assert torch.equal(sample_order(n, seed=seed, epoch=epoch), torch.randperm(n, generator=generator))


@settings(deadline=None)
@given(n=st.integers(1, 200), seed=SEEDS, epoch=EPOCHS)
def test_an_epoch_sees_every_sample_once(n, seed, epoch):
    assert sorted(sample_order(n, seed=seed, epoch=epoch).tolist()) == list(range(n))


def test_torchs_generator_reads_only_32_bits_of_its_seed():
    """Why the formula ends with a modulus: anything above would be dropped in silence."""
    assert draws(5) == draws(2**32 + 5) == draws(2**53 + 5)
    assert draws(5) != draws(2**31 + 5)


def test_no_two_of_4096_consecutive_seeds_share_an_order_within_100_000_epochs():
    shifts = [distance * MULTIPLIER % 2**32 for distance in range(1, 4096)]
    assert min(min(shift, 2**32 - shift) for shift in shifts) > 100_000
    assert MULTIPLIER % 2 == 1, "so in any one epoch all seeds differ"


@settings(deadline=None)
@given(a=st.tuples(SEEDS, EPOCHS), b=st.tuples(SEEDS, EPOCHS))
def test_another_seed_or_another_epoch_gives_another_epoch_seed(a, b):
    if (a[0] == b[0]) != (a[1] == b[1]) or (a != b and abs(a[0] - b[0]) < 4096):
        assert epoch_seed(*a) != epoch_seed(*b)
    assert 0 <= epoch_seed(*a) < 2**32


def test_seed_4096_does_not_repeat_seed_0():
    assert not torch.equal(sample_order(50, seed=0, epoch=1), sample_order(50, seed=4096, epoch=1))


@settings(deadline=None)
@given(seed=SEEDS, epochs=st.tuples(EPOCHS, EPOCHS))
def test_order_augmentation_and_dropout_draw_from_different_streams(seed, epochs):
    one, other = epochs
    augmentation = augmentation_generator(seed=seed, epoch=one)
    assert torch.rand(4, generator=augmentation).tolist() == draws((epoch_seed(seed, one) + 2**30) % 2**32)
    seeds = {epoch_seed(seed, other), (epoch_seed(seed, one) + 2**30) % 2**32, dropout_seed(seed=seed, epoch=one)}
    assert len(seeds) == 3


def test_drawing_augmentation_does_not_move_the_order():
    augmentation = augmentation_generator(seed=3, epoch=2)
    before = sample_order(20, seed=3, epoch=2)
    torch.rand(100, generator=augmentation)
    assert torch.equal(sample_order(20, seed=3, epoch=2), before)
    assert torch.rand(4, generator=augmentation_generator(seed=3, epoch=2)).tolist() != draws(epoch_seed(3, 2))


@settings(deadline=None)
@given(n=st.integers(1, 200), views=st.integers(2, 100), seed=SEEDS, epoch=EPOCHS)
def test_the_shown_views_are_the_documented_formula(n, views, seed, epoch):
    generator = torch.Generator().manual_seed((seed * MULTIPLIER + epoch + 2**30) % 2**32)
    assert torch.equal(shown_views(n, views, seed=seed, epoch=epoch), torch.randint(views, (n,), generator=generator))


@pytest.mark.parametrize("views", [1, 4])
def test_an_epoch_shows_each_sample_once_in_the_order_of_samples_in_the_view_that_was_drawn(views):
    part = Part(np.zeros((views * 30, 1, 1, 3), np.uint8), torch.arange(30), ("x",) * 30, "key", views)
    rows = epoch_rows(part, seed=3, epoch=2)
    assert torch.equal(rows % 30, sample_order(30, seed=3, epoch=2))
    drawn = shown_views(30, views, seed=3, epoch=2).tolist()
    assert [row // 30 for row in rows.tolist()] == [drawn[row % 30] for row in rows.tolist()]
    assert torch.equal(part.labels_of(rows), rows % 30)


def test_another_epoch_or_seed_shows_other_views():
    shown = [shown_views(50, 4, seed=seed, epoch=epoch).tolist() for seed, epoch in ((0, 1), (0, 2), (1, 1))]
    assert shown[0] != shown[1] != shown[2] != shown[0]
