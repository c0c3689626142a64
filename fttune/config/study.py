"""The study: a search over some fields of an experiment. Knows Optuna's vocabulary, not Optuna.

`Study.sample(trial)` is the whole meeting point: it asks a trial for values and returns an experiment.
"""

import re
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Annotated, Any, Literal, Protocol

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from fttune.config.data import CrossValidation
from fttune.config.distributions import Categorical, Choice, Distribution, Float, Int, Scalar, encoded
from fttune.config.experiment import Experiment
from fttune.config.known import one_of, shown
from fttune.config.nightly import Nightly
from fttune.config.problems import raise_if_any
from fttune.config.pruners import BY_EPOCHS, NoPruner, Pruner
from fttune.config.sections import COSTS, MEMORY, NAME, SECONDS, VAL_METRICS, Line, Section, Seed, broken, val_metric
from fttune.config.space import Space
from fttune.config.study_rules import study_problems
from fttune.config.urls import SERVERS, STORES, require_kind
from fttune.config.warm_start import NONE, WarmStart
from fttune.config.workers import Processes, Workers


class Trial(Protocol):
    """What a study needs of an Optuna trial (`optuna.Trial` and `optuna.trial.FixedTrial` are such)."""

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None, log: bool) -> float: ...
    def suggest_int(self, name: str, low: int, high: int, *, step: int, log: bool) -> int: ...
    def suggest_categorical(self, name: str, choices: Any) -> Any: ...


class Budget(Section):
    """Totals over all invocations: trials that count, minutes; and failures in a row that end the search."""

    n_trials: int = Field(ge=1)
    timeout_minutes: float | None = Field(default=None, gt=0)
    max_failed: int = Field(default=5, ge=1)


class Sampler(Section):
    """Optuna's sampler; its seed for trial n derives from (seed, n)."""

    type: Literal["tpe", "random", "grid", "gp", "cmaes"] = "tpe"
    seed: Seed = 0


def _store(value: str) -> str:
    return require_kind(value, STORES)


def _tracking(value: str) -> str:
    return require_kind(value, (*STORES, *SERVERS))


Store = Annotated[Line, AfterValidator(_store)]
Server = Annotated[Line, AfterValidator(_tracking)]


class Tracking(Section):
    """Where MLflow keeps the runs; default: `MLFLOW_TRACKING_URI`, else SQLite under mlruns/."""

    uri: Server | None = None


class Retention(Section):
    """Whose checkpoints a search keeps: those of `all` trials, or of the k best complete ones (`best_<k>`)."""

    keep: str = "all"

    @field_validator("keep")
    @classmethod
    def _known_rule(cls, keep: str) -> str:
        if keep != "all" and not re.fullmatch("best_[1-9][0-9]{0,5}", keep):
            raise broken(f"must be all, or best_<k> such as best_3, got {shown(keep)}")
        return keep

    @property
    def best(self) -> int | None:
        """How many checkpoints are kept, None for all."""
        return None if self.keep == "all" else int(self.keep.removeprefix("best_"))


class Confirm(Section):
    """How many of the best trials are trained anew, beside the baselines, and with how many fresh seeds."""

    top_k: int = Field(default=3, ge=1)
    seeds: int = Field(default=5, ge=1)


Baseline = Annotated[dict[str, Choice], Field(min_length=1)]
Direction = Literal["maximize", "minimize"]
_OBJECTIVES = {**VAL_METRICS, **COSTS}


class Metric(Section):
    """One objective of a study: a validation metric, or what a trial costs."""

    name: str
    direction: Direction

    @field_validator("name")
    @classmethod
    def _known_name(cls, name: str) -> str:
        if name not in _OBJECTIVES:
            raise broken(one_of(name, _OBJECTIVES))
        return name

    @field_validator("direction")
    @classmethod
    def _direction_of_metric(cls, direction: str, info: ValidationInfo) -> str:
        return _fitting(direction, info.data.get("name"))


def _fitting(direction: str, metric: str | None) -> str:
    if metric and direction != _OBJECTIVES[metric]:
        raise broken(f"must be {_OBJECTIVES[metric]} for {metric}, got {direction!r}")
    return direction


def _of_first(field: str, default: str) -> Callable[[Mapping[str, Any]], Any]:
    """Return what fills in `metric` or `direction`: that of the first of `metrics`, where these are given."""
    return lambda fields: getattr(fields["metrics"][0], field) if fields.get("metrics") else default


BLIND = ("random", "grid")  # samplers that propose the same whatever came before
BLOCK = 8


def _batch(fields: Mapping[str, Any]) -> int:
    """Return how many trials are asked together where the study does not say it.

    One, for a proposal is the better the more trials are known before it (docs/log.md, 2026-11-27). A block where that
    does not count: the sampler does not look back, trials wait for each other at rungs, or all train the head alone,
    and so as one.
    """
    sampler, pruner, experiment = (fields.get(name) for name in ("sampler", "pruner", "experiment"))
    if sampler is None or pruner is None or experiment is None:  # refused for that
        return 1
    frozen = not any(name.startswith("freeze.") for name in fields.get("space", ()))
    head_alone = frozen and experiment.freeze.unfrozen_stages == 0
    return BLOCK if sampler.type in BLIND or pruner.type in BY_EPOCHS or head_alone else 1


class Study(Section):
    """One search: which experiment, over which space, for which metric, within which budget.

    `metrics` are several objectives, in place of `metric` and `direction`; these are then those of the first one, which
    chooses the best epoch and is what a pruner watches. `retries` bounds how often a trial begins anew after failures
    that are not its recipe's. `workers` are the processes that train, `auto` one for each GPU, or a Ray cluster's; one
    without progress for `stalled_minutes` is ended. `name` is the stem of its file; it is not a YAML field.

    Raises:
        pydantic.ValidationError: a field or a rule between fields is broken (files: `load_study`).
    """

    experiment: Experiment
    metrics: Annotated[tuple[Metric, ...], Field(strict=False)] | None = None
    metric: str = Field(default_factory=_of_first("name", "val/accuracy"))
    direction: Direction = Field(default_factory=_of_first("direction", "maximize"))
    budget: Budget
    sampler: Sampler = Sampler()
    evaluation: CrossValidation | None = None
    pruner: Pruner = NoPruner()
    space: dict[str, Distribution] = Field(min_length=1)
    batch: int = Field(default_factory=_batch, ge=1)
    baselines: Annotated[tuple[Baseline, ...], Field(strict=False)] = ()
    warm_start: WarmStart = Field(default=WarmStart(), exclude=True)
    confirm: Confirm = Field(default=Confirm(), exclude=True)
    retention: Retention = Field(default=Retention(), exclude=True)
    nightly: Nightly = Field(default=Nightly(), exclude=True)
    retries: int = Field(default=2, ge=0, exclude=True)
    workers: Workers = Field(default=Processes(), exclude=True)
    stalled_minutes: float = Field(default=60.0, gt=0, exclude=True)
    storage: Store | None = Field(default=None, exclude=True)
    tracking: Tracking = Field(default=Tracking(), exclude=True)
    name: str = Field(default="study", exclude=True, pattern=NAME)

    @field_validator("metrics")
    @classmethod
    def _several(cls, metrics: tuple[Metric, ...] | None) -> tuple[Metric, ...] | None:
        if metrics is None:
            return None
        names = [metric.name for metric in metrics]
        if len(names) < 2:
            raise broken(f"must be at least two objectives; write one as metric and direction, got {shown(names)}")
        if len(set(names)) < len(names):
            raise broken(f"each objective can stand once, got {shown(names)}")
        if names[0] not in VAL_METRICS:
            rule = "the first must be a validation metric, which chooses the best epoch; change the order"
            raise broken(f"{rule}, got {names[0]}")
        return metrics

    @field_validator("metric")
    @classmethod
    def _known_metric(cls, metric: str) -> str:
        return val_metric(metric)

    @field_validator("direction")
    @classmethod
    def _direction_of_metric(cls, direction: str, info: ValidationInfo) -> str:
        return _fitting(direction, info.data.get("metric"))

    @field_validator("warm_start")
    @classmethod
    def _not_on_a_grid(cls, warm_start: WarmStart, info: ValidationInfo) -> WarmStart:
        sampler = info.data.get("sampler")
        if sampler and sampler.type == "grid" and warm_start.sources != NONE:
            raise broken("from must be none with sampler grid, which runs its own points whatever came before")
        return warm_start

    @model_validator(mode="before")
    @classmethod
    def _pruner_of_folds(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("evaluation") is not None and "pruner" not in given:
            return {**given, "pruner": {"type": "wilcoxon"}}
        return given

    @field_validator("pruner")
    @classmethod
    def _pruner_fits(cls, pruner: Pruner, info: ValidationInfo) -> Pruner:
        folds = info.data.get("evaluation") is not None
        if folds and pruner.type in BY_EPOCHS:
            raise broken(
                f"{pruner.type} counts epochs, but with evaluation.folds only folds count; use wilcoxon or none"
            )
        if not folds and pruner.type == "wilcoxon":
            raise broken("wilcoxon compares folds; set evaluation.folds, or use median")
        return pruner

    @field_validator("workers")
    @classmethod
    def _measured_alone(cls, workers: Workers, info: ValidationInfo) -> Workers:
        measured = [one.name for one in info.data.get("metrics") or () if one.name in (SECONDS, MEMORY)]
        if measured and workers != Processes():
            names = " and ".join(measured)
            raise broken(f"must be 1 with {names}, which are measured with nothing beside, got {workers.shown}")
        return workers

    @model_validator(mode="after")
    def _rules(self) -> "Study":
        problems = study_problems(
            space=self.space,
            sampler=self.sampler.type,
            baselines=self.baselines,
            experiment=self.experiment,
            given={name for name in self.model_fields_set if getattr(self, name) is not None},
        )
        raise_if_any(problems, type(self))
        return self

    @property
    def optional(self) -> frozenset[str]:
        """The names of the parts that decide results and that this study has beside those of every study."""
        return frozenset(name for name in ("metrics", "evaluation") if getattr(self, name) is not None)

    def suggest(self, trial: Trial) -> dict[str, Any]:
        """Return a value for each field of the space that acts, asked of `trial`; parents before children."""
        return self.searched.draw(lambda name, distribution: _suggest(trial, name, distribution))

    def sample(self, trial: Trial) -> Experiment:
        """Return the experiment with the fields of the space filled in by `trial`."""
        return self.experiment.replace(self.suggest(trial))

    def values(self, params: Mapping[str, Scalar]) -> dict[str, Any]:
        """Return the values of the fields that a trial's stored `params` stand for."""
        return {name: _decoded(self.space.get(name), value) for name, value in params.items()}

    def recipe(self, params: Mapping[str, Scalar]) -> Experiment:
        """Return the experiment that a trial's stored `params` make."""
        return self.experiment.replace(self.values(params))

    @cached_property
    def objectives(self) -> tuple[Metric, ...]:
        """What trials are judged by, in order: `metrics`, or the one `metric`."""
        return self.metrics or (Metric(name=self.metric, direction=self.direction),)

    @cached_property
    def searched(self) -> Space:
        """The space, which knows where each of its parameters acts."""
        return Space(self.space, type(self.experiment), self.experiment.given())

    def better(self, a: float, b: float) -> bool:
        """Return whether value `a` is strictly better than `b` in the study's direction."""
        return a > b if self.direction == "maximize" else a < b

    def grid(self) -> list[dict[str, Any]]:
        """Return every point of a grid study, the last parameter of the space varying fastest."""
        return list(self.searched.grid())

    @cached_property
    def grid_params(self) -> list[dict[str, Scalar]]:
        """The baselines and then every point of a grid study, each once, as Optuna stores them."""
        points = ({n: encoded(value) for n, value in point.items()} for point in (*self.baselines, *self.grid()))
        return list({frozenset(params.items()): params for params in points}.values())

    @property
    def total_trials(self) -> int:
        """The trials that end the search: `n_trials`, for a grid at most its size."""
        if self.sampler.type != "grid":
            return self.budget.n_trials
        return min(self.budget.n_trials, len(self.grid_params))

    def until(self, total: int) -> "Study":
        """Return the study with another total of trials, and none of minutes."""
        budget = self.budget.model_copy(update={"n_trials": total, "timeout_minutes": None})
        return self.model_copy(update={"budget": budget})


def _suggest(trial: Trial, name: str, distribution: Distribution) -> Any:
    d = distribution
    if isinstance(d, Float):
        return trial.suggest_float(name, d.low, d.high, step=d.step, log=d.log)
    if isinstance(d, Int):
        return trial.suggest_int(name, d.low, d.high, step=d.step or 1, log=d.log)
    return d.decoded(trial.suggest_categorical(name, tuple(encoded(choice) for choice in d.choices)))


def _decoded(distribution: Distribution | None, value: Scalar) -> Any:
    return distribution.decoded(value) if isinstance(distribution, Categorical) else value
