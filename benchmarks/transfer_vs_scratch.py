"""Does transfer pay? The best trial of `studies/digits.yaml` against training from scratch.

Work: fine-tune on the few images of the digits 5-9, three fresh seeds each. Baseline: the same net and images from
random weights, all stages, at the best of four learning rates (chosen by the very mean that is printed, which favours
it). Prints mean validation accuracy, its spread, and the ratio of the errors. Run `fttune search` first.
"""

from pathlib import Path
from statistics import mean

from rich.console import Console
from rich.table import Table

import fttune
from fttune.config import Experiment

SEEDS = (1, 2, 3)
SCRATCH_LRS = (0.003, 0.01, 0.03, 0.1)
METRIC = "val/accuracy"


def accuracies(recipe: Experiment) -> list[float]:
    """Return the metric at its best epoch, as the study counts it, for each seed."""
    found = []
    for seed in SEEDS:
        epochs = fttune.fine_tune(recipe.replace({"seed": seed})).epochs
        found.append(max(ended.metrics[METRIC] for ended in epochs))
    return found


def scratch(recipe: Experiment) -> tuple[float, list[float]]:
    """Return the best learning rate from random weights, and its accuracies."""
    plain = {"backbone.weights": "none", "freeze.unfrozen_stages": "all", "optimizer.momentum": 0.9}
    by_lr = {lr: accuracies(recipe.replace({**plain, "optimizer.lr": lr})) for lr in SCRATCH_LRS}
    best = max(by_lr, key=lambda lr: mean(by_lr[lr]))
    return best, by_lr[best]


def main() -> None:
    study = fttune.load_study(Path("studies/digits.yaml"))
    winner = fttune.best_experiment(study, fttune.search(study))
    transfer = accuracies(winner)
    scratch_lr, baseline = scratch(study.experiment)

    table = Table(title=f"{METRIC} on validation images of the digits 5-9, mean of {len(SEEDS)} seeds")
    for heading in ("recipe", "unfrozen stages", "lr", "mean", "min .. max"):
        table.add_column(heading)
    rows = (
        ("best trial (pretrained on 0-4)", winner.freeze.unfrozen_stages, winner.optimizer.learning_rate, transfer),
        ("from scratch, best of four lr", "all", scratch_lr, baseline),
    )
    for name, depth, lr, values in rows:
        table.add_row(name, str(depth), f"{lr:.3g}", f"{mean(values):.3f}", f"{min(values):.3f} .. {max(values):.3f}")
    Console(width=100).print(table)
    print(f"errors: transfer makes {(1 - mean(transfer)) / (1 - mean(baseline)):.2f} times those of scratch")


if __name__ == "__main__":
    main()
