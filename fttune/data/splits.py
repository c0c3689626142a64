"""Which sample trains, which validates, and which is sealed away. Reads nothing: contents are hashed before.

A sample's place u in [0, 1) is the first 8 bytes of sha256(f"{seed}:{content hash}") as a fraction. It depends on
neither names, the file system, a generator, nor on which other samples there are: so others may join or leave.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
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
    Otherwise a sample goes to test if its u < `rule.test`, to val if u < `rule.test + rule.val`, else to train; samples
    of a group all go by the group's name in place of the content. So equal images, or those of a group, are never
    divided. Only where a class would have nothing in a split that has a share, the next in order of u of those that can
    be spared elsewhere fills it. An image that could not be read to be hashed goes by its name.

    Raises:
        DataError: a class with too few different images, a group in two given splits, too few groups.
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
    """Return at most `limit` samples per class, those of the smallest u, in the order of `samples`."""
    if limit is None:
        return tuple(samples)
    kept: set[str] = set()
    for members in _by_label(samples).values():
        first = sorted(members, key=lambda sample: (_place(_content(sample), seed), sample.name))
        kept |= {sample.name for sample in first[:limit]}
    return tuple(sample for sample in samples if sample.name in kept)


def hash_order(name: str, seed: int | str) -> str:
    """Return the sort key of `name`: 64 hex digits."""
    return hashlib.sha256(f"{seed}:{name}".encode(errors="surrogateescape")).hexdigest()


@dataclass
class _Units:
    """What is never divided, by its key: a group, or all samples of one content, with its classes, u and split."""

    labels: Mapping[str, Set[str]]
    place: Mapping[str, float]
    split: dict[str, str]


def _divide(samples: Sequence[Sample], shares: Mapping[str, float], seed: int) -> Splits:
    """Draw the splits in the order of `shares`, the rest trains; then check that no class lacks any."""
    spans, low = {}, 0.0
    for split, share in (*shares.items(), ("train", 1.0)):
        if share > 0:
            spans[split] = low, low + share
        low += share
    labels: dict[str, set[str]] = defaultdict(set)
    for sample in samples:
        labels[_unit(sample)].add(sample.label)
    place = {unit: _place(unit, seed) for unit in labels}
    split_of = {unit: next(split for split, (_, high) in spans.items() if u < high) for unit, u in place.items()}
    units = _Units(labels, place, split_of)
    _fill_gaps(units, spans)
    _refuse_too_few(samples, units, spans)
    parts = {split: tuple(s for s in samples if units.split[_unit(s)] == split) for split in ("train", "val", "test")}
    return Splits(**parts)


def _fill_gaps(units: _Units, spans: Mapping[str, tuple[float, float]]) -> None:
    """Give each split that lacks a class one unit of it: train first, which may take from a split the last one."""
    held = Counter((units.split[unit], label) for unit, labels in units.labels.items() for label in labels)
    having: dict[str, list[str]] = defaultdict(list)
    for unit, labels in units.labels.items():
        for label in labels:
            having[label].append(unit)
    for split in sorted(spans, key=lambda split: split != "train"):
        for label in sorted(having, key=natural):
            if held[split, label]:
                continue
            spared = [u for u in having[label] if all(held[units.split[u], own] > 1 for own in units.labels[u])]
            if not (offered := spared or (having[label] if split == "train" else [])):
                continue
            low, high = spans[split]
            unit = min(offered, key=lambda unit: (max(low - units.place[unit], units.place[unit] - high), unit))
            held.subtract((units.split[unit], own) for own in units.labels[unit])
            held.update((split, own) for own in units.labels[unit])
            units.split[unit] = split


def _refuse_too_few(samples: Sequence[Sample], units: _Units, spans: Mapping[str, tuple[float, float]]) -> None:
    parts = ", ".join(["train", *sorted(set(spans) - {"train"}, reverse=True)])
    if any(sample.group is not None for sample in samples):
        if empty := sorted(set(spans) - set(units.split.values())):
            raise DataError(
                f"{len(units.split)} groups leave no image for {', '.join(empty)}, because a "
                "group is never divided; make smaller groups, or set the share in data.split to 0"
            )
        return
    found: dict[str, set[str]] = defaultdict(set)
    for unit, labels in units.labels.items():
        for label in labels:
            found[label].add(units.split[unit])
    if small := sorted((label for label, splits in found.items() if splits < set(spans)), key=natural):
        counts = Counter(label for labels in units.labels.values() for label in labels)
        named = some((f"{label} ({counts[label]})" for label in small), 20)
        raise DataError(
            f"classes with too few images: {named}; each class needs at least one for each of {parts}, and equal "
            "images count once; add images, or set the share in data.split to 0"
        )


def _unit(sample: Sample) -> str:
    return _content(sample) if sample.group is None else sample.group


def _content(sample: Sample) -> str:
    return sample.content or sample.name


def _place(key: str, seed: int) -> float:
    return int(hash_order(key, seed)[:16], 16) / 2**64


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
