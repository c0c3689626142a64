"""The one class map: which labels there are, in which order, and whether the splits agree on them."""

from collections.abc import Iterable, Sequence

from fttune.config import known
from fttune.data.listing import Sample, natural, some
from fttune.data.splits import Splits
from fttune.errors import DataError


def keep_classes(samples: Sequence[Sample], wanted: Sequence[str] | None) -> tuple[Sample, ...]:
    """Return the samples whose class is in `wanted`, all of them for None.

    Raises:
        DataError: a wanted class does not exist, or fewer than two classes remain.
    """
    labels = sorted({sample.label for sample in samples}, key=natural)
    if unknown := [name for name in wanted or () if name not in labels]:
        raise DataError("data.classes: " + "; ".join(known.one_of(name, labels) for name in unknown))
    kept = tuple(sample for sample in samples if wanted is None or sample.label in wanted)
    if len(remaining := sorted({sample.label for sample in kept}, key=natural)) < 2:
        raise DataError(
            f"the data has {len(remaining)} classes ({', '.join(remaining) or 'none'}), but a classifier needs two; "
            "add images of another class, or name more in data.classes"
        )
    return kept


def class_names(splits: Splits) -> tuple[str, ...]:
    """Return the classes of train in natural order; the position of a class is its label.

    Raises:
        DataError: val or test has a class that train lacks, or a val that came with the data lacks one.
    """
    train = _labels(splits.train)
    if len(train) < 2:
        raise DataError(f"train has the classes {some(train) or '(none)'}, but a classifier needs two; add images")
    given_val = any(sample.split == "val" for sample in splits.val)
    problems = [
        *_missing("train", set(train), "val", _labels(splits.val)),
        *_missing("train", set(train), "test", _labels(splits.test)),
        *(_missing("val", set(_labels(splits.val)), "train", train) if given_val else ()),
    ]
    if problems:
        raise DataError("; ".join([*problems, "all splits need the same classes: add images or set data.classes"]))
    return tuple(train)


def _labels(samples: Iterable[Sample]) -> list[str]:
    return sorted({sample.label for sample in samples}, key=natural)


def _missing(split: str, labels: set[str], other: str, others: Sequence[str]) -> list[str]:
    absent = [label for label in others if label not in labels]
    return [f"{split} has no images of {some(absent, 20)}, but {other} has"] if absent else []
