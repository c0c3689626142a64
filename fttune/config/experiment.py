"""The experiment: one complete fine-tuning recipe. Knows neither torch nor Optuna."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from fttune.config.conditions import merged
from fttune.config.data import Data
from fttune.config.freeze import Freeze
from fttune.config.problems import problems_of, raise_if_any
from fttune.config.rules import experiment_problems
from fttune.config.sections import NAME, Backbone, Optimizer, Section, Seed, Training
from fttune.errors import Problem


class Experiment(Section):
    """One complete fine-tuning recipe.

    `name` is the stem of its file and the MLflow experiment; it is not a YAML field.

    Raises:
        pydantic.ValidationError: a field or a rule between fields is broken (files: `load_experiment`).
    """

    task: Literal["classification"] = "classification"
    data: Data
    backbone: Backbone
    freeze: Freeze = Freeze()
    optimizer: Optimizer
    training: Training
    seed: Seed = 0
    name: str = Field(default="experiment", exclude=True, pattern=NAME)

    @model_validator(mode="after")
    def _rules(self) -> "Experiment":
        raise_if_any(experiment_problems(self.given()), type(self))
        return self

    def replace(self, values: Mapping[str, Any]) -> "Experiment":
        """Return this experiment with other values at dotted fields, such as `{"optimizer.lr": 0.1}`.

        A value of this experiment goes where one of `values` is its alternative (`optimizer.elr`), or where it
        cannot act beside them (momentum under adamw).

        Raises:
            pydantic.ValidationError: a value or a combination that the recipe does not allow.
        """
        return Experiment.model_validate({"name": self.name, **merged(type(self), self.given(), values)})

    def given(self) -> dict[str, Any]:
        """Return what was given, nested as in the file: no defaults."""
        return self.model_dump(exclude_unset=True)

    def problems(self, values: Mapping[str, Any]) -> list[Problem]:
        """Return why `replace(values)` is no recipe; nothing when it is one."""
        try:
            self.replace(values)
        except ValidationError as error:
            return problems_of(error, Experiment)
        return []

    def refusal(self, values: Mapping[str, Any]) -> str | None:
        """Return the first of `problems(values)` as `field: rule, value`, or None when it is a recipe."""
        return next((f"{problem.field}: {problem.message}" for problem in self.problems(values)), None)

    def params(self) -> dict[str, Any]:
        """Return every field that says something, defaults filled in, by its dotted path; `optimizer.lr` always."""
        fields = {name: value for name, value in flatten(self.model_dump()).items() if value is not None}
        return {**fields, "optimizer.lr": self.optimizer.learning_rate}


def as_param(value: Any) -> str:
    """Return how MLflow stores the value of a param."""
    return ", ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the leaves of nested dicts by dotted path: `{"a": {"b": 1}} -> {"a.b": 1}`."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
