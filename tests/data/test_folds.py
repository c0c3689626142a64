"""Folds: balanced, undivided groups, the same on every machine; and the data of each, which share one array."""

from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fttune.config.data import CrossValidation, Data
from fttune.data import ArrayCache, Geometry, load_data, load_folds
from fttune.data.folds import assign_folds
from fttune.data.listing import Sample
from fttune.errors import DataError

GEOMETRY = Geometry(8, 8, "bilinear")


def samples(counts: dict[str, int], *, groups: int | None = None) -> list[Sample]:
    found = [Sample(f"{label}/{n}.png", label, lambda: None) for label, count in counts.items() for n in range(count)]
    return [replace(s, group=f"g{i % groups}") for i, s in enumerate(found)] if groups else found


@given(
    counts=st.dictionaries(st.sampled_from("abcd"), st.integers(2, 30), min_size=1),
    folds=st.integers(2, 5),
    seed=st.integers(0, 99),
)
def test_folds_differ_by_one_image_at_most_and_so_does_each_class(counts, folds, seed):
    listed = samples(counts)
    if len(listed) < folds:
        return
    assigned = assign_folds(listed, folds, repeat=0, seed=seed)
    sizes = Counter(assigned)
    assert set(sizes) == set(range(folds)) and max(sizes.values()) - min(sizes.values()) <= 1
    for label, count in counts.items():
        own = Counter(fold for sample, fold in zip(listed, assigned, strict=True) if sample.label == label)
        assert sum(own.values()) == count
        assert max(own.values()) - min(own[fold] for fold in range(folds)) <= 1


@given(groups=st.integers(5, 12), folds=st.integers(2, 4), seed=st.integers(0, 99))
def test_groups_are_never_divided_and_no_fold_is_empty(groups, folds, seed):
    listed = samples({"a": 30, "b": 15}, groups=groups)
    assigned = assign_folds(listed, folds, repeat=0, seed=seed)
    of_group = defaultdict(set)
    for sample, fold in zip(listed, assigned, strict=True):
        of_group[sample.group].add(fold)
    assert all(len(own) == 1 for own in of_group.values())
    assert set(assigned) == set(range(folds))


def test_grouped_folds_are_about_as_balanced_as_scikit_learns():
    from sklearn.model_selection import StratifiedGroupKFold

    listed = samples({"a": 60, "b": 30, "c": 12}, groups=17)
    labels, groups = [s.label for s in listed], [s.group for s in listed]

    def spread(folds) -> float:
        counts = [Counter(labels[index] for index in fold) for fold in folds]
        return sum(np.std([count[label] / labels.count(label) for count in counts]) for label in "abc")

    ours = assign_folds(listed, 4, repeat=0, seed=0)
    own = [[index for index, fold in enumerate(ours) if fold == number] for number in range(4)]
    theirs = [test for _, test in StratifiedGroupKFold(4).split(labels, labels, groups)]
    assert spread(own) <= 1.5 * spread(theirs) + 0.02


def test_the_order_is_that_of_a_hash_whatever_order_the_samples_are_listed_in():
    import hashlib

    listed = samples({"a": 7, "b": 5})
    key = lambda s: (s.label, hashlib.sha256(f"3/1:{s.name}".encode()).hexdigest())  # noqa: E731
    expected = {s.name: position % 3 for position, s in enumerate(sorted(listed, key=key))}
    for order in (listed, listed[::-1]):
        assigned = assign_folds(order, 3, repeat=1, seed=3)
        assert {s.name: fold for s, fold in zip(order, assigned, strict=True)} == expected
    assert assign_folds(listed, 3, repeat=0, seed=3) != assign_folds(listed, 3, repeat=1, seed=3)


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        (samples({"a": 2, "b": 1}), "evaluation.folds is 5, but the data fill only 3"),
        (samples({"a": 9, "b": 1}), r"classes that lie in one fold alone: b; where it validates"),
        (samples({"a": 9, "b": 9}, groups=3), "evaluation.folds is 5, but the data fill only 3"),
    ],
)
def test_too_few_images_are_refused(listed, message):
    with pytest.raises(DataError, match=message):
        assign_folds(listed, 5, repeat=0, seed=0)


def digits(**fields) -> Data:
    base = {"source": "digits", "image_size": 8, "resize": 8, "split": {"val": 0.2, "test": 0.5}, **fields}
    return Data.model_validate(base)


def loaded(data: Data, tmp_path, evaluation=None):
    places = {"cache": tmp_path, "root": tmp_path, "arrays": ArrayCache(tmp_path / "arrays")}
    if evaluation is None:
        return load_data(data, GEOMETRY, **places)
    return load_folds(data, GEOMETRY, evaluation, **places)


def test_every_sample_of_train_and_val_validates_once_in_each_repeat(tmp_path):
    split = loaded(digits(), tmp_path)
    folds = loaded(digits(), tmp_path, CrossValidation(folds=3, repeats=2))
    assert len(folds.data) == 6
    pool = {*split.train.names, *split.val.names}
    for repeat in (folds.data[:3], folds.data[3:]):
        validated = [name for data in repeat for name in names(data.val)]
        assert len(validated) == len(set(validated)) and set(validated) == pool
        for data in repeat:
            assert not set(names(data.train)) & set(names(data.val))
            assert {*names(data.train), *names(data.val)} == pool


def names(part) -> list[str]:
    return [part.names[index] for index in part.samples]


def test_folds_share_one_array(tmp_path):
    folds = loaded(digits(), tmp_path, CrossValidation(folds=3))
    assert len({part.key for data in folds.data for part in (data.train, data.val)}) == 1
    assert len(list((tmp_path / "arrays").rglob("*.npy"))) == 1


def test_a_limit_holds_in_the_training_part_of_each_fold(tmp_path):
    for data in loaded(digits(limit_per_class=4), tmp_path, CrossValidation(folds=3)).data:
        assert torch.bincount(data.train.own_labels).tolist() == [4] * 10
        assert len(data.val) > 40


def test_what_validates_where_is_known_by_a_digest(tmp_path):
    found = {
        loaded(digits(split={"val": 0.2, "test": 0.5, "seed": seed}), tmp_path, CrossValidation(folds=3)).digest()
        for seed in (0, 0, 1)
    }
    assert len(found) == 2
