import numpy as np
from sklearn.datasets import load_digits

import fttune.data
from fttune.config import data
from fttune.data.sources import SOURCES, digits


def test_digits_are_scaled_to_the_whole_range_and_named_by_index():
    samples = digits().samples
    assert len(samples) == 1797
    assert {s.label for s in samples} == set("0123456789")
    assert samples[42].name == "digits[42]"
    original = load_digits()
    pixels = np.asarray(samples[42].image())
    assert pixels.dtype == np.uint8
    assert np.abs(pixels - original.images[42] / 16 * 255).max() <= 0.5
    assert samples[42].label == str(original.target[42])


def test_every_source_of_the_configuration_has_a_function():
    assert [kind.partition(":")[0] for kind in data.SOURCES] == list(SOURCES)


def test_the_room_hands_out_these_names():
    arrays = ["ArrayCache", "NoRoom", "Rows", "Spec", "Stored", "in_memory"]
    images = ["Folds", "Geometry", "ImageData", "Part", "augment", "load_data", "load_folds", "with_views"]
    survey = ["Copies", "Survey", "imbalance", "look"]
    checks = ["Checked", "Finding", "check_data"]
    changes = ["DataChange", "Manifest", "changes"]
    others = ["Unreadable", "decode_files", "has_test", "image_files", "open_test"]
    assert sorted(fttune.data.__all__) == sorted([*arrays, *images, *survey, *checks, *changes, *others])
    assert all(hasattr(fttune.data, name) for name in fttune.data.__all__)
