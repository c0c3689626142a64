"""Shifts of pixels and labels against other libraries, formulas written out, and their own inverses."""

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from fttune.config.data import Shift
from fttune.data.shift import changes_pixels, shift_images, shift_labels

FLIP = Shift(label_flip=True)
IMAGES = np.random.default_rng(0).integers(0, 256, (4, 9, 9, 3), dtype=np.uint8)
SMOOTH = np.stack([ndimage.gaussian_filter(image, (2, 2, 0)) for image in np.repeat(IMAGES, 4, 1).repeat(4, 2)])
arrays = hnp.arrays(np.uint8, st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5), st.just(3)))
quickly = settings(deadline=None, max_examples=30)


@quickly
@given(arrays, st.floats(0.01, 1))
def test_contrast_is_a_factor_around_the_mean_of_each_image_and_channel(images, factor):
    shifted = shift_images(images, Shift(contrast=factor))
    assert shifted.dtype == np.uint8
    for image, found in zip(images, shifted, strict=True):
        for channel in range(3):
            values = image[..., channel].ravel().tolist()
            mean = sum(values) / len(values)
            exact = [(x - mean) * factor + mean for x in values]
            assert found[..., channel].ravel() == pytest.approx(exact, abs=0.5 + 1e-6)


def test_full_contrast_and_no_turn_change_nothing():
    assert np.array_equal(shift_images(IMAGES, Shift(contrast=1)), IMAGES)
    assert np.array_equal(shift_images(IMAGES, Shift(rotate=0)), IMAGES)


@pytest.mark.parametrize(("degrees", "quarters"), [(90, 1), (180, 2), (-90, 3), (-180, 2)])
def test_a_quarter_turn_is_exact_and_counter_clockwise(degrees, quarters):
    assert np.array_equal(shift_images(IMAGES, Shift(rotate=degrees)), np.rot90(IMAGES, quarters, axes=(1, 2)))


@pytest.mark.parametrize("degrees", [30, -17.5, 135])
def test_a_turn_is_scipys_bilinear_one_about_the_centre(degrees):
    turned = shift_images(SMOOTH, Shift(rotate=degrees))
    expected = ndimage.rotate(SMOOTH.astype(float), degrees, axes=(1, 2), reshape=False, order=1)
    inside = slice(9, 27)  # of 36: never beyond the border
    difference = turned[:, inside, inside].astype(float) - expected[:, inside, inside]
    assert np.abs(difference).max() <= 1.001, "Pillow rounds down"
    assert turned.shape == SMOOTH.shape and (turned[:, 0, 0] == 0).all(), "black beyond the border"


@quickly
@given(arrays, st.integers(0, 2**32 - 1))
def test_a_permutation_keeps_every_pixel_of_every_image(images, seed):
    shifted = shift_images(images, Shift(permute_pixels=seed))
    assert shifted.shape == images.shape
    for image, found in zip(images, shifted, strict=True):
        assert sorted(map(tuple, image.reshape(-1, 3).tolist())) == sorted(map(tuple, found.reshape(-1, 3).tolist()))


def test_the_permutation_is_that_of_the_documented_hashes_for_all_images_of_a_size():
    order = sorted(range(81), key=lambda p: hashlib.sha256(f"5:{p}".encode()).hexdigest())
    shifted = shift_images(IMAGES, Shift(permute_pixels=5))
    for image, found in zip(IMAGES, shifted, strict=True):
        assert [found[i // 9, i % 9].tolist() for i in range(81)] == [image[p // 9, p % 9].tolist() for p in order]
    assert not np.array_equal(shifted, IMAGES)
    assert not np.array_equal(shifted, shift_images(IMAGES, Shift(permute_pixels=6)))


@quickly
@given(st.lists(st.integers(0, 6)))
def test_flipped_labels_flipped_again_are_the_labels(values):
    labels = torch.tensor(values, dtype=torch.int64)
    flipped = shift_labels(labels, FLIP, classes=7)
    assert flipped.tolist() == [6 - value for value in values]
    assert torch.equal(shift_labels(flipped, FLIP, classes=7), labels)


@pytest.mark.parametrize("shift", ["none", FLIP, Shift(contrast=0.5), Shift(rotate=9), Shift(permute_pixels=1)])
def test_a_shift_changes_pixels_or_labels_and_not_its_argument(shift):
    images, labels = IMAGES.copy(), torch.arange(4)
    images.flags.writeable = False
    shifted = shift_images(images, shift)
    assert np.array_equal(shifted, images) != changes_pixels(shift)
    assert torch.equal(shift_labels(labels, shift, classes=4), labels) == (shift is not FLIP)


@quickly
@given(st.sampled_from([Shift(contrast=0.3), Shift(rotate=40), Shift(permute_pixels=2)]), st.integers(0, 4))
def test_an_image_is_shifted_by_itself(shift, cut):
    parts = [shift_images(part, shift) for part in (IMAGES[:cut], IMAGES[cut:])]
    assert np.array_equal(np.concatenate(parts), shift_images(IMAGES, shift))
