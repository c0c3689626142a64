"""How many trials does a warm start save?

Work: searches over learning rate, momentum and weight decay of the head alone, for 36 training images each of the
digits 5-9 on a net that has only seen 0-4, without baselines and pruning. Baseline: such a search that begins cold; its
target is the least validation loss of its 24 trials (on half of all images: of accuracies several trials have the best
one, and who comes first is luck), and what it needed are the trials up to the first that has it. The same search begins
warm from a study on the same digits before a sixth of their training images joined (`grown`, what a new generation
begins with), from one on another draw of these digits (`related`), and from one on 0-4 with permuted pixels and a net
that has seen nothing (`unrelated`). These have run for `--nights` of 24 trials. A search that never reaches the target
counts one trial more than it ran. Each seed is that of samplers, heads and orders; the sources have seeds of their own.
The goal is a median of at most half of the trials from the first two.

    python -m benchmarks.warm_start --seeds 3     5 minutes on 2 busy cores
    python -m benchmarks.warm_start               about 20 there
    python -m benchmarks.warm_start --first 10    the ten seeds after these
"""

import argparse
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import optuna

import fttune
from benchmarks.results import ROOT
from fttune.config import Study
from fttune.config.workspace import Workspace

GOAL = 0.5
OWN_SEEDS = 1_000  # of the sources: with the target's they would have drawn what the cold search draws
SMALL = {"source": "digits", "image_size": 8, "resize": 8}
TARGET = {**SMALL, "classes": [5, 6, 7, 8, 9], "limit_per_class": 36, "split": {"val": 0.5, "test": 0.3, "seed": 0}}
RELATED = {**TARGET, "split": {"val": 0.5, "test": 0.3, "seed": 1}}
GROWN = {**TARGET, "limit_per_class": 30}
UNRELATED = {**TARGET, "classes": [0, 1, 2, 3, 4], "shift": {"permute_pixels": 0}}
SOURCES = {"grown": GROWN, "related": RELATED, "unrelated": UNRELATED}
SPACE = {
    "optimizer.lr": {"type": "float", "low": 1.0e-4, "high": 10.0, "log": True},
    "optimizer.momentum": {"type": "float", "low": 0.0, "high": 0.99},
    "optimizer.weight_decay": {"type": "float", "low": 1.0e-6, "high": 0.1, "log": True},
}


def study_of(name: str, data: Mapping[str, Any], *, seed: int, trials: int, sources: tuple[str, ...] = ()) -> Study:
    """Return a search of heads on some data."""
    pretrained = "none" if data is UNRELATED else "experiment:digits_source"
    experiment = {
        "data": dict(data),
        "backbone": {"name": "cifar_resnet8", "weights": pretrained},
        "freeze": {"unfrozen_stages": 0},
        "optimizer": {"name": "sgd", "lr": 0.03},
        "training": {"epochs": 6, "batch_size": 5},
        "seed": seed,
        "name": "heads",
    }
    fields = {"experiment": experiment, "space": SPACE, "budget": {"n_trials": trials}, "pruner": {"type": "none"}}
    fields |= {"metric": "val/loss", "direction": "minimize"}
    warm = {"warm_start": {"from": list(sources)}} if sources else {}
    return Study.model_validate({**fields, "sampler": {"seed": seed}, "name": name, **warm})


def needed(stored: optuna.Study, target: float) -> int:
    """Return how many trials a search took to reach the target, one more than it ran where it never did."""
    reached = (trial.number + 1 for trial in stored.trials if trial.values and trial.values[0] <= target)
    return next(reached, len(stored.trials) + 1)


def run_seed(seed: int, trials: int, nights: int, workspace: Workspace) -> tuple[float, dict[str, int]]:
    """Return the best value that the cold search found, and the trials to it from each beginning."""

    def run(name: str, data: Mapping[str, Any], *sources: str, of: int = seed, nights: int = 1) -> optuna.Study:
        study = study_of(f"{name}-{seed}", data, seed=of, trials=nights * trials, sources=sources)
        return fttune.search(study, workspace=workspace)

    cold = run("cold", TARGET)
    for source, data in SOURCES.items():
        run(source, data, of=seed + OWN_SEEDS, nights=nights)
    target = cold.best_value
    counts = {"cold": needed(cold, target)}
    for source in SOURCES:
        counts[source] = needed(run(f"from-{source}", TARGET, f"{source}-{seed}"), target)
    return target, counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--nights", type=int, default=3)
    asked = parser.parse_args()
    ratios: dict[str, list[float]] = {source: [] for source in SOURCES}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "experiments").mkdir()
        shutil.copy(ROOT / "experiments" / "digits_source.yaml", Path(folder) / "experiments")
        for seed in range(asked.first, asked.first + asked.seeds):
            target, counts = run_seed(seed, asked.trials, asked.nights, Workspace.at(Path(folder)))
            told = ", ".join(f"{name} {count}" for name, count in counts.items())
            print(f"seed {seed}: trials to a validation loss of {target:.4f}: {told}", flush=True)
            for name, found in ratios.items():
                found.append(counts[name] / counts["cold"])
    for name, found in ratios.items():
        spread = f"median of {len(found)}; {min(found):.2f} .. {max(found):.2f}"
        goal = "" if name == "unrelated" else f"; goal {GOAL}: {'met' if median(found) <= GOAL else 'missed'}"
        print(f"{name}: {median(found):.2f} of the cold search's trials ({spread}){goal}")


if __name__ == "__main__":
    main()
