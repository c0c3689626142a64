"""The distributions of a study: a range or choices for one field of the experiment, and when they are drawn.

They are Optuna's, in YAML. What a condition means for a whole recipe is worked out in `conditions.py` and `space.py`.
"""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator, ValidationError, ValidationInfo, field_validator, model_validator

from fttune.config import known
from fttune.config.sections import Section, broken, exact

Scalar = str | int | float | bool


def is_plain(value: object) -> bool:
    """Return whether a value is one that YAML and JSON share: text, finite numbers, booleans, lists, mappings."""
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and is_plain(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    return isinstance(value, Scalar) and value not in (float("inf"), float("-inf")) and value == value


def encoded(value: Any) -> Scalar:
    """Return a choice as Optuna stores it: scalars as they are, lists and mappings as their canonical JSON text."""
    return value if isinstance(value, Scalar) else json.dumps(value, sort_keys=True)


def same(a: object, b: object) -> bool:
    """Return whether two values are equal as YAML writes them: 1 equals 1.0, but not true."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def _choice(value: object) -> object:
    if not is_plain(value):
        raise broken(f"must be text, a finite number, true or false, a list or a mapping, got {known.shown(value)}")
    return value


Choice = Annotated[Any, PlainValidator(_choice)]


class Bounds(Section):
    """A condition: a number of at least `min` and at most `max`."""

    min: float | None = None
    max: float | None = None

    @model_validator(mode="after")
    def _in_order(self) -> "Bounds":
        if self.min is None and self.max is None:
            raise broken("empty")
        if self.min is not None and self.max is not None and self.max < self.min:
            raise broken("crossed")
        return self


Condition = Scalar | tuple[Any, ...] | Bounds


def _condition(value: object) -> Condition:
    if isinstance(value, Bounds):
        return value
    if isinstance(value, Mapping):
        if unknown := [key for key in value if key not in ("min", "max")]:
            raise broken(f"must be a value, a list of values, or min and max, got the key {known.shown(unknown[0])}")
        try:
            return Bounds.model_validate(value)
        except ValidationError as error:
            rule = "must hold min, max or both, as numbers with min <= max"
            raise broken(f"{rule}, got {known.shown(dict(value))}") from error
    if isinstance(value, list | tuple) and value and is_plain(value):
        return tuple(value)
    if isinstance(value, Scalar) and is_plain(value):
        return value
    raise broken(f"must be a value, a list of values, or min and max, got {known.shown(value)}")


When = dict[str, Annotated[Any, PlainValidator(_condition)]]


class _Range(Section):
    """The rules of a range of numbers."""

    log: bool = False
    when: When = Field(default={})

    @field_validator("low", check_fields=False)
    @classmethod
    def _positive_on_log_scale(cls, low: float, info: ValidationInfo) -> float:
        if info.data.get("log") and low <= 0:
            raise broken(f"must be > 0 on a log scale, got {low}")
        return low

    @field_validator("high", check_fields=False)
    @classmethod
    def _not_below_low(cls, high: float, info: ValidationInfo) -> float:
        if high < info.data.get("low", high):
            raise broken(f"must be >= low ({info.data['low']}), got {high}")
        return high

    @field_validator("step", check_fields=False)
    @classmethod
    def _ends_at_high(cls, step: float | None, info: ValidationInfo) -> float | None:
        log, low, high = (info.data.get(name) for name in ("log", "low", "high"))
        if step is not None and log:
            raise broken(f"cannot be combined with log: true, got {step}")
        if step is not None and low is not None and high is not None and (exact(high) - exact(low)) % exact(step):
            raise broken(f"must lead from low ({low}) to high ({high}) in whole steps, got {step}")
        return step

    @field_validator("points", check_fields=False)
    @classmethod
    def _points_or_step(cls, points: int | None, info: ValidationInfo) -> int | None:
        if points is not None and info.data.get("step") is not None:
            raise broken(f"cannot be combined with step ({info.data['step']}), got {points}")
        return points


class Float(_Range):
    """A real number between `low` and `high`, both included."""

    type: Literal["float"]
    low: float
    high: float
    step: Annotated[float, Field(gt=0)] | None = None
    points: Annotated[int, Field(ge=1)] | None = None


class Int(_Range):
    """A whole number between `low` and `high`, both included."""

    type: Literal["int"]
    low: int
    high: int
    step: Annotated[int, Field(ge=1)] | None = None
    points: Annotated[int, Field(ge=1)] | None = None


class Categorical(Section):
    """One of several values; lists and mappings too, where the field holds such."""

    type: Literal["categorical"]
    choices: Annotated[tuple[Choice, ...], Field(strict=False)]
    when: When = Field(default={})

    @field_validator("choices")
    @classmethod
    def _each_once(cls, choices: tuple[Any, ...]) -> tuple[Any, ...]:
        if not choices:  # pydantic's min_length counts only the valid ones
            raise broken("must not be empty, got []")
        seen: set[Scalar] = set()
        for choice in map(encoded, choices):
            if choice in seen:  # so are 1 and 1.0, and 1 and true
                raise broken(f"{known.shown(choice)} equals an earlier choice")
            seen.add(choice)
        return choices

    def decoded(self, stored: Scalar) -> Any:
        """Return the choice that `encoded` wrote as `stored`."""
        return next((choice for choice in self.choices if same(encoded(choice), stored)), stored)


Distribution = Annotated[Float | Int | Categorical, Field(discriminator="type")]
