"""What a folder of images holds: classes, counts, sizes, copies, files that cannot be read. Chooses nothing.

`look` reads every file once; a `Survey` is plain data, and all that it says is worked out from its files.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from fttune.config.data import Split
from fttune.data.classes import class_names
from fttune.data.contents import content_of
from fttune.data.folders import folder_samples
from fttune.data.images import Header, Unreadable, decoder_threads, header, in_order
from fttune.data.listing import SPLITS, Sample, natural, some
from fttune.data.splits import split_samples
from fttune.errors import DataError

Counts = dict[str, int]  # class -> images


@dataclass(frozen=True)
class SurveyedFile:
    """An image file with its class and split, and its size and content, or why it cannot be read."""

    sample: Sample
    found: Header | Unreadable

    @property
    def hashed(self) -> Sample:
        """The sample with its content hash, as far as it is known."""
        return replace(self.sample, content=self.found.sha256) if isinstance(self.found, Header) else self.sample


@dataclass(frozen=True)
class Copies:
    """Files of the same bytes, by name, with the classes and the given splits that they lie in."""

    names: tuple[str, ...]
    labels: tuple[str, ...]
    splits: tuple[str, ...]


@dataclass(frozen=True)
class Sizes:
    """Sizes (width, height) in pixels, ordered by the shorter side, then the longer one."""

    smallest: tuple[int, int]
    median: tuple[int, int]
    largest: tuple[int, int]


@dataclass(frozen=True)
class Survey:
    """All image files of a folder in natural order, and what the listing of it has to say."""

    files: tuple[SurveyedFile, ...]
    notices: tuple[str, ...] = ()

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The names of all classes in natural order."""
        return tuple(sorted({file.sample.label for file in self.files}, key=natural))

    @cached_property
    def splits(self) -> tuple[str, ...]:
        """The splits that the folders give, empty where they give none."""
        given = {file.sample.split for file in self.files}
        return tuple(split for split in SPLITS if split in given)

    @cached_property
    def headers(self) -> tuple[tuple[Sample, Header], ...]:
        """The files that can be read."""
        return tuple((file.sample, file.found) for file in self.files if isinstance(file.found, Header))

    @cached_property
    def unreadable(self) -> dict[str, str]:
        """Name -> reason of each file that cannot be read."""
        return {file.sample.name: file.found.reason for file in self.files if isinstance(file.found, Unreadable)}

    def counts(self, split: str | None = None) -> Counts:
        """Return how many readable images each class has, in one given split or, for None, in all."""
        found = Counter(sample.label for sample, _ in self.headers if split in (None, sample.split))
        return {label: found[label] for label in self.classes}

    def sizes(self, *, with_test: bool = True) -> Sizes | None:
        """Return the sizes of the readable images, None without any; a given test split counts if `with_test`.

        The median is the lower one of two.
        """
        found = [one.size for sample, one in self.headers if with_test or sample.split != "test"]
        ordered = sorted(found, key=lambda size: (min(size), max(size), size))
        return Sizes(ordered[0], ordered[(len(ordered) - 1) // 2], ordered[-1]) if ordered else None

    @cached_property
    def copies(self) -> tuple[Copies, ...]:
        """Every set of two or more readable files with the same bytes, in the order of their first names."""
        same: dict[str, list[Sample]] = defaultdict(list)
        for sample, found in self.headers:
            same[found.sha256].append(sample)
        return tuple(_copies(samples) for samples in same.values() if len(samples) > 1)

    def divided(self, rule: Split) -> dict[str, Counts]:
        """Return the readable images of each class in each split, divided as `load_data` does by `rule`.

        Raises:
            DataError: the splits cannot be used, or a class has no readable image left in train or val.
        """
        splits = split_samples((file.hashed for file in self.files), rule)
        classes = class_names(splits)
        found = {}
        for name, samples in zip(SPLITS, (splits.train, splits.val, splits.test), strict=True):
            counts = Counter(sample.label for sample in samples if sample.name not in self.unreadable)
            found[name] = {label: counts[label] for label in classes} if samples else {}
            lost = [label for label, count in found[name].items() if not count and name != "test"]
            if lost:
                raise DataError(f"no readable image of {some(lost, 20)} is left in {name}; repair them, or add others")
        return found


def imbalance(counts: Counts) -> float:
    """Return how many times as many images the largest class has as the smallest one; infinite where that has none."""
    return max(counts.values()) / min(counts.values()) if min(counts.values()) else float("inf")


def look(top: Path) -> Survey:
    """Read every image file below a folder once, and return what was found.

    Files of a `test` folder are read too, to find copies across splits; nothing of them may decide about a recipe.

    Raises:
        DataError: no such folder, or a layout that source `folder` refuses.
    """
    listing = folder_samples(top)
    samples = sorted(listing.samples, key=lambda sample: natural(sample.name))
    with decoder_threads() as pool:
        found = list(in_order(pool, header, map(_path, samples)))
    files = [SurveyedFile(sample, one) for sample, one in zip(samples, found, strict=True)]
    return Survey(tuple(map(_with_content, files)), listing.notices)


def _with_content(file: SurveyedFile) -> SurveyedFile:
    """Return a file with the hash of its content, though it cannot be decoded: its split goes by that."""
    if isinstance(file.found, Header):
        return file
    return replace(file, sample=replace(file.sample, content=content_of(file.sample.image)))


def _path(sample: Sample) -> Path:
    assert isinstance(sample.image, Path), "a folder holds files"
    return sample.image


def _copies(samples: Sequence[Sample]) -> Copies:
    labels, splits = {sample.label for sample in samples}, {sample.split for sample in samples}
    return Copies(
        tuple(sample.name for sample in samples),
        tuple(sorted(labels, key=natural)),
        tuple(split for split in SPLITS if split in splits),
    )
