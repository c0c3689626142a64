"""The `data` section: where images come from, how they are cut to size, shifted and split, and which of them train."""

import re
from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
)

from fttune.config import known
from fttune.config.sections import Line, Section, Seed, broken, one_form

SOURCES = ("digits", "folder", "csv", "torchvision:<DatasetName>")
PARTS = ("train", "val", "test", "drift", "relative_grad_norm")  # what metrics are named after already
Fresh = Literal["none", "flip", "standard"]
AUGMENTATIONS: tuple[str, ...] = get_args(Fresh)
NEW_PART = r"[A-Za-z][A-Za-z0-9_]{0,99}"


def _class_names(value: object) -> object:
    """Digits and years are fine class names: `classes: [5, 6]` means the classes named 5 and 6."""
    if not isinstance(value, list | tuple) or not value:
        raise broken(f"must be a list of class names, got {known.shown(value)}")
    if bad := [name for name in value if not isinstance(name, str | int) or isinstance(name, bool)]:
        raise broken(f"must be a list of class names, got {known.shown(bad[0])} in it; quote it if it is a name")
    names = tuple(str(name) for name in value)
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise broken(f"names the class {known.shown(twice[0])} twice")
    return names


Share = Annotated[float, Field(ge=0, lt=1)]


class Split(Section):
    """Shares of the images that go to validation and test; 0 means that there is no such split."""

    val: Share = 0.2
    test: Share = 0.2
    seed: Seed = 0
    group_by: Line | None = None

    @field_validator("test")
    @classmethod
    def _leaves_images(cls, test: float, info: ValidationInfo) -> float:
        total = info.data.get("val", 0) + test
        if total >= 1:
            raise broken(f"val + test must leave images to train on, got {total:g} of 1")
        return test


def _true(value: object) -> object:
    if value is not True:
        raise broken(f"must be true, got {known.shown(value)}")
    return value


class Views(Section):
    """So many fixed views of each training image, drawn once; an epoch shows each image in one of them."""

    views: int = Field(ge=2, le=100)
    kind: Literal["standard", "flip"] = "standard"


def _one_augmentation(value: object) -> object:
    if value in AUGMENTATIONS or isinstance(value, Views):
        return value
    if not isinstance(value, Mapping):
        raise broken(known.one_of(value, (*AUGMENTATIONS, "{views: V}")))
    return Views.model_validate(value)


Augmentation = Annotated[Fresh | Views, BeforeValidator(_one_augmentation)]


class Shift(Section):
    """One change of all images or labels; exactly one of the fields is given.

    `label_flip` makes label y of n classes n - 1 - y (Lee et al., ICLR 2023, arXiv 2210.11466). `contrast` c in (0, 1]
    makes a pixel x c * (x - mean) + mean, the mean that of its image and channel (Hendrycks & Dietterich, ICLR 2019,
    arXiv 1903.12261). `rotate` turns counter-clockwise by degrees. `permute_pixels` is the seed of one permutation.
    """

    label_flip: Annotated[bool, BeforeValidator(_true)] | None = None
    contrast: Annotated[float, Field(gt=0, le=1)] | None = None
    rotate: Annotated[float, Field(ge=-180, le=180)] | None = None
    permute_pixels: Seed | None = None

    @model_serializer(mode="wrap")
    def _only_what_is_given(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {kind: value for kind, value in serialize(self).items() if value is not None}


def _one_shift(value: object) -> object:
    return one_form(value, Shift, words=("none",))


Shifted = Annotated[Literal["none"] | Shift, BeforeValidator(_one_shift)]


class Evaluation(Section):
    """Under which shift the validation images are evaluated as well; it stands in place of `data.shift`."""

    shift: Shifted


def _kind(augment: Fresh | Views) -> Fresh:
    return augment.kind if isinstance(augment, Views) else augment


class CrossValidation(Section):
    """Cross-validation over train and val together, stratified by class, groups undivided; the test split stays sealed.

    Each repeat divides the data anew, as a function of `data.split.seed` and its number.
    """

    folds: int = Field(ge=2)
    repeats: int = Field(default=1, ge=1)

    @property
    def count(self) -> int:
        """How many trainings a trial consists of."""
        return self.folds * self.repeats


class Data(Section):
    """Where images come from, how they are cut to size, and which of them train."""

    source: str
    path: Line | None = None
    image_size: int = Field(default=224, ge=1, le=4096)
    resize: int | None = Field(default=None, ge=1, le=8192)
    split: Split = Split()
    augment: Augmentation = "none"
    classes: Annotated[tuple[str, ...], BeforeValidator(_class_names)] | None = None
    limit_per_class: int | None = Field(default=None, ge=1)
    on_bad_image: Literal["error", "skip"] = "error"
    shift: Shifted = "none"
    also_evaluate: Annotated[dict[str, Evaluation], Field(min_length=1)] | None = None

    @property
    def fresh_augment(self) -> Fresh:
        """How training images are changed anew in every epoch; fixed views are not."""
        return "none" if isinstance(self.augment, Views) else self.augment

    @property
    def crops(self) -> bool:
        """Whether training images are cut at random from larger ones, fixed views too."""
        return _kind(self.augment) == "standard"

    @field_validator("source")
    @classmethod
    def _known_source(cls, source: str) -> str:
        kind, _, dataset = source.partition(":")
        if kind == "torchvision" and dataset not in known.torchvision_datasets():
            rule = known.one_of(dataset, known.torchvision_datasets())
            raise broken(rule if dataset else f"must be torchvision:<DatasetName>, got {source!r}")
        if kind != "torchvision" and source not in SOURCES:
            raise broken(known.one_of(source, SOURCES))
        return source

    @field_validator("path")
    @classmethod
    def _path_if_needed(cls, path: str | None, info: ValidationInfo) -> str | None:
        source = info.data.get("source")
        if source in ("folder", "csv") and not path:
            raise broken(f"required for source {source}")
        if source and source not in ("folder", "csv") and path is not None:
            raise broken(f"source {source} has no path, got {known.shown(path)}")
        return path

    @field_validator("resize")
    @classmethod
    def _covers_crop(cls, resize: int | None, info: ValidationInfo) -> int | None:
        image_size = info.data.get("image_size")
        if resize and image_size and resize < image_size:
            raise broken(f"must be >= image_size ({image_size}), got {resize}")
        return resize

    @field_validator("shift")
    @classmethod
    def _same_pixels_in_every_split(cls, shift: Literal["none"] | Shift, info: ValidationInfo) -> object:
        permuted = shift != "none" and shift.permute_pixels is not None
        if permuted and _kind(info.data.get("augment", "none")) == "standard":
            raise broken("permute_pixels cannot be combined with augment: standard, which crops images of another size")
        return shift

    @field_validator("also_evaluate", mode="before")
    @classmethod
    def _new_names(cls, evaluations: object) -> object:
        for name in evaluations if isinstance(evaluations, Mapping) else ():
            if not isinstance(name, str) or not re.fullmatch(NEW_PART, name):
                raise broken(f"names must be letters, digits and _, the first a letter, got {known.shown(name)}")
            if name in PARTS:
                raise broken(f"names must not be {', '.join(PARTS)}, got {known.shown(name)}")
        return evaluations
