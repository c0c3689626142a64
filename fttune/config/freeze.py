"""The `freeze` section: what trains, from when, and how fast. Knows names, not which stages a backbone has.

Exactly one of `unfrozen_stages`, `train`, `phases`, `auto` and `preset` says what trains; the rest shapes how. What it
means for a backbone's stages is worked out in `policy.py`.
"""

import re
from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from fttune.config import known
from fttune.config.depth import is_depth
from fttune.config.presets import PRESETS, PRESETS_WITH_K
from fttune.config.sections import Section, broken, one_form

SELECTORS = ("unfrozen_stages", "train", "phases", "auto", "preset")


def _depth(value: object) -> object:
    if not is_depth(value):
        rule = "must be a whole number >= 0, a share of the stages in 0.0..1.0, or all"
        raise broken(f"{rule}, got {known.shown(value)}")
    return value


Depth = Annotated[int | float | Literal["all"], BeforeValidator(_depth)]
Rate = Annotated[float, Field(gt=0)]
StageRates = Annotated[dict[str, Rate], Field(min_length=1)]


class Selection(Section):
    """Which stages, or which parameters of all stages, train. The head trains beside them.

    `first` counts from the input with the stem, `last` from the output; `window` numbers stages from the input, 0 for
    the stem, both ends included; `params` are the weights of norm layers (Frankle et al., ICLR 2021, arXiv 2003.00152)
    or all biases (BitFit, Ben Zaken et al., ACL 2022, arXiv 2106.10199); `regex` is searched in dotted names.
    """

    last: int | None = Field(default=None, ge=0)
    first: int | None = Field(default=None, ge=0)
    stages: Annotated[tuple[str, ...], Field(strict=False)] | None = None
    window: Annotated[tuple[int, int], Field(strict=False)] | None = None
    params: Literal["norm", "bias"] | None = None
    regex: str | None = None

    @field_validator("stages")
    @classmethod
    def _each_once(cls, stages: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if stages == ():
            raise broken("must not be empty, got []; use train: none")
        if twice := [name for name, count in Counter(stages or ()).items() if count > 1]:
            raise broken(f"names the stage {known.shown(twice[0])} twice")
        return stages

    @field_validator("window")
    @classmethod
    def _in_order(cls, window: tuple[int, int] | None) -> tuple[int, int] | None:
        if window and not 0 <= window[0] <= window[1]:
            raise broken(f"must be [i, j] with 0 <= i <= j, stages counted from the input, got {list(window)}")
        return window

    @field_validator("regex")
    @classmethod
    def _compiles(cls, regex: str | None) -> str | None:
        try:
            re.compile(regex or "")
        except re.error as error:
            raise broken(f"is no regular expression ({error}), got {known.shown(regex)}") from error
        return regex


def _one_selection(value: object) -> object:
    return one_form(value, Selection, words=("all", "none"))


Train = Annotated[Literal["all", "none"] | Selection, BeforeValidator(_one_selection)]


def _no_other(info: ValidationInfo, names: tuple[str, ...], rule: str) -> None:
    if other := next((name for name in names if info.data.get(name) is not None), None):
        raise broken(f"cannot stand beside {other}: {rule}")


class Plateau(Section):
    """When a phase ends: after so many epochs without a better monitored value than `min_delta` beyond the best."""

    patience_epochs: int = Field(default=1, ge=1)
    min_delta: float = Field(default=0.0, ge=0)


class Phase(Section):
    """A part of the run with its own selection, length and rates.

    `lr` is absolute, `lr_mult` a multiple of the optimizer's. A phase without `layer_decay` or `stage_lr` has those of
    the section.
    """

    train: Train | None = None
    unfrozen_stages: Depth | None = None
    epochs: int | None = Field(default=None, ge=1)
    until_plateau: Plateau | None = None
    lr: Rate | None = None
    lr_mult: Rate | None = None
    layer_decay: Annotated[float, Field(gt=0, le=1)] | None = None
    stage_lr: StageRates | None = None

    @field_validator("unfrozen_stages")
    @classmethod
    def _one_selector(cls, depth: Any, info: ValidationInfo) -> Any:
        if depth is not None:
            _no_other(info, ("train",), "exactly one says what trains in a phase")
        elif "train" in info.data and info.data["train"] is None:
            raise broken("required (or train): a phase must say what trains")
        return depth

    @field_validator("until_plateau")
    @classmethod
    def _one_length(cls, plateau: Plateau | None, info: ValidationInfo) -> Plateau | None:
        if plateau is not None:
            _no_other(info, ("epochs",), "exactly one says how long a phase lasts")
        elif "epochs" in info.data and info.data["epochs"] is None:
            raise broken("required (or epochs): a phase must say how long it lasts")
        return plateau

    @field_validator("lr_mult")
    @classmethod
    def _one_rate(cls, lr_mult: float | None, info: ValidationInfo) -> float | None:
        if lr_mult is not None:
            _no_other(info, ("lr",), "at most one sets the lr of a phase")
        return lr_mult


class Head(Section):
    """The last layer. `init: auto` keeps the weights' own head where it stands for the same classes."""

    init: Literal["auto", "reset", "keep"] = "auto"
    frozen: bool = False
    lr_mult: Rate = 1.0

    @field_validator("lr_mult")
    @classmethod
    def _of_a_trained_head(cls, lr_mult: float, info: ValidationInfo) -> float:
        if lr_mult != 1 and info.data.get("frozen"):
            raise broken(f"cannot act on a frozen head, got {lr_mult:g}")
        return lr_mult


class Penalty(Section):
    """`l2_sp`: alpha of alpha/2 * ||w - w0||^2 over the trained stages (Li et al., ICML 2018, arXiv 1802.01483)."""

    l2_sp: float = Field(gt=0)


class Lora(Section):
    """Low-rank adaptation (Hu et al., ICLR 2022, arXiv 2106.09685): W + alpha / rank * B A, W frozen."""

    rank: int = Field(default=8, ge=1)
    alpha: float = Field(default=16.0, gt=0)


class Adapter(Section):
    """What is trained in place of the stages' own weights."""

    lora: Lora


def _default_depth(fields: Mapping[str, Any]) -> int | None:
    return None if any(fields.get(name) is not None for name in SELECTORS) else 0


def _default_k(fields: Mapping[str, Any]) -> int | None:
    return 1 if fields.get("preset") in PRESETS_WITH_K else None


class Freeze(Section):
    """What trains, from when, and how fast; without a selector the head alone (`unfrozen_stages: 0`)."""

    train: Train | None = None
    phases: Annotated[tuple[Phase, ...], Field(strict=False)] | None = None
    auto: Literal["rgn", "snr", "autofreeze"] | None = None
    preset: str | None = None
    unfrozen_stages: Depth | None = Field(default_factory=_default_depth)
    k: Annotated[int, Field(ge=0)] | None = Field(default_factory=_default_k)
    norm_stats: Literal["frozen", "all_frozen", "updated"] = "frozen"
    head: Head = Head()
    layer_decay: Annotated[float, Field(gt=0, le=1)] | None = None
    stage_lr: StageRates | None = None
    penalty: Penalty | None = None
    adapter: Adapter | None = None

    @field_validator("phases", "auto", "preset", "unfrozen_stages")
    @classmethod
    def _one_selector(cls, value: Any, info: ValidationInfo) -> Any:
        if value is not None:
            others = tuple(name for name in SELECTORS if name != info.field_name)
            _no_other(info, others, "exactly one says what trains")
        elif info.field_name == "unfrozen_stages" and _default_depth(info.data) == 0:
            raise broken("must be a whole number >= 0 or all, got None")
        if value == ():
            raise broken("must not be empty, got []")
        if info.field_name == "preset" and value is not None and value not in PRESETS:
            raise broken(known.one_of(value, PRESETS))
        return value

    @field_validator("k")
    @classmethod
    def _of_preset(cls, k: int | None, info: ValidationInfo) -> int | None:
        if k is not None and "preset" in info.data and info.data["preset"] not in PRESETS_WITH_K:
            raise broken(f"belongs to the presets {', '.join(PRESETS_WITH_K)}, got {k}")
        return k
