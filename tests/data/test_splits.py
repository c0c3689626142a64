import random
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fttune.config.data import Split
from fttune.data.listing import Sample, natural
from fttune.data.splits import Splits, limit_per_class, split_samples
from fttune.errors import DataError
from tests.splitting import part_at, place


def samples(counts: dict[str, int], split: str | None = None) -> list[Sample]:
    return [image(f"{label}/{i}", label, split) for label, n in counts.items() for i in range(n)]


def image(name: str, label: str, split: str | None = None) -> Sample:
    return Sample(name, label, Path(), split, content=sha256(name.encode()).hexdigest())


def by_place(u: float, val: float, test: float) -> str:
    return part_at(u, val=val, test=test)


def parts_of(found: Splits) -> dict[str, str]:
    return {s.name: split for split in ("train", "val", "test") for s in getattr(found, split)}


def lack(everything: list[Sample], val: float, test: float, seed: int) -> bool:
    """Whether a class has nothing in a split with a share, when all go by their places."""
    wanted = {"train", *(["val"] if val else []), *(["test"] if test else [])}
    found: dict[str, set[str]] = {}
    for s in everything:
        found.setdefault(s.label, set()).add(by_place(place(s.group or s.content, seed), val, test))
    return any(splits < wanted for splits in found.values())


def grouped(labels_of: dict[str, list[str]]) -> list[Sample]:
    return [
        Sample(f"{g}/{i}", label, Path(), None, g) for g, labels in labels_of.items() for i, label in enumerate(labels)
    ]


class_counts = st.dictionaries(st.sampled_from("abcdef"), st.integers(4, 40), min_size=1)
shares = st.tuples(st.sampled_from([0.0, 0.1, 0.25, 0.3]), st.sampled_from([0.0, 0.1, 0.25, 0.3]))
groups = st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=6), min_size=6, max_size=30)


@given(class_counts, shares, st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_splits_are_disjoint_and_complete_and_lack_no_class(counts, share, seed):
    val, test = share
    everything = samples(counts)
    found = split_samples(everything, Split(val=val, test=test, seed=seed))
    assert len(parts_of(found)) == len(found.train) + len(found.val) + len(found.test) == len(everything)
    for part, wanted in ((found.train, True), (found.val, val > 0), (found.test, test > 0)):
        assert {s.label for s in part} == (set(counts) if wanted else set())


@given(st.dictionaries(st.sampled_from("abc"), st.integers(20, 60), min_size=1), shares, st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_an_image_goes_by_the_hash_of_its_content_and_the_shares(counts, share, seed):
    everything = samples(counts)
    assume(not lack(everything, *share, seed))
    found = parts_of(split_samples(everything, Split(val=share[0], test=share[1], seed=seed)))
    assert found == {s.name: by_place(place(s.content, seed), *share) for s in everything}


@given(
    st.dictionaries(st.sampled_from("abc"), st.integers(10, 40), min_size=1),
    st.lists(st.sampled_from("abcd"), max_size=40),
    shares,
    st.integers(0, 1000),
)
@settings(max_examples=100, deadline=None)
def test_adding_and_removing_images_moves_no_other_one_while_no_class_lacked_one(counts, more, share, seed):
    before = samples(counts)
    after = before[len(before) // 10 :] + [image(f"new/{i}", label) for i, label in enumerate(more)]
    assume(not lack(before, *share, seed) and not lack(after, *share, seed))
    rule = Split(val=share[0], test=share[1], seed=seed)
    first, second = parts_of(split_samples(before, rule)), parts_of(split_samples(after, rule))
    assert {name: split for name, split in second.items() if name in first} == {
        name: split for name, split in first.items() if name in second
    }


@given(class_counts, shares, st.integers(0, 1000))
@settings(max_examples=100, deadline=None)
def test_each_gap_is_filled_by_one_image_and_all_others_go_by_their_places(counts, share, seed):
    everything = samples(counts)
    found = parts_of(split_samples(everything, Split(val=share[0], test=share[1], seed=seed)))
    for label in counts:
        own = {s.name: by_place(place(s.content, seed), *share) for s in everything if s.label == label}
        wanted = {"train", *(["val"] if share[0] else []), *(["test"] if share[1] else [])}
        moved = [name for name, split in own.items() if found[name] != split]
        assert sorted(found[name] for name in moved) == sorted(wanted - set(own.values()))


def test_the_next_in_order_fills_a_gap():
    everything = [s for s in samples({"a": 40}) if place(s.content, 0) >= 0.4][:4]
    order = sorted(everything, key=lambda s: place(s.content, 0))
    found = split_samples(everything, Split())
    assert found.test == (order[0],) and found.val == (order[1],)
    assert set(found.train) == set(order[2:])


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 11)), min_size=20, max_size=60), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_equal_images_never_stand_in_two_splits(drawn, seed):
    copies = [Sample(f"{label}/{i}", label, Path(), content=f"{n:064d}") for i, (label, n) in enumerate(drawn)]
    try:
        found = split_samples(copies, Split(seed=seed))
    except DataError as error:
        assert "equal images count once" in str(error)
        return
    contents = [{s.content for s in part} for part in (found.train, found.val, found.test)]
    assert not contents[0] & contents[1] and not contents[0] & contents[2] and not contents[1] & contents[2]


def test_a_class_of_copies_of_one_image_is_refused():
    copies = [replace(s, content="f" * 64) if s.label == "b" else s for s in samples({"a": 9, "b": 5})]
    with pytest.raises(DataError, match=r"too few images: b \(1\); .* equal images count once"):
        split_samples(copies, Split())


@given(class_counts, st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_the_split_does_not_depend_on_the_order_of_the_listing(counts, rng: random.Random):
    shuffled = samples(counts)
    rng.shuffle(shuffled)
    assert split_samples(shuffled, Split()) == split_samples(samples(counts), Split())


def test_another_seed_draws_another_split():
    assert split_samples(samples({"a": 40}), Split(seed=0)) != split_samples(samples({"a": 40}), Split(seed=1))


def test_samples_stand_in_the_natural_order_of_their_names():
    found = split_samples(samples({"a": 12}), Split(val=0, test=0))
    assert [s.name for s in found.train] == [f"a/{i}" for i in range(12)]


def test_names_that_are_no_utf8_are_split_too():
    odd = [Sample(f"\udcff{i}", "a", Path()) for i in range(50)]
    places = [sha256(f"0:{s.name}".encode(errors="surrogateescape")).digest()[:8] for s in odd]
    trained = [s for s, first in zip(odd, places, strict=True) if int.from_bytes(first, "big") >= 0.4 * 2**64]
    assert list(split_samples(odd, Split()).train) == sorted(trained, key=lambda s: natural(s.name))


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
    given_train = samples({"a": 40, "b": 30}, "train")
    found = split_samples(given_train, Split(val=0.2, test=0.2))
    assert {s.name for s in found.val} == {s.name for s in given_train if place(s.content, 0) < 0.2}
    assert {s.label for s in found.val} == {"a", "b"} and found.test == ()
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


@given(st.integers(0, 1000), shares)
@settings(max_examples=40, deadline=None)
def test_groups_go_by_the_hash_of_their_name(seed, share):
    everything = grouped({f"{label}{i}": [label] * 3 for label in "ab" for i in range(20)})
    assume(not lack(everything, *share, seed))
    found = parts_of(split_samples(everything, Split(val=share[0], test=share[1], seed=seed)))
    assert found == {s.name: by_place(place(s.group, seed), *share) for s in everything}


@given(groups, groups, shares, st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_groups_keep_their_split_when_others_are_added_while_no_class_lacked_one(labels, more, share, seed):
    before = grouped({f"g{i}": members for i, members in enumerate(labels)})
    after = before + grouped({f"new{i}": members for i, members in enumerate(more)})
    assume(not lack(before, *share, seed) and not lack(after, *share, seed))
    rule = Split(val=share[0], test=share[1], seed=seed)
    first, second = parts_of(split_samples(before, rule)), parts_of(split_samples(after, rule))
    assert {name: second[name] for name in first} == first


def test_too_few_groups_are_refused():
    with pytest.raises(DataError, match=r"2 groups leave no image for (val|test), because a group is never divided"):
        split_samples(grouped({"g": ["a"] * 9, "h": ["a"] * 9}), Split())


def test_val_is_drawn_in_whole_groups_from_a_given_train():
    train = [Sample(f"{g}/{i}", "a", Path(), "train", f"g{g}") for g in range(20) for i in range(2)]
    found = split_samples(train, Split(val=0.2))
    assert {s.name for s in found.val} == {s.name for s in train if place(s.group, 0) < 0.2}
    assert 0 < len(found.val) < 40


def test_a_group_in_two_given_splits_is_refused():
    torn = [Sample("1", "a", Path(), "train", "p1"), Sample("2", "a", Path(), "val", "p1")]
    with pytest.raises(DataError, match=r"groups that stand in several splits: p1 \(train, val\)"):
        split_samples(torn, Split())


def test_the_limit_keeps_those_of_each_class_that_come_first_by_their_places():
    everything = split_samples(samples({"a": 9, "b": 2}), Split(val=0, test=0)).train
    kept = limit_per_class(everything, 3, seed=5)
    order = sorted((s for s in everything if s.label == "a"), key=lambda s: place(s.content, 5))
    assert [s.name for s in kept] == [*sorted(s.name for s in order[:3]), "b/0", "b/1"]
    assert limit_per_class(everything, None, seed=5) == everything
