"""Which fold each sample validates in. Knows names, labels and groups; reads nothing, and no generator's version.

The order that decides is that of sha256(f"{seed}/{repeat}:{name}"), as for the splits.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from fttune.data.listing import Sample, natural, some
from fttune.data.splits import hash_order
from fttune.errors import DataError


def assign_folds(samples: Sequence[Sample], folds: int, *, repeat: int, seed: int) -> list[int]:
    """Return for each of `samples` the fold, from 0, in which it validates; it trains in all others.

    Stratified: the samples of one class after the other, each class in hashed order, are dealt out in turn, so that two
    folds differ by at most one image, in each class too. Groups are never divided: the largest ones first, equal ones
    in hashed order, each goes to the fold that has the smallest share of its classes so far.

    Raises:
        DataError: a fold would be empty, or would leave a class without a training image.
    """
    key = f"{seed}/{repeat}"
    grouped = any(sample.group is not None for sample in samples)
    found = dict(_by_groups(samples, folds, key) if grouped else _by_class(samples, folds, key))
    assigned = [found[sample.name] for sample in samples]
    _refuse_too_few(samples, assigned, folds)
    return assigned


def _by_class(samples: Sequence[Sample], folds: int, key: str) -> Iterator[tuple[str, int]]:
    dealt = sorted(samples, key=lambda sample: (natural(sample.label), hash_order(sample.name, key)))
    return ((sample.name, position % folds) for position, sample in enumerate(dealt))


def _by_groups(samples: Sequence[Sample], folds: int, key: str) -> Iterator[tuple[str, int]]:
    groups: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[str(sample.group)].append(sample)
    total = Counter(sample.label for sample in samples)
    got = [Counter[str]() for _ in range(folds)]
    for name in sorted(groups, key=lambda name: (-len(groups[name]), hash_order(name, key))):
        own = Counter(sample.label for sample in groups[name])
        shares = [sum(own[label] * have[label] / total[label] for label in own) for have in got]
        fold = min(range(folds), key=lambda index: (shares[index], got[index].total()))
        got[fold] += own
        yield from ((sample.name, fold) for sample in groups[name])


def _refuse_too_few(samples: Sequence[Sample], assigned: Sequence[int], folds: int) -> None:
    if len(used := set(assigned)) < folds:
        rule = "each fold needs an image of its own, and groups are never divided"
        raise DataError(f"evaluation.folds is {folds}, but the data fill only {len(used)}: {rule}; use fewer folds")
    places: dict[str, set[int]] = defaultdict(set)
    for sample, fold in zip(samples, assigned, strict=True):
        places[sample.label].add(fold)
    if alone := sorted((label for label, own in places.items() if len(own) == 1), key=natural):
        raise DataError(
            f"classes that lie in one fold alone: {some(alone, 20)}; where it validates, nothing is left to train on; "
            "add images or groups of them, or name the other classes in data.classes"
        )
