"""The sections of an experiment, each immutable and validated by itself.

Ranges stand at the fields. A rule between fields of one section is a validator of the later one and reads the earlier
ones from `info.data`, which holds only what is valid: so a file shows its ranges and its contradictions together.
Rules between sections are in `rules.py`.
"""

import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import PurePath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from fttune.config import known
from fttune.errors import is_one_line

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$"
NAME_RULE = "must be 1 to 100 letters, digits, _ . or -, the first a letter or digit"
FOREIGN = ("timm", "plugin")  # backbones whose names and stages are checked when the model is built
WEIGHT_FILES = (".safetensors", ".pt", ".pth", ".bin")
VAL_METRICS = {
    "val/loss": "minimize",
    "val/accuracy": "maximize",
    "val/balanced_accuracy": "maximize",
    "val/macro_f1": "maximize",
    "val/top5_accuracy": "maximize",
}
# What a trial costs, less is better: objectives of a study that has several.
SECONDS, PARAMETERS, MEMORY = "trial/seconds", "trial/trainable_parameters", "trial/peak_memory_bytes"
COSTS = {SECONDS: "minimize", PARAMETERS: "minimize", MEMORY: "minimize"}


class Section(BaseModel):
    """Base of all that comes from YAML: unknown keys refused, values never coerced, frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, validate_default=True)

    def __hash__(self) -> int:
        return hash(self.model_dump_json())  # some fields are mappings


def broken(message: str) -> PydanticCustomError:
    """Return the error of a broken rule; `message` is whole: rule, value, remedy."""
    return PydanticCustomError("rule", "{message}", {"message": message})


def _one_line(text: str) -> str:
    if not is_one_line(text):
        raise broken(f"must be printable text on one line, got {known.shown(text)}")
    return text


Line = Annotated[str, AfterValidator(_one_line)]


def exact(number: float) -> Fraction:
    """Return the number that was written: 1/10 for 0.1, not the binary fraction next to it."""
    return Fraction(str(number))


Seed = Annotated[int, Field(ge=0, lt=2**32)]


class Backbone(Section):
    """A model name (torchvision's, timm:<name> or plugin:<name>) and where its weights come from."""

    name: str
    weights: Line = "DEFAULT"

    @field_validator("name")
    @classmethod
    def _known_name(cls, name: str) -> str:
        kind, colon, own = name.partition(":")
        if colon and kind in FOREIGN:
            if not re.fullmatch(NAME, own):
                raise broken(f"{kind}:<name> needs a name of letters, digits, _ . or -, got {known.shown(name)}")
        elif name not in known.backbones():
            raise broken(known.one_of(name, known.backbones()))
        return name

    @field_validator("weights")
    @classmethod
    def _known_weights(cls, weights: str, info: ValidationInfo) -> str:
        if weights.startswith("experiment:"):
            if not re.fullmatch(NAME, weights.removeprefix("experiment:")):
                raise broken(f"experiment:<name> needs the stem of a file, got {known.shown(weights)}")
        elif (name := info.data.get("name")) and weights != "none" and PurePath(weights).suffix not in WEIGHT_FILES:
            published = _published(name)
            if weights == "DEFAULT" and not published:
                raise broken(f"{name} has no published weights; use none, a file or experiment:<name>")
            if weights not in published:
                raise broken(known.one_of(weights, ["none", *published, "experiment:<name>", "<file.safetensors>"]))
        return weights


def _published(name: str) -> tuple[str, ...]:
    """timm chooses among its pretrained weights by the name itself (`timm:resnet50.a1_in1k`)."""
    entry = known.backbones().get(name)
    if entry is None:
        return ("DEFAULT",) if name.startswith("timm:") else ()
    return ("DEFAULT", *entry.weights) if entry.weights else ()


def _momentum(fields: Mapping[str, Any]) -> float | None:
    return 0.9 if fields.get("name") == "sgd" else None


class Optimizer(Section):
    """SGD or AdamW. `momentum` and `nesterov` belong to SGD; its momentum is 0.9 unless given.

    `elr`, in place of `lr`, is the effective learning rate lr / (1 - momentum) of SGD (Li et al., ICLR 2020,
    arXiv 2002.11770).
    """

    name: Literal["sgd", "adamw"] = "sgd"
    elr: Annotated[float, Field(gt=0)] | None = None
    lr: Annotated[float, Field(gt=0)] | None = None
    momentum: Annotated[float, Field(ge=0, lt=1)] | None = Field(default_factory=_momentum)
    nesterov: bool = False
    weight_decay: float = Field(default=0.0, ge=0)
    clip_grad_norm: float | None = Field(default=None, gt=0)

    @property
    def learning_rate(self) -> float:
        """The learning rate that steps are taken with: `lr`, or that of `elr` and momentum."""
        if self.lr is not None:
            return self.lr
        assert self.elr is not None, "exactly one of lr and elr is given"
        return float(exact(self.elr) * (1 - exact(self.momentum or 0)))

    @field_validator("elr")
    @classmethod
    def _elr_of_sgd(cls, elr: float | None, info: ValidationInfo) -> float | None:
        if elr is not None and info.data.get("name") == "adamw":
            raise broken(f"belongs to sgd, but the optimizer is adamw, got {elr:g}; give lr")
        return elr

    @field_validator("lr")
    @classmethod
    def _lr_or_elr(cls, lr: float | None, info: ValidationInfo) -> float | None:
        elr = info.data.get("elr")
        if lr is None and elr is None and "elr" in info.data:
            raise broken("required field is missing")
        if lr is not None and elr is not None:
            raise broken(f"cannot stand beside elr ({elr:g}), from which lr is derived; leave one out, got {lr:g}")
        return lr

    @field_validator("momentum")
    @classmethod
    def _momentum_of_sgd(cls, momentum: float | None, info: ValidationInfo) -> float | None:
        name = info.data.get("name")
        if name == "adamw" and momentum is not None:
            raise broken(f"belongs to sgd, but the optimizer is adamw, got {momentum:g}")
        if name == "sgd" and momentum is None:
            raise broken("must be a number for sgd (0 for none), got None")
        return momentum

    @field_validator("nesterov")
    @classmethod
    def _nesterov_of_sgd(cls, nesterov: bool, info: ValidationInfo) -> bool:
        if nesterov and info.data.get("name") == "adamw":
            raise broken("belongs to sgd, but the optimizer is adamw, got True")
        if nesterov and info.data.get("momentum") == 0:
            raise broken("needs momentum > 0, got momentum 0")
        return nesterov


# Which fields belong to one schedule alone, and their defaults there; None is required.
OF_SCHEDULE: dict[str, tuple[str, float | None]] = {
    "step_epochs": ("step", None),
    "step_factor": ("step", 0.1),
    "power": ("polynomial", 1.0),
    "plateau_factor": ("plateau", 0.1),
    "plateau_patience_epochs": ("plateau", 2),
}


def _default_of(field: str) -> Callable[[Mapping[str, Any]], Any]:
    """Return what fills in a field of `OF_SCHEDULE`: its default under its own schedule, None elsewhere."""
    owner, default = OF_SCHEDULE[field]
    return lambda fields: default if fields.get("schedule") == owner else None


class Training(Section):
    """Length, batch, schedule, loss and device of a training run."""

    epochs: int = Field(ge=1, le=100_000)
    batch_size: int = Field(default=32, ge=1, le=2**31 - 1)
    schedule: Literal["constant", "cosine", "step", "polynomial", "one_cycle", "plateau"] = "constant"
    warmup_epochs: float = Field(default=0.0, ge=0)
    step_epochs: int | None = Field(default=None, ge=1)
    step_factor: Annotated[float, Field(gt=0, le=1)] | None = Field(default_factory=_default_of("step_factor"))
    power: Annotated[float, Field(gt=0)] | None = Field(default_factory=_default_of("power"))
    plateau_factor: Annotated[float, Field(gt=0, lt=1)] | None = Field(default_factory=_default_of("plateau_factor"))
    plateau_patience_epochs: Annotated[int, Field(ge=0)] | None = Field(
        default_factory=_default_of("plateau_patience_epochs")
    )
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    class_weights: Literal["none", "balanced"] = "none"
    early_stop_epochs: int | None = Field(default=None, ge=1)
    monitor: str = "val/loss"
    precision: Literal["auto", "fp32", "bf16", "float64"] = "auto"
    device: str = "auto"

    @field_validator("warmup_epochs")
    @classmethod
    def _warmup_ends(cls, warmup_epochs: float, info: ValidationInfo) -> float:
        epochs = info.data.get("epochs")
        if epochs and warmup_epochs >= epochs:
            raise broken(f"must be < epochs ({epochs}), got {warmup_epochs:g}")
        if warmup_epochs and info.data.get("schedule") == "one_cycle":
            raise broken(f"must be 0 for schedule one_cycle, which has a warm-up of its own, got {warmup_epochs:g}")
        return warmup_epochs

    @field_validator(*OF_SCHEDULE)
    @classmethod
    def _of_its_schedule(cls, value: float | None, info: ValidationInfo) -> float | None:
        schedule = info.data.get("schedule")
        owner, _ = OF_SCHEDULE[str(info.field_name)]
        if schedule == owner and value is None:
            raise broken(f"required for schedule {owner}")
        if schedule not in (owner, None) and value is not None:
            raise broken(f"belongs to schedule {owner}, but the schedule is {schedule}, got {value:g}")
        return value

    @field_validator("monitor")
    @classmethod
    def _known_metric(cls, monitor: str) -> str:
        return val_metric(monitor)

    @field_validator("device")
    @classmethod
    def _known_device(cls, device: str) -> str:
        if not re.fullmatch(r"auto|cpu|mps|cuda(:[0-9]{1,3})?", device):
            raise broken(f"must be auto, cpu, mps, cuda or cuda:<number>, got {known.shown(device)}")
        return device


def one_form(value: object, section: type[Section], *, words: tuple[str, ...]) -> object:
    """Return a value that is one of some words, or a section of which exactly one field is given.

    Raises:
        PydanticCustomError: it is neither; one message, whatever is wrong.
    """
    if value in words or isinstance(value, section):
        return value
    forms = ", ".join(section.model_fields)
    if not isinstance(value, Mapping):
        raise broken(f"must be {', '.join(words)} or one of {forms} with its value, got {known.shown(value)}")
    given = [key for key in value if value[key] is not None]
    if len(given) != 1:
        raise broken(f"must hold exactly one of {forms}, got {known.shown(given)}")
    if given[0] not in section.model_fields:
        raise broken(known.one_of(given[0], section.model_fields))
    return section.model_validate(value)


def val_metric(name: str) -> str:
    """Return the name of a validation metric, or raise the error of a broken rule."""
    if name not in VAL_METRICS:
        raise broken(known.one_of(name, VAL_METRICS))
    return name
