"""Optuna's samplers and pruners from a study's configuration."""

import warnings

import numpy as np
import optuna
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner, WilcoxonPruner
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, RandomSampler, TPESampler

from fttune.config import Study
from fttune.config import pruners as config

SEEN = 500, 100  # TPE proposes from 600 trials in about 12 ms, from 10,000 in 100 ms or more
SEEN_BY_GP = 200, 50  # its work grows with the cube


def seen_by(study: Study) -> tuple[int, int]:
    """Return how many trials the sampler sees at most: the newest ones before the one to propose, and of those older
    than these the best complete ones by the first objective (the lower number on ties).

    So its proposal is a function of a bounded part of the history, which a resumed study finds again. Up to the first
    of the two it sees all. TPE calls at most 25 trials good, so 100 hold all that it would.
    """
    return SEEN_BY_GP if study.sampler.type == "gp" else SEEN


def sampler_for(study: Study, number: int, *, at_random: bool = False) -> BaseSampler:
    """Return the sampler that proposes trial `number`.

    A new one for each trial, seeded by (study seed, number): the proposal is then a function of the history alone,
    and a resumed study proposes what an uninterrupted one would have. A grid's points are enqueued, not sampled;
    only what a baseline leaves open is drawn at random there. `at_random` draws without looking at the history.
    """
    seed = _seed(study, number)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if at_random:
            return RandomSampler(seed=seed)
        if study.sampler.type == "tpe":
            return _tpe(study, seed)
        if study.sampler.type == "gp":
            return GPSampler(seed=seed, warn_independent_sampling=False)
        if study.sampler.type == "cmaes":
            return CmaEsSampler(seed=seed, warn_independent_sampling=False)
        return RandomSampler(seed=seed)


def drawing_sampler_for(study: Study, number: int) -> BaseSampler:
    """Return a sampler that draws trial `number`, each time anew: with TPE from the density of the good trials."""
    seed = _seed(study, number, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return _tpe(study, seed, candidates=1) if study.sampler.type == "tpe" else RandomSampler(seed=seed)


def _seed(study: Study, *numbers: int) -> int:
    return int(np.random.SeedSequence([study.sampler.seed, *numbers]).generate_state(1)[0])


def _tpe(study: Study, seed: int, *, candidates: int = 24) -> TPESampler:
    """Return TPE, which takes the best of some candidates.

    Its groups keep parameters that do not always act in the joint space.
    """
    grouped = study.searched.is_conditional  # said outright: Optuna warns of it where objectives are several
    multivariate = True if grouped else None
    return TPESampler(seed=seed, group=grouped, multivariate=multivariate, n_ei_candidates=candidates)


def pruner_for(study: Study) -> BasePruner:
    """Return the pruner; its resource is the epoch, or with folds the fold, counted from 1."""
    pruner = study.pruner
    if isinstance(pruner, config.MedianPruner):
        return MedianPruner(pruner.startup_trials, n_warmup_steps=pruner.warmup_epochs + 1)
    if isinstance(pruner, config.SuccessiveHalvingPruner):
        return SuccessiveHalvingPruner(pruner.min_epochs, pruner.reduction_factor)
    if isinstance(pruner, config.HyperbandPruner):
        epochs = study.experiment.training.epochs
        return HyperbandPruner(pruner.min_epochs, max(epochs, pruner.min_epochs), pruner.reduction_factor)
    if isinstance(pruner, config.WilcoxonPruner):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return WilcoxonPruner(p_threshold=pruner.p_threshold, n_startup_steps=pruner.startup_folds)
    return NopPruner()
