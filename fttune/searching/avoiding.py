"""A sampler that does not propose again what ran out of memory: whether a recipe fits does not depend on its rates.

Optuna's constraints only make such proposals less likely (TPE compares densities, and explores just beyond the border).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from fttune.config.depth import DEPTH

TRIES = 20
# What may differ between two recipes that need the same memory. Other fields count as if they mattered.
_RATES = frozenset(
    {f"optimizer.{name}" for name in ("lr", "elr", "momentum", "nesterov", "weight_decay", "clip_grad_norm")}
    | {f"training.{name}" for name in ("epochs", "schedule", "warmup_epochs", "step_epochs", "step_factor", "power")}
    | {f"training.{name}" for name in ("plateau_factor", "plateau_patience_epochs", "label_smoothing")}
    | {"training.early_stop_epochs", "freeze.layer_decay", "freeze.head.lr_mult", "seed"}
)
_GROWING = frozenset({DEPTH, "training.batch_size", "data.image_size"})  # more of it never takes less memory

Params = Mapping[str, Any]


class Avoiding(BaseSampler):
    """Another sampler, unless what it proposes will not fit: then `instead` draws, up to `TRIES` times.

    `failed` are the parameters of trials that ran out of memory, `order` is that in which parameters are drawn. An
    optimum of what a sampler has learned would come up again and again, so `instead` is one that draws.
    """

    def __init__(
        self, sampler: BaseSampler, instead: BaseSampler, *, failed: Sequence[Params], order: Sequence[str]
    ) -> None:
        self._sampler, self._instead, self._failed, self._order = sampler, instead, failed, order

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return which parameters the sampler proposes together."""
        return self._sampler.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return a proposal that may fit; what is left out of it is drawn one by one."""
        for sampler in (self._sampler, *[self._instead] * TRIES):
            proposed = sampler.sample_relative(study, trial, search_space)
            if not will_not_fit(proposed, self._failed):
                return proposed
        return {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return a value that may fit beside those drawn before it."""
        before = self._order[: self._order.index(param_name)]
        drawn = {name: trial.params[name] for name in before if name in trial.params}
        for sampler in (self._sampler, *[self._instead] * TRIES):
            value = sampler.sample_independent(study, trial, param_name, param_distribution)
            if not will_not_fit({**drawn, param_name: value}, self._failed):
                break
        return value

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Pass it on."""
        self._sampler.before_trial(study, trial)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Pass it on."""
        self._sampler.after_trial(study, trial, state, values)


def will_not_fit(params: Params, failed: Sequence[Params]) -> bool:
    """Return whether parameters need as much memory as some that failed, or more.

    They do when all that matters is equal, or larger where more never takes less. Without a parameter that matters
    nothing is known.
    """
    own = _footprint(params)
    return bool(own) and any(_covers(own, _footprint(other)) for other in failed)


def _footprint(params: Params) -> dict[str, Any]:
    return {name: value for name, value in params.items() if name not in _RATES}


def _covers(own: Params, other: Params) -> bool:
    return own.keys() == other.keys() and all(_at_least(name, own[name], value) for name, value in other.items())


def _at_least(name: str, own: Any, other: Any) -> bool:
    if type(own) is not type(other):  # a depth of 1 is one stage, of 1.0 all of them
        return False
    grows = name in _GROWING and isinstance(own, int | float)
    return bool(own >= other) if grows else bool(own == other)
