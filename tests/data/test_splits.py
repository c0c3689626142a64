import random
from collections import Counter
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fttune.config.data import Split
from fttune.data.listing import Sample, natural
from fttune.data.splits import limit_per_class, split_samples
from fttune.errors import DataError


def samples(counts: dict[str, int], split: str | None = None) -> list[Sample]:
    return [Sample(f"{label}/{i}", label, Path(), split) for label, n in counts.items() for i in range(n)]


def grouped(labels_of: dict[str, list[str]]) -> list[Sample]:
    return [
        Sample(f"{g}/{i}", label, Path(), None, g) for g, labels in labels_of.items() for i, label in enumerate(labels)
    ]


class_counts = st.dictionaries(st.sampled_from("abcdef"), st.integers(4, 40), min_size=1)
shares = st.tuples(st.sampled_from([0.0, 0.1, 0.25, 0.3]), st.sampled_from([0.0, 0.1, 0.25, 0.3]))
groups = st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=6), min_size=6, max_size=30)


@given(class_counts, shares, st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_splits_are_disjoint_complete_and_stratified_to_the_image(counts, share, seed):
    val, test = share
    found = split_samples(samples(counts), Split(val=val, test=test, seed=seed))
    parts = {"train": found.train, "val": found.val, "test": found.test}
    assert sorted(s.name for part in parts.values() for s in part) == sorted(s.name for s in samples(counts))
    for label, n in counts.items():
        got = {split: sum(s.label == label for s in part) for split, part in parts.items()}
        n_test = max(1, round(n * test)) if test else 0
        n_val = max(1, round(n * val)) if val else 0
        assert got == {"test": n_test, "val": n_val, "train": n - n_test - n_val}


@given(class_counts, st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_the_split_does_not_depend_on_the_order_of_the_listing(counts, rng: random.Random):
    shuffled = samples(counts)
    rng.shuffle(shuffled)
    assert split_samples(shuffled, Split()) == split_samples(samples(counts), Split())


def test_the_order_within_a_class_is_the_documented_hash():
    found = split_samples(samples({"a": 10}), Split(val=0.2, test=0.3, seed=7))
    order = sorted((f"a/{i}" for i in range(10)), key=lambda name: sha256(f"7:{name}".encode()).hexdigest())
    assert {s.name for s in found.test} == set(order[:3])
    assert {s.name for s in found.val} == set(order[3:5])
    assert [s.name for s in found.train] == sorted(order[5:], key=natural)


def test_another_seed_draws_another_split():
    assert split_samples(samples({"a": 40}), Split(seed=0)) != split_samples(samples({"a": 40}), Split(seed=1))


def test_samples_stand_in_the_natural_order_of_their_names():
    found = split_samples(samples({"a": 12}), Split(val=0, test=0))
    assert [s.name for s in found.train] == [f"a/{i}" for i in range(12)]


def test_names_that_are_no_utf8_are_split_too():
    odd = [Sample(f"\udcff{i}", "a", Path()) for i in range(5)]
    assert len(split_samples(odd, Split()).train) == 3


def test_a_class_that_would_not_train_is_named_with_its_count():
    with pytest.raises(
        DataError, match=r"too few images: b \(2\); each class needs at least one for each of train, val, test"
    ):
        split_samples(samples({"a": 9, "b": 2}), Split())
    assert len(split_samples(samples({"a": 9, "b": 2}), Split(test=0)).train) == 8


def test_given_splits_are_kept_whatever_the_shares():
    mixed = samples({"a": 3}, "train") + samples({"b": 2}, "val") + samples({"c": 1}, "test")
    found = split_samples(mixed, Split(val=0.5, test=0.4))
    assert (len(found.train), len(found.val), len(found.test)) == (3, 2, 1)


def test_a_missing_val_is_drawn_from_train_and_a_missing_test_is_not():
    found = split_samples(samples({"a": 10, "b": 5}, "train"), Split(val=0.2, test=0.2))
    assert Counter(s.label for s in found.val) == {"a": 2, "b": 1}
    assert found.test == ()
    sealed = [*samples({"a": 10}, "train"), *samples({"t": 4}, "test")]
    assert [s.name for s in split_samples(sealed, Split()).test] == ["t/0", "t/1", "t/2", "t/3"]


@given(groups, shares, st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_a_group_never_spans_splits_and_every_class_trains(labels, share, seed):
    everything = grouped({f"g{i}": members for i, members in enumerate(labels)})
    try:
        found = split_samples(everything, Split(val=share[0], test=share[1], seed=seed))
    except DataError as error:
        assert "leave no image for" in str(error)
        return
    parts = [found.train, found.val, found.test]
    assert sorted(s.name for part in parts for s in part) == sorted(s.name for s in everything)
    members = [{s.group for s in part} for part in parts]
    assert not members[0] & members[1] and not members[0] & members[2] and not members[1] & members[2]
    assert {s.label for s in found.train} == {s.label for s in everything}
    reversed_listing = split_samples(reversed(everything), Split(val=share[0], test=share[1], seed=seed))
    assert reversed_listing == found


@pytest.mark.parametrize("seed", range(5))
def test_groups_of_equal_size_meet_the_shares_per_class(seed):
    everything = grouped({f"{label}{i}": [label] * 3 for label in "ab" for i in range(10)})
    found = split_samples(everything, Split(val=0.2, test=0.2, seed=seed))
    for part, expected in ((found.train, 18), (found.val, 6), (found.test, 6)):
        assert Counter(s.label for s in part) == {"a": expected, "b": expected}


def test_too_few_groups_are_refused():
    with pytest.raises(DataError, match=r"2 groups leave no image for test, because a group is never divided"):
        split_samples(grouped({"g": ["a"] * 9, "h": ["a"] * 9}), Split())


def test_val_is_drawn_in_whole_groups_from_a_given_train():
    train = [Sample(f"{g}/{i}", "a", Path(), "train", f"g{g}") for g in range(5) for i in range(2)]
    found = split_samples(train, Split(val=0.2))
    assert len(found.val) == 2 and len({s.group for s in found.val}) == 1


def test_a_group_in_two_given_splits_is_refused():
    torn = [Sample("1", "a", Path(), "train", "p1"), Sample("2", "a", Path(), "val", "p1")]
    with pytest.raises(DataError, match=r"groups that stand in several splits: p1 \(train, val\)"):
        split_samples(torn, Split())


def test_the_limit_keeps_the_first_of_each_class_in_hashed_order():
    everything = split_samples(samples({"a": 9, "b": 2}), Split(val=0, test=0)).train
    kept = limit_per_class(everything, 3, seed=5)
    order = sorted((f"a/{i}" for i in range(9)), key=lambda name: sha256(f"5:{name}".encode()).hexdigest())
    assert [s.name for s in kept] == [*sorted(order[:3]), "b/0", "b/1"]
    assert limit_per_class(everything, None, seed=5) == everything
