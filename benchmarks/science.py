"""Three published claims on handwritten digits: the studies of studies/science/, and whether their directions hold.

Work: the grids of the five files, over the seeds from --first-seed on, three of them. Baseline: within each claim, the
policy or momentum that it compares with, each policy at its own best lr. Prints the figures of the headers.
"""

import argparse
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import mean
from typing import Any

import mlflow
import optuna

import fttune
from fttune.config.workspace import Workspace
from fttune.searching import facts_of

ROOT = Path(__file__).parent.parent
Mean = dict[Any, float]


def trials_of(name: str, workspace: Workspace, *, first_seed: int) -> list[optuna.trial.FrozenTrial]:
    """Run a science study with three seeds and return its trials."""
    seeds = [f"space.seed.low={first_seed}", f"space.seed.high={first_seed + 2}"]
    study = fttune.load_study(ROOT / "studies" / "science" / f"{name}.yaml", seeds)
    return fttune.search(study, workspace=workspace).get_trials(states=[optuna.trial.TrialState.COMPLETE])


def means(trials: Iterable[optuna.trial.FrozenTrial], *names: str) -> Mean:
    """Return the mean value over seeds, by the values of some parameters."""
    values = defaultdict(list)
    for trial in trials:
        values[tuple(trial.params[name] for name in names)].append(trial.value)
    return {key: mean(found) for key, found in values.items()}


def best_lr(trials: list[optuna.trial.FrozenTrial]) -> dict[str, float]:
    """Return each preset's best learning rate."""
    found = means(trials, "freeze.preset", "optimizer.lr")
    presets = {preset for preset, _ in found}
    return {preset: max((v, lr) for (p, lr), v in found.items() if p == preset)[1] for preset in presets}


def effective_lr(workspace: Workspace, *, first_seed: int) -> tuple[str, bool]:
    """Li et al. 2020: momentum hardly matters at equal elr; a far target wants a larger one."""
    gains, gaps = {}, []
    for target in ("near", "far"):
        found = means(
            trials_of(f"elr_{target}", workspace, first_seed=first_seed), "optimizer.elr", "optimizer.momentum"
        )
        rates = sorted({elr for elr, _ in found})
        gaps += [abs(found[elr, 0.0] - found[elr, 0.9]) for elr in rates if elr <= 0.1]
        by_elr = {elr: mean((found[elr, 0.0], found[elr, 0.9])) for elr in rates}
        gains[target] = by_elr[0.1] - by_elr[0.01]
        print(f"  {target}: " + ", ".join(f"elr {elr:.2g} {value:.3f}" for elr, value in by_elr.items()))
    line = (
        f"largest gap between momentum 0 and 0.9 up to elr 0.1: {max(gaps):.3f}; "
        f"from elr 0.01 to 0.1 the near target gains {gains['near']:.3f}, the far one {gains['far']:.3f}"
    )
    return line, max(gaps) <= 0.02 and gains["far"] > gains["near"]


def probe_then_tune(workspace: Workspace, *, first_seed: int) -> tuple[str, bool]:
    """Kumar et al. 2022: out of distribution LP-FT beats FT on every seed, and is no worse than LP on average."""
    trials = trials_of("lp_ft", workspace, first_seed=first_seed)
    ood: dict[str, dict[int, float]] = defaultdict(dict)
    for preset, lr in best_lr(trials).items():
        for trial in trials:
            if (trial.params["freeze.preset"], trial.params["optimizer.lr"]) == (preset, lr):
                ood[preset][trial.params["seed"]] = _at_best_epoch(trial, "ood/accuracy", workspace)
    found = {preset: mean(values.values()) for preset, values in ood.items()}
    line = ", ".join(f"{preset} {found[preset]:.3f}" for preset in ("full", "head_only", "lp_ft"))
    every_seed = all(ood["lp_ft"][seed] > value for seed, value in ood["full"].items())
    return f"ood/accuracy: {line}", every_seed and found["lp_ft"] >= found["head_only"] - 0.01


def surgical_flip(workspace: Workspace, *, first_seed: int) -> tuple[str, bool]:
    """Lee et al. 2023: when the labels change, the last layer beats all, and that the first stages."""
    line, found = _by_preset("surgical_flip", workspace, first_seed=first_seed)
    return line, found["head_only"] > found["full"] > found["first_k"]


def surgical_contrast(workspace: Workspace, *, first_seed: int) -> tuple[str, bool]:
    """Lee et al. 2023: when the input changes, the first stages beat the last layer by far."""
    line, found = _by_preset("surgical_contrast", workspace, first_seed=first_seed)
    return line, found["first_k"] > found["head_only"] + 0.1


CLAIMS: tuple[Callable[..., tuple[str, bool]], ...] = (effective_lr, probe_then_tune, surgical_flip, surgical_contrast)


def _by_preset(name: str, workspace: Workspace, *, first_seed: int) -> tuple[str, dict[str, float]]:
    trials = trials_of(name, workspace, first_seed=first_seed)
    rates, found = best_lr(trials), means(trials, "freeze.preset", "optimizer.lr")
    best = {preset: found[preset, lr] for preset, lr in rates.items()}
    return "val/accuracy: " + ", ".join(f"{preset} {best[preset]:.3f}" for preset in sorted(best)), best


def _at_best_epoch(trial: optuna.trial.FrozenTrial, metric: str, workspace: Workspace) -> float:
    facts = facts_of(trial)
    assert facts is not None, "the trial is complete"
    client = mlflow.MlflowClient(workspace.mlflow_uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    wanted = f"tags.`fttune.study` = 'lp_ft' and tags.`fttune.trial` = '{trial.number}'"
    (run,) = client.search_runs(experiments, wanted)
    history = client.get_metric_history(run.info.run_id, metric)
    return next(point.value for point in history if point.step == facts.best_epoch)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first-seed", type=int, default=0)
    first_seed = parser.parse_args().first_seed
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace.at(ROOT, mlruns=Path(folder))
        for claim in CLAIMS:
            line, holds = claim(workspace, first_seed=first_seed)
            print(f"{claim.__name__}: {'holds' if holds else 'DOES NOT HOLD'}. {line}", flush=True)


if __name__ == "__main__":
    main()
