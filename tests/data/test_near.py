import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

from fttune.data.near import NEAR_BITS, Likeness, likeness, near_groups

GREY = bytes(72)


def photos() -> list[Image.Image]:
    return [Image.fromarray(pixels) for pixels in load_sample_images().images]


def as_jpeg(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=40)
    return Image.open(buffer)


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=12), st.data())
@settings(max_examples=60, deadline=None)
def test_the_groups_are_those_of_comparing_all_pairs(hashes, data):
    for value in list(hashes):  # neighbours at every distance around the limit
        bits = data.draw(st.lists(st.integers(0, 63), max_size=NEAR_BITS + 2, unique=True))
        hashes.append(value ^ sum(1 << bit for bit in bits))
    groups = [{index} for index in range(len(hashes))]
    for i, first in enumerate(hashes):
        for j, second in enumerate(hashes[:i]):
            if (first ^ second).bit_count() <= NEAR_BITS:
                joined = next(g for g in groups if i in g) | next(g for g in groups if j in g)
                groups = [g for g in groups if not g & joined] + [joined]
    expected = sorted(tuple(sorted(group)) for group in groups if len(group) > 1)
    assert near_groups([Likeness(value, GREY) for value in hashes]) == expected


@pytest.mark.parametrize(
    "change",
    [as_jpeg, lambda i: i.resize((i.width // 2, i.height // 2)), lambda i: i.crop((4, 4, i.width - 4, i.height - 4))],
)
def test_smaller_cut_and_compressed_photographs_are_near_their_originals_alone(change):
    looks = [likeness(image) for original in photos() for image in (original, change(original))]
    assert near_groups(looks) == [(0, 1), (2, 3)]


def test_different_handwritten_digits_are_not_near_though_their_bits_often_are():
    images = [Image.fromarray(np.uint8(pixels * 255 / 16)).resize((28, 28)) for pixels in load_digits().images[:600]]
    assert near_groups([likeness(image) for image in images]) == []


def test_flat_and_tiny_images_have_no_likeness():
    assert likeness(Image.new("RGB", (40, 40), (90, 90, 90))) is None
    assert likeness(photos()[0].resize((15, 40))) is None
    assert near_groups([]) == []
