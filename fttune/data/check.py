"""All that is odd about the images of a `data` section, file by file and together. Changes nothing.

What `load_data` refuses is an error here by the same code. Files of a test split are read too, to find copies across
splits; nothing of them may decide about a recipe.
"""

import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from fttune.config.data import Data, Split
from fttune.data.classes import class_names, keep_classes
from fttune.data.contents import content_of
from fttune.data.facts import Facts, look_at, named_format, same_format
from fttune.data.findings import SEVERITIES, Finding, Severity, finding, finding_of
from fttune.data.folders import Tree, images_below, read_tree
from fttune.data.images import Unreadable, decoder_threads, in_order, unfit_strip
from fttune.data.listing import SPLITS, Sample, natural, some
from fttune.data.near import near_groups
from fttune.data.splits import split_samples
from fttune.data.survey import Survey, SurveyedFile
from fttune.data.tables import links_out, read_table
from fttune.errors import DataError

T = TypeVar("T")
SAY_SECONDS = 5.0
TINY = 8  # pixels of the shorter side
KINDS = {"empty": "empty", "special": "special-file", "large": "oversized", "foreign": "no-image", "broken": "broken"}
FORMULA = re.compile(r"[=@+-](?![0-9.]+$)")


@dataclass(frozen=True)
class Checked:
    """How many images there are in each class, and all findings, the worst first."""

    classes: Mapping[str, int]
    findings: tuple[Finding, ...]

    def count(self, severity: Severity) -> int:
        """Return how many findings have a severity."""
        return sum(one.severity == severity for one in self.findings)


@dataclass(frozen=True)
class _Listed:
    """The samples of a source, and what the listing of it found."""

    samples: tuple[Sample, ...]
    findings: tuple[Finding, ...]


def check_data(data: Data, *, root: Path, say: Callable[[str], None] = lambda _: None) -> Checked:
    """Look at all images of source `folder` or `csv`, and return what is wrong with them.

    `say` is told how far it is, every few seconds.

    Raises:
        DataError: there is no such folder or table, or it cannot be read.
    """
    top = root / str(data.path)
    listed = _listed_folder(top) if data.source == "folder" else _listed_table(top, data.split.group_by)
    samples, of_classes = _chosen(listed.samples, data)
    ordered = sorted(samples, key=lambda sample: natural(sample.name))
    with decoder_threads() as pool:
        looked = list(_told(in_order(pool, look_at, map(_path, ordered)), len(ordered), say))
    hashed = map(_with_content, ordered, looked)
    usable = all(one.severity != "error" for one in of_classes)
    divided, of_splits = _divided(list(hashed), data.split) if usable else (ordered, [])
    seen = list(zip(divided, looked, strict=True))
    findings = [*listed.findings, *of_classes, *of_splits, *_of_files(seen, data), *_of_copies(seen)]
    findings.sort(key=lambda one: (SEVERITIES.index(one.severity), one.rule, natural(one.file)))
    counts = Counter(sample.label for sample in ordered)
    return Checked({label: counts[label] for label in sorted(counts, key=natural)}, tuple(findings))


def _listed_folder(top: Path) -> _Listed:
    try:
        tree, problems = read_tree(top), []
    except DataError as error:
        if not top.is_dir():
            raise
        tree, problems = _unordered(top), [finding_of("layout", error)]
    return _Listed(tree.samples, (*problems, *_of_tree(tree, top)))


def _unordered(top: Path) -> Tree:
    """Return the images of a folder whose layout says nothing of splits: each is of the class that it lies in."""
    found = images_below(top)
    return Tree(tuple(Sample(file.relative_to(top).as_posix(), file.parent.name, file) for file in found))


def _of_tree(tree: Tree, top: Path) -> Iterator[Finding]:
    for rule, paths, what in (
        ("empty-class", tree.empty, "a class folder without an image"),
        ("link-loop", tree.loops, "a class folder that is a link to a folder which holds it"),
        ("name", tree.unnameable, "its name has control characters, or is not UTF-8"),
        ("link-outside", tree.outside, "a link that leads out of the folder"),
        ("hidden", tree.hidden, "a hidden file or folder"),
    ):
        yield from (finding(rule, what, file=_below(path, top)) for path in paths)
    for path in tree.passed_over:
        yield _passed_over(path, _below(path, top))


def _passed_over(path: Path, name: str) -> Finding:
    if path.is_symlink() and path.is_dir():
        return finding("link-not-followed", "a link to a folder", file=name)
    if path.exists() and not path.is_file():
        return finding("special-file", "a pipe, socket or device", file=name)
    return finding("passed-over", "no image in a class folder", file=name)


def _listed_table(file: Path, group_by: str | None) -> _Listed:
    table = read_table(file, group_by=group_by)
    problems = [finding("row", problem, file=file.name) for problem in table.problems]
    outside = links_out(table.samples, file.parent)
    links = [finding("link-outside", "a link that leads out of the table's folder", file=name) for name in outside]
    return _Listed(table.samples, (*problems, *links))


def _chosen(samples: Sequence[Sample], data: Data) -> tuple[Sequence[Sample], list[Finding]]:
    """Return the samples of the classes that are wanted, as far as these can be used, and what is against it."""
    try:
        kept = keep_classes(samples, data.classes)
    except DataError as error:
        one = len({sample.label for sample in samples}) < 2
        return samples, [finding_of("single-class" if one else "classes", error)]
    return kept, [
        finding("formula", f"the class {label} begins like a formula", file=label)
        for label in sorted({sample.label for sample in kept})
        if FORMULA.match(label)
    ]


def _with_content(sample: Sample, found: Facts | Unreadable) -> Sample:
    content = found.header.sha256 if isinstance(found, Facts) else content_of(sample.image)
    return replace(sample, content=content)


def _divided(samples: Sequence[Sample], rule: Split) -> tuple[Sequence[Sample], list[Finding]]:
    """Return the samples in their order, with the splits that they will be in, and what is against these."""
    try:
        splits = split_samples(samples, rule)
    except DataError as error:
        return samples, [finding_of("tiny-class", error)]
    parts = zip(SPLITS, (splits.train, splits.val, splits.test), strict=True)
    split_of = {sample.name: name for name, of_split in parts for sample in of_split}
    named = [replace(sample, split=split_of[sample.name]) for sample in samples]
    try:
        class_names(splits)
    except DataError as error:
        return named, [finding_of("classes-differ", error)]
    return named, []


def _of_files(seen: Sequence[tuple[Sample, Facts | Unreadable]], data: Data) -> Iterator[Finding]:
    for sample, found in seen:
        if isinstance(found, Facts):
            broken = _of_file(_path(sample), found, data)
            yield from (finding(rule, what, file=sample.name) for rule, what in broken)
        else:
            skipped: Severity | None = "warning" if data.on_bad_image == "skip" else None
            yield finding(KINDS[found.kind], found.reason, file=sample.name, severity=skipped)


def _of_file(file: Path, found: Facts, data: Data) -> Iterator[tuple[str, str]]:
    """Yield the rules that a readable image breaks, with what is wrong."""
    (width, height), named = found.header.size, named_format(file)
    if strip := unfit_strip(found.header.size, data.resize or data.image_size):
        yield "oversized", strip.reason
    if named and not same_format(named, found.format):
        yield "misnamed", f"its content is {found.format}, not {named}"
    if max(width, height) == 1:
        yield "one-pixel", "1 x 1 pixel"
    elif min(width, height) < min(TINY, data.image_size):
        yield "tiny", f"{width} x {height} pixels"
    if found.bits > 8:
        yield "16-bit", f"{found.bits} bits a channel"
    if found.mode == "CMYK":
        yield "cmyk", "its colours are CMYK"
    if found.mode == "P":
        yield "palette", "its colours are a palette"
    if found.transparent:
        yield "transparent", "it has transparent pixels"
    if found.orientation != 1:
        yield "rotated", f"EXIF orientation {found.orientation}"
    if found.frames > 1 and not same_format(found.format, "JPEG"):
        yield "several-pictures", f"{found.frames} pictures in one file"


def _of_copies(seen: Sequence[tuple[Sample, Facts | Unreadable]]) -> Iterator[Finding]:
    readable = [(sample, found) for sample, found in seen if isinstance(found, Facts)]
    survey = Survey(tuple(SurveyedFile(sample, found.header) for sample, found in readable))
    for copies in survey.copies:
        yield from _copies("copies", "the same bytes as", copies.names, copies.labels, copies.splits)
    looks, first_of, known = [], [], set()
    for sample, found in readable:
        if found.likeness and found.header.sha256 not in known:
            known.add(found.header.sha256)
            looks.append(found.likeness)
            first_of.append(sample)
    for group in near_groups(looks) if looks else ():
        near = [first_of[place] for place in group]
        labels = sorted({sample.label for sample in near}, key=natural)
        splits = [split for split in SPLITS if split in {sample.split for sample in near}]
        yield from _copies("near-copies", "looks like", [sample.name for sample in near], labels, splits)


def _copies(
    rule: str, how: str, names: Sequence[str], labels: Sequence[str], splits: Sequence[str]
) -> Iterator[Finding]:
    what = f"{how} {some(names[1:], 8)}"
    if len(labels) > 1:
        yield finding(f"{rule}-across-classes", f"{what}, in the classes {some(labels, 8)}", file=names[0])
    if len(splits) > 1:
        yield finding(f"{rule}-across-splits", f"{what}, in {' and '.join(splits)}", file=names[0])
    elif len(labels) == 1:
        yield finding(rule, what, file=names[0])


def _told(found: Iterator[T], count: int, say: Callable[[str], None]) -> Iterator[T]:
    """Yield what is found, and say how far it is every few seconds."""
    spoken = time.monotonic()
    for done, one in enumerate(found, start=1):
        if time.monotonic() - spoken > SAY_SECONDS:
            spoken = time.monotonic()
            say(f"{done:,} of {count:,} images")
        yield one


def _path(sample: Sample) -> Path:
    assert isinstance(sample.image, Path), "folders and tables hold files"
    return sample.image


def _below(path: Path, top: Path) -> str:
    return path.relative_to(top).as_posix()
