"""What do blocks and the median pruner cost in search quality, on real trainings, at equal numbers of trials?

Work: searches by TPE over lr, momentum and depth of the small tasks (`small_tasks.py`), in blocks of 1 or 8,
with and without Optuna's median pruner, over seeds that choose the sampler's draws and each trial's head and order of
samples. Baseline: the same search one by one without a pruner. The plain program trains; a configuration that two
searches ask for trains once. Prints by setting the difference of the best validation accuracy, in points, with its
standard error over tasks and seeds, and the share of epochs that it trained.

    python -m benchmarks.settings            about 12 minutes on 2 busy cores
"""

import argparse
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from benchmarks import results
from benchmarks.plain_study import Plan
from benchmarks.plain_training import METRIC, Recipe, Trainer
from benchmarks.small_tasks import TASKS
from benchmarks.study_vs_plain import fttune_study
from benchmarks.time_to_best import SPACE
from fttune.config import Study
from fttune.config.pruners import MedianPruner, NoPruner
from fttune.config.workspace import Workspace
from fttune.searching import Asked, Inline, Outcome, open_storage, open_study, search

PRUNERS = (NoPruner(), MedianPruner())
SETTINGS = {(batch, pruner.type): {"batch": batch, "pruner": pruner} for batch in (1, 8) for pruner in PRUNERS}
Curve = Callable[[Recipe], Sequence[float]]


def curves_of(trainer: Trainer) -> Curve:
    """Return what gives a recipe's validation accuracy after each epoch; each recipe trains once."""
    return cache(lambda recipe: [metrics[METRIC] for metrics in trainer.train(recipe)])


def best_and_epochs(study: Study, curve: Curve, seed: int) -> tuple[float, int]:
    """Run a study; return the best value of its complete trials, and how many epochs it trained."""
    epochs = 0

    def objective(asked: Asked) -> Outcome:
        nonlocal epochs
        lr, momentum, depth = (asked.values[field] for field in study.space)
        values = curve(Recipe(lr, momentum, depth, seed=seed))
        for epoch, value in enumerate(values, start=1):
            epochs += 1
            if asked.judge(epoch, value, epoch) == "prune":
                return Outcome("pruned")
        return Outcome("complete", max(values), 1, 1)

    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace.at(Path(folder))
        stored = open_study(study, open_storage(workspace.optuna_uri, locks=workspace.locks), {"study": study.name})
        search(study, stored, Inline(objective))
        return stored.best_value, epochs


def rows_of(name: str, seed: int, *, trials: int, folder: Path) -> dict[Any, tuple[float, int]]:
    """Return the best value and the epochs of each setting on a task."""
    task = TASKS[name](folder)
    curve = curves_of(Trainer(replace(task, in_memory=True)))
    study = fttune_study(task, Plan(SPACE, trials, seed=seed, sampler_seed=seed))
    return {
        setting: best_and_epochs(study.model_copy(update=fields), curve, seed) for setting, fields in SETTINGS.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--seeds", type=int, default=4, help="at least 2")
    parser.add_argument("--trials", type=int, default=24)
    asked = parser.parse_args()
    results.DEFAULT_FOLDER.mkdir(parents=True, exist_ok=True)
    found: list[dict[Any, tuple[float, int]]] = []
    for name in asked.tasks:
        for seed in range(asked.seeds):
            found.append(rows_of(name, seed, trials=asked.trials, folder=results.DEFAULT_FOLDER))
            shown = ", ".join(f"{setting}: {best:.3f} ({epochs})" for setting, (best, epochs) in found[-1].items())
            print(f"{name}, seed {seed}, best (epochs): {shown}", flush=True)
    base = next(iter(SETTINGS))
    print(f"best of {asked.trials} trials against {base}, points, over {len(found)} searches; epochs trained")
    for setting in SETTINGS:
        gaps = [100 * (row[setting][0] - row[base][0]) for row in found]
        share = mean(row[setting][1] / row[base][1] for row in found)
        print(f"{setting!s:<14}{mean(gaps):+7.2f} +- {stdev(gaps) / math.sqrt(len(gaps)):.2f}{share:>8.0%}")


if __name__ == "__main__":
    main()
