"""From the `data` section to arrays: list, hash, split, decode, shift. Only `open_test` opens the test split."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from fttune.config.data import CrossValidation, Data, Shift, Views
from fttune.data.arrays import ArrayCache
from fttune.data.classes import class_names, keep_classes
from fttune.data.contents import with_contents
from fttune.data.folds import assign_folds
from fttune.data.image_data import Folds, Geometry, ImageData, Part, Pixels
from fttune.data.images import Unreadable, content_hash, decoder_threads, in_order
from fttune.data.listing import Sample, lines, natural, some
from fttune.data.manifest import manifest_of
from fttune.data.shift import changes_pixels, shift_images, shift_labels
from fttune.data.sources import list_samples, shipped_test_samples, ships_test
from fttune.data.splits import Splits, limit_per_class, split_samples
from fttune.data.store import decoded, derived, merged, store_key
from fttune.data.views import with_views
from fttune.errors import DataError


@dataclass(frozen=True)
class _Read:
    """The readable samples of a split with pixels and content hashes, and the reasons of the others.

    `key` stands for all that decides the pixels.
    """

    samples: tuple[Sample, ...]
    hashes: tuple[str, ...]
    images: Pixels
    key: str
    unreadable: Mapping[str, str]


def load_data(
    data: Data, geometry: Geometry, *, cache: Path, root: Path, arrays: ArrayCache, train_on_val: bool = False
) -> ImageData:
    """Return the images of train and val, decoded once and memory-mapped from `arrays`, with labels and classes.

    `data.path` is relative to `root`; downloads lie below `cache`. With `data.augment: standard`
    the training images are the central squares of side `geometry.resize`, all others of side `geometry.image_size`;
    with `{views: V}` they are V views of each image.
    `data.shift` changes both splits; `data.also_evaluate` adds validation images under shifts of their own.
    With `train_on_val` all samples of both splits train, in the order of their names, and there is no `val`; nothing is
    decoded anew for it, and the fingerprint is that of the data as they are split.

    Raises:
        DataError: a missing path, a broken table, classes or splits that cannot be used, unreadable images.
    """
    listing = list_samples(data, root=root, cache=cache)
    splits = _split(listing.samples, data)
    manifest = manifest_of((*splits.train, *splits.val, *splits.test))
    splits = replace(splits, train=limit_per_class(splits.train, data.limit_per_class, data.split.seed))
    classes = class_names(splits)
    if data.also_evaluate and not splits.val:
        raise DataError("data.also_evaluate needs a validation split, but data.split.val is 0; give it a share")
    train_side = geometry.resize if data.crops else geometry.image_size
    train = _read(splits.train, geometry, train_side, arrays)
    val_side = train_side if train_on_val else geometry.image_size
    val = _read(splits.val, geometry, val_side, arrays) if splits.val else None
    skipped = _skipped({**train.unreadable, **(val.unreadable if val else {})}, data.on_bad_image)
    if skipped:
        _require_all_classes(splits, train, val)
    content = fingerprint(classes, train=_contents(train), val=_contents(val), test=splits.test)
    if train_on_val and val:
        train, val = _merged(train, val, geometry, train_side, arrays), None
    part = partial(_part, classes=classes, arrays=arrays)
    also = {name: part(val, evaluation.shift) for name, evaluation in (data.also_evaluate or {}).items() if val}
    train_part, val_part = part(train, data.shift), part(val, data.shift) if val else None
    if isinstance(data.augment, Views):
        train_part = with_views(train_part, data.augment, image_size=geometry.image_size, arrays=arrays)
    return ImageData(
        classes=classes,
        train=train_part,
        val=val_part,
        n_test=len(splits.test),
        fingerprint=_shifted_fingerprint(content, data.shift),
        notices=(*listing.notices, *skipped, *arrays.notices),
        also=also,
        manifest=manifest,
    )


def load_folds(
    data: Data, geometry: Geometry, evaluation: CrossValidation, *, cache: Path, root: Path, arrays: ArrayCache
) -> Folds:
    """Return the images of train and val together, divided into folds; arguments and arrays are those of `load_data`.

    All folds share the decoded images, as parts of one array for training and one for validation, which are the same
    one where training images are not cut or varied. `data.limit_per_class` holds in the training part of each fold.

    Raises:
        DataError: as `load_data`, or the data are too few for the folds.
    """
    listing = list_samples(data, root=root, cache=cache)
    splits = _split(listing.samples, data)
    pool = tuple(sorted((*splits.train, *splits.val), key=lambda sample: natural(sample.name)))
    classes = class_names(Splits(pool, (), splits.test))
    seen = _read(pool, geometry, geometry.image_size, arrays)
    shown = _read(pool, geometry, geometry.resize, arrays) if data.crops else seen
    if skipped := _skipped(seen.unreadable, data.on_bad_image):
        _require_all_classes(Splits(pool, (), ()), seen, None)
    part = partial(_part, classes=classes, arrays=arrays)
    val = part(seen, data.shift)
    train = part(shown, data.shift) if data.crops else val
    if isinstance(data.augment, Views):
        train = with_views(train, data.augment, image_size=geometry.image_size, arrays=arrays)
    also = {name: part(seen, other.shift) for name, other in (data.also_evaluate or {}).items()}
    content = fingerprint(classes, train=_contents(seen), val=[], test=splits.test)
    notices = (*listing.notices, *skipped, *arrays.notices)
    content = _shifted_fingerprint(content, data.shift)
    manifest = manifest_of((*pool, *splits.test))
    whole = ImageData(classes, train, val, len(splits.test), content, notices, also, manifest)
    seed, repeats = data.split.seed, range(evaluation.repeats)
    assigned = [assign_folds(seen.samples, evaluation.folds, repeat=repeat, seed=seed) for repeat in repeats]
    parts = (
        _fold(whole, [fold == number for fold in of_repeat], seen.samples, data)
        for of_repeat in assigned
        for number in range(evaluation.folds)
    )
    return Folds(tuple(parts), tuple(map(tuple, assigned)))


def _fold(whole: ImageData, validates: Sequence[bool], samples: Sequence[Sample], data: Data) -> ImageData:
    """Return the data of a fold: what `validates` is its validation split, all others train."""
    others = [sample for sample, held_out in zip(samples, validates, strict=True) if not held_out]
    names = {sample.name for sample in limit_per_class(others, data.limit_per_class, data.split.seed)}
    train = torch.tensor([index for index, sample in enumerate(samples) if sample.name in names])
    val = torch.tensor(validates).nonzero().flatten()
    assert whole.val is not None, "it holds all images"
    also = {name: replace(part, members=val) for name, part in whole.also.items()}
    return replace(whole, train=replace(whole.train, members=train), val=replace(whole.val, members=val), also=also)


def open_test(
    data: Data, geometry: Geometry, *, classes: Sequence[str], cache: Path, root: Path, arrays: ArrayCache
) -> Part:
    """Open the sealed test split, where `has_test`: decode its images, under `data.shift`.

    `classes` are those of training. Nothing but a confirmation may call this.

    Raises:
        DataError: unreadable images, or classes that do not train.
    """
    listing = list_samples(data, root=root, cache=cache)
    samples = _split(listing.samples, data).test
    if not samples:
        shipped = shipped_test_samples(data, cache=cache)
        samples = keep_classes(shipped, data.classes) if shipped else ()
    if unknown := sorted({sample.label for sample in samples} - set(classes)):
        raise DataError(
            f"the test split has classes that do not train: {some(unknown, 8)}; name others in data.classes"
        )
    read = _read(samples, geometry, geometry.image_size, arrays)
    _skipped(read.unreadable, data.on_bad_image)
    return _part(read, data.shift, classes=classes, arrays=arrays)


def has_test(data: Data, loaded: ImageData) -> bool:
    """Return whether there is a test split, without a look at it."""
    return loaded.n_test > 0 or ships_test(data)


def fingerprint(
    classes: Sequence[str],
    *,
    train: Sequence[tuple[str, str]],
    val: Sequence[tuple[str, str]],
    test: Sequence[Sample],
) -> str:
    """Return the sha256 of classes and of each split's images, in hex.

    These are (label, content hash), and (name, label) for a test split that stays closed.
    """
    content = {
        "classes": list(classes),
        "train": sorted(train),
        "val": sorted(val),
        "test": sorted((s.label, s.content) if s.content else (s.name, s.label) for s in test),
    }
    return _sha256(content)


def _split(samples: Sequence[Sample], data: Data) -> Splits:
    return split_samples(with_contents(keep_classes(samples, data.classes)), data.split)


def _read(samples: tuple[Sample, ...], geometry: Geometry, side: int, arrays: ArrayCache) -> _Read:
    with decoder_threads() as pool:
        hashes = list(in_order(pool, _content_or_reason, samples))
    unreadable = {s.name: h.reason for s, h in zip(samples, hashes, strict=True) if isinstance(h, Unreadable)}
    hashed = [(s, h) for s, h in zip(samples, hashes, strict=True) if isinstance(h, str)]
    store = decoded(
        [sample.image for sample, _ in hashed],
        [digest for _, digest in hashed],
        geometry=geometry,
        side=side,
        arrays=arrays,
    )
    unreadable |= {hashed[index][0].name: reason for index, reason in store.unreadable.items()}
    kept = [(s, h) for s, h in hashed if s.name not in unreadable]
    kept_hashes = tuple(digest for _, digest in kept)
    key = store_key(kept_hashes, geometry, side)
    return _Read(tuple(s for s, _ in kept), kept_hashes, store.images, key, unreadable)


def _content_or_reason(sample: Sample) -> str | Unreadable:
    return sample.content or content_hash(sample.image)


def _merged(train: _Read, val: _Read, geometry: Geometry, side: int, arrays: ArrayCache) -> _Read:
    """Return the samples of both, decoded with the same side, in the natural order of their names."""
    both = [*zip(train.samples, train.hashes, strict=True), *zip(val.samples, val.hashes, strict=True)]
    order = sorted(range(len(both)), key=lambda index: natural(both[index][0].name))
    samples, hashes = tuple(both[index][0] for index in order), tuple(both[index][1] for index in order)
    key = store_key(hashes, geometry, side)
    images = merged(train.images, val.images, order, key=f"decoded/{key}", arrays=arrays)
    return _Read(samples, hashes, images, key, {**train.unreadable, **val.unreadable})


def _skipped(unreadable: Mapping[str, str], on_bad_image: str) -> tuple[str, ...]:
    """Return the notice about images that are left out, or refuse them all."""
    if not unreadable:
        return ()
    if on_bad_image == "skip":
        return (f"left out {len(unreadable)} unreadable images: {some(unreadable)}",)
    reasons = lines(f"{name}: {reason}" for name, reason in unreadable.items())
    raise DataError(
        f"{len(unreadable)} images cannot be read, but all of train and val must be; "
        f"repair or remove them, or set data.on_bad_image: skip{reasons}"
    )


def _require_all_classes(splits: Splits, train: _Read, val: _Read | None) -> None:
    """Refuse data of which the unreadable images took a whole class or the whole of val."""
    for split, wanted, read in (("train", splits.train, train), ("val", splits.val, val)):
        remaining = {sample.label for sample in read.samples} if read else set()
        if lost := sorted({sample.label for sample in wanted} - remaining):
            raise DataError(
                f"no readable image of {some(lost, 20)} is left in {split}; every class needs one; repair the images, "
                "or name the other classes in data.classes"
            )


def _contents(read: _Read | None) -> list[tuple[str, str]]:
    return [(s.label, h) for s, h in zip(read.samples, read.hashes, strict=True)] if read else []


def _part(read: _Read, shift: Literal["none"] | Shift, *, classes: Sequence[str], arrays: ArrayCache) -> Part:
    position = {name: index for index, name in enumerate(classes)}
    labels = torch.tensor([position[sample.label] for sample in read.samples], dtype=torch.int64)
    labels = shift_labels(labels, shift, classes=len(classes))
    images, key = read.images, read.key
    if shift != "none" and changes_pixels(shift):
        key = _sha256(["fttune-shifted-1", key, shift.model_dump()])
        images = derived(images, partial(shift_images, shift=shift), key=f"shifted/{key}", arrays=arrays)
    return Part(images, labels, tuple(sample.name for sample in read.samples), key)


def _shifted_fingerprint(content: str, shift: Literal["none"] | Shift) -> str:
    """Return the fingerprint of shifted data; that of data as they are is the content's own."""
    return content if shift == "none" else _sha256([content, shift.model_dump()])


def _sha256(plain: object) -> str:
    return hashlib.sha256(json.dumps(plain).encode()).hexdigest()
