"""Optuna's samplers and pruners from a study's configuration."""

import warnings

import numpy as np
import optuna
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, RandomSampler, TPESampler

from fttune.config import Study
from fttune.config import study as config


def sampler_for(study: Study, number: int, *, at_random: bool = False) -> BaseSampler:
    """Return the sampler that proposes trial `number`.

    A new one for each trial, seeded by (study seed, number): the proposal is then a function of the history alone,
    and a resumed study proposes what an uninterrupted one would have. A grid's points are enqueued, not sampled;
    only what a baseline leaves open is drawn at random there. `at_random` draws without looking at the history.
    """
    seed = int(np.random.SeedSequence([study.sampler.seed, number]).generate_state(1)[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if at_random:
            return RandomSampler(seed=seed)
        if study.sampler.type == "tpe":  # groups keep parameters that do not always act in the joint space
            return TPESampler(seed=seed, group=study.searched.is_conditional)
        if study.sampler.type == "gp":
            return GPSampler(seed=seed, warn_independent_sampling=False)
        if study.sampler.type == "cmaes":
            return CmaEsSampler(seed=seed, warn_independent_sampling=False)
        return RandomSampler(seed=seed)


def pruner_for(study: Study) -> BasePruner:
    """Return the pruner; its resource is the epoch, counted from 1."""
    pruner = study.pruner
    if isinstance(pruner, config.MedianPruner):
        return MedianPruner(pruner.startup_trials, n_warmup_steps=pruner.warmup_epochs + 1)
    if isinstance(pruner, config.SuccessiveHalvingPruner):
        return SuccessiveHalvingPruner(pruner.min_epochs, pruner.reduction_factor)
    if isinstance(pruner, config.HyperbandPruner):
        epochs = study.experiment.training.epochs
        return HyperbandPruner(pruner.min_epochs, max(epochs, pruner.min_epochs), pruner.reduction_factor)
    return NopPruner()
