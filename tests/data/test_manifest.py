from collections import Counter
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from fttune.data.listing import Sample
from fttune.data.manifest import DataChange, Manifest, changes, manifest_of


def image(name: str, label: str, content: str | None = None) -> Sample:
    return Sample(name, label, Path(), content=sha256((content or name).encode()).hexdigest())


images = st.dictionaries(st.integers(0, 60), st.sampled_from(["cat", "dog", "emu"]), max_size=40)


@given(images, images)
@settings(max_examples=100, deadline=None)
def test_joined_left_and_relabelled_images_are_counted_for_each_class(before, now):
    old, new = (manifest_of(image(str(n), label) for n, label in some.items()) for some in (before, now))
    assert changes(old, new) == DataChange(
        dict(Counter(label for n, label in now.items() if n not in before)),
        dict(Counter(label for n, label in before.items() if n not in now)),
        dict(Counter((before[n], now[n]) for n in before if n in now and before[n] != now[n])),
    )


def test_copies_are_counted_as_often_as_they_are_there():
    one, three = ([image(f"{i}", "cat", "same") for i in range(n)] for n in (1, 3))
    assert changes(manifest_of(one), manifest_of(three)) == DataChange({"cat": 2}, {}, {})
    moved = [replace(sample, label="dog") for sample in three[:2]]
    assert changes(manifest_of(three), manifest_of([*moved])) == DataChange({}, {"cat": 1}, {("cat", "dog"): 2})


def test_a_renamed_image_is_no_change_and_an_edited_one_is_another():
    before = manifest_of([image("a", "cat")])
    assert changes(before, manifest_of([replace(image("a", "cat"), name="b")])) == DataChange()
    assert changes(before, manifest_of([image("b", "cat")])) == DataChange({"cat": 1}, {"cat": 1}, {})


def test_a_closed_test_split_goes_by_names_and_what_cannot_be_read_is_left_out():
    closed = Sample("test/x.png", "cat", Path(), "test")
    broken = Sample("y.png", "cat", Path())
    assert changes(manifest_of([broken]), manifest_of([closed])) == DataChange({"cat": 1}, {}, {})
    assert changes(manifest_of([closed]), manifest_of([replace(closed, label="dog")])) == DataChange(
        {}, {}, {("cat", "dog"): 1}
    )


@given(images)
@settings(max_examples=30, deadline=None)
def test_a_manifest_comes_back_from_its_text(some):
    manifest = manifest_of(image(str(n), label) for n, label in some.items())
    assert Manifest.unpacked(manifest.packed()) == manifest
    assert len(manifest.packed()) <= 12 * len(some) + 60


def test_a_change_is_told_in_one_line():
    change = DataChange({"dog": 2, "cat": 10}, {"dog": 3}, {("cat", "dog"): 5})
    assert str(change) == ("images: 12 added (cat 10, dog 2), 3 removed (dog 3), 5 relabelled (cat -> dog 5)")
    assert str(DataChange()) == "the same images, divided or changed in another way"
