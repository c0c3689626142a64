"""Which sample trains, which validates, and which is sealed away. Knows names, labels and groups; reads nothing.

The order that decides is that of sha256(f"{seed}:{name}"): it depends on neither the file system nor a generator.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from fttune.config.data import Split
from fttune.data.listing import Sample, natural, some
from fttune.errors import DataError


@dataclass(frozen=True)
class Splits:
    """The samples of each split in the natural order of their names; val and test may be empty."""

    train: tuple[Sample, ...]
    val: tuple[Sample, ...]
    test: tuple[Sample, ...]


def split_samples(samples: Iterable[Sample], rule: Split) -> Splits:
    """Divide `samples` as `rule` says; a split that the source gave is kept.

    A source with splits but without val gets its val drawn from train by `rule.val`; one without test has none.
    Otherwise, per class of n images in hashed order, the first `max(1, round(n * rule.test))` go to test, the next
    `max(1, round(n * rule.val))` to val, none at share 0. Groups are never divided: in hashed order, a group
    goes to train if train lacks one of its classes, else to the split that lacks the largest share of what it is due.

    Raises:
        DataError: a class without a training image, a group in two splits, too few groups.
    """
    ordered = sorted(samples, key=lambda sample: natural(sample.name))
    given = {sample.split for sample in ordered} - {None}
    _refuse_split_groups(ordered)
    if not given:
        return _divide(ordered, {"test": rule.test, "val": rule.val}, rule.seed)
    parts = {split: tuple(s for s in ordered if s.split == split) for split in ("train", "val", "test")}
    if "val" not in given:
        drawn = _divide(parts["train"], {"val": rule.val}, rule.seed)
        return replace(drawn, test=parts["test"])
    return Splits(**parts)


def limit_per_class(samples: Sequence[Sample], limit: int | None, seed: int) -> tuple[Sample, ...]:
    """Return at most `limit` samples per class, the first in hashed order, in the order of `samples`."""
    if limit is None:
        return tuple(samples)
    kept: set[str] = set()
    for members in _by_label(samples).values():
        kept |= {sample.name for sample in _hashed(members, seed)[:limit]}
    return tuple(sample for sample in samples if sample.name in kept)


def hash_order(name: str, seed: int | str) -> str:
    """Return the sort key of `name`: 64 hex digits."""
    return hashlib.sha256(f"{seed}:{name}".encode(errors="surrogateescape")).hexdigest()


def _divide(samples: Sequence[Sample], shares: Mapping[str, float], seed: int) -> Splits:
    """Draw the splits in the order of `shares`, then check that every class still trains."""
    wanted = {split: share for split, share in shares.items() if share > 0}
    grouped = any(sample.group is not None for sample in samples)
    assigned = _by_groups(samples, wanted, seed) if grouped else _by_class(samples, wanted, seed)
    _refuse_too_few(samples, assigned, wanted, grouped=grouped)
    return Splits(*(tuple(s for s in samples if assigned[s.name] == split) for split in ("train", "val", "test")))


def _by_class(samples: Sequence[Sample], shares: Mapping[str, float], seed: int) -> dict[str, str]:
    assigned: dict[str, str] = {}
    for members in _by_label(samples).values():
        queue = _hashed(members, seed)
        for split, count in _due(len(members), shares).items():
            assigned |= {sample.name: split for sample in queue[:count]}
            queue = queue[count:]
        assigned |= {sample.name: "train" for sample in queue}
    return assigned


def _due(count: int, shares: Mapping[str, float]) -> dict[str, int]:
    return {split: max(1, round(count * share)) for split, share in shares.items()}


def _by_groups(samples: Sequence[Sample], shares: Mapping[str, float], seed: int) -> dict[str, str]:
    groups: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[str(sample.group)].append(sample)
    due = _due_per_class(samples, shares)
    got = {split: Counter[str]() for split in due}
    assigned: dict[str, str] = {}
    for group in sorted(groups, key=lambda name: hash_order(name, seed)):
        labels = Counter(sample.label for sample in groups[group])
        split = _neediest(labels, due, got)
        got[split] += labels
        assigned |= {sample.name: split for sample in groups[group]}
    return assigned


def _due_per_class(samples: Sequence[Sample], shares: Mapping[str, float]) -> dict[str, dict[str, int]]:
    """Return split -> label -> how many images it should get, at least 1."""
    due: dict[str, dict[str, int]] = {"train": {}, "val": {}, "test": {}}
    for label, members in _by_label(samples).items():
        drawn = _due(len(members), shares)
        for split, count in drawn.items():
            due[split][label] = count
        due["train"][label] = max(1, len(members) - sum(drawn.values()))
    return {split: counts for split, counts in due.items() if counts}


def _neediest(labels: Counter[str], due: Mapping[str, Mapping[str, int]], got: Mapping[str, Counter[str]]) -> str:
    if any(got["train"][label] == 0 for label in labels):
        return "train"
    need = {split: sum(n * (1 - got[split][label] / due[split][label]) for label, n in labels.items()) for split in due}
    return max(need, key=lambda split: need[split])


def _refuse_too_few(
    samples: Sequence[Sample], assigned: Mapping[str, str], shares: Mapping[str, float], *, grouped: bool
) -> None:
    counts = Counter(sample.label for sample in samples)
    training = {sample.label for sample in samples if assigned[sample.name] == "train"}
    if small := sorted(set(counts) - training, key=natural):
        named = some((f"{label} ({counts[label]})" for label in small), 20)
        parts = ", ".join(["train", *sorted(shares, reverse=True)])
        raise DataError(
            f"classes with too few images: {named}; each class needs at least one for each of {parts}; "
            "add images, or set the share in data.split to 0"
        )
    if grouped and (empty := sorted(set(shares) - set(assigned.values()))):
        raise DataError(
            f"{len({sample.group for sample in samples})} groups leave no image for {', '.join(empty)}, because a "
            "group is never divided; make smaller groups, or set the share in data.split to 0"
        )


def _refuse_split_groups(samples: Iterable[Sample]) -> None:
    splits: dict[str, set[str]] = defaultdict(set)
    for sample in samples:
        if sample.group is not None and sample.split is not None:
            splits[sample.group].add(sample.split)
    if torn := [f"{group} ({', '.join(sorted(found))})" for group, found in splits.items() if len(found) > 1]:
        raise DataError(
            f"groups that stand in several splits: {some(sorted(torn), 20)}; a group belongs to one split; "
            "correct the column split"
        )


def _by_label(samples: Iterable[Sample]) -> dict[str, list[Sample]]:
    found: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        found[sample.label].append(sample)
    return found


def _hashed(samples: Iterable[Sample], seed: int) -> list[Sample]:
    return sorted(samples, key=lambda sample: hash_order(sample.name, seed))
