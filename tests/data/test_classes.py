from pathlib import Path

import pytest

from fttune.data.classes import class_names, keep_classes
from fttune.data.listing import Sample, natural
from fttune.data.splits import Splits
from fttune.errors import DataError


def of(labels: str, split: str | None = None) -> tuple[Sample, ...]:
    return tuple(Sample(label, label, Path(), split) for label in labels)


def test_classes_stand_in_natural_order():
    samples = [Sample(str(i), f"class{i}", Path()) for i in (10, 2, 1)]
    assert class_names(Splits(tuple(samples), (), ())) == ("class1", "class2", "class10")
    assert sorted(["b", "a10", "a9", "01", "1", ""], key=natural) == ["", "01", "1", "a9", "a10", "b"]


def test_only_wanted_classes_are_kept():
    assert {s.label for s in keep_classes(of("abc"), ("c", "a"))} == {"a", "c"}


def test_an_unknown_class_is_refused_with_near_names():
    samples = [Sample(name, name, Path()) for name in ("tabby", "beagle")]
    with pytest.raises(
        DataError, match=r"data\.classes: must be one of beagle, tabby, got 'tabbi'; did you mean 'tabby'"
    ):
        keep_classes(samples, ("tabbi", "beagle"))


@pytest.mark.parametrize(("labels", "wanted"), [("", None), ("a", None), ("ab", ("b",))])
def test_fewer_than_two_classes_are_refused(labels, wanted):
    with pytest.raises(DataError, match="a classifier needs two"):
        keep_classes(of(labels), wanted)


def test_train_needs_two_classes_of_its_own():
    with pytest.raises(DataError, match="train has the classes a, but a classifier needs two"):
        class_names(Splits(of("a"), of("b", "val"), ()))


def test_classes_that_the_splits_do_not_share_are_named():
    with pytest.raises(DataError) as error:
        class_names(Splits(of("abd", "train"), of("acd", "val"), of("x", "test")))
    assert str(error.value) == (
        "train has no images of c, but val has; train has no images of x, but test has; "
        "val has no images of b, but train has; all splits need the same classes: add images or set data.classes"
    )


def test_a_drawn_val_and_the_test_split_may_lack_a_class():
    assert class_names(Splits(of("ab", "train"), of("a", "train"), of("a", "test"))) == ("a", "b")
    assert class_names(Splits(of("ab"), of("b"), ())) == ("a", "b")
