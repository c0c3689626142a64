"""What does it cost in search quality to ask trials in blocks, at equal numbers of trials?

Work: TPE with blocks of 1 (baseline), 8 and 24 trials, the same seeds, on a smooth surface over lr, momentum and depth
whose best point is known: accuracy as a bell over the effective lr lr / (1 - momentum), whose place moves with the
depth, times a mild preference for a middle depth, and noise as of a small validation split. Nothing trains. Prints the
mean over seeds of the best noiseless value after some numbers of trials, and its ratio to that of blocks of 1.

    python -m benchmarks.blocks            about 2 minutes
"""

import argparse
import math
import random
import tempfile
from pathlib import Path
from statistics import mean

from fttune.config import Experiment, Study
from fttune.config.workspace import Workspace
from fttune.searching import Asked, Inline, Outcome, open_storage, open_study, search

BLOCKS, AFTER, STAGES, NOISE = (1, 8, 24), (8, 24, 48), 4, 0.01


def surface(values: dict[str, float]) -> float:
    """Return the noiseless accuracy, at most 0.95."""
    depth = values["freeze.unfrozen_stages"]
    elr = math.log10(values["optimizer.lr"] / (1 - values["optimizer.momentum"]))
    return 0.95 * math.exp(-((elr + 1 + 0.3 * depth) ** 2)) * (1 - 0.03 * (depth - 2) ** 2)


def study_of(batch: int, seed: int, trials: int) -> Study:
    """Return the study of the work."""
    experiment = {
        "data": {"source": "digits", "image_size": 8, "resize": 8},
        "backbone": {"name": "cifar_resnet8", "weights": "none"},
        "optimizer": {"lr": 0.01},
        "training": {"epochs": 1},
    }
    space = {
        "optimizer.lr": {"type": "float", "low": 1e-5, "high": 1.0, "log": True},
        "optimizer.momentum": {"type": "float", "low": 0.0, "high": 0.99},
        "freeze.unfrozen_stages": {"type": "int", "low": 0, "high": STAGES},
    }
    fields = {"budget": {"n_trials": trials}, "batch": batch, "sampler": {"type": "tpe", "seed": seed}, "space": space}
    own = {"experiment": Experiment.model_validate(experiment), "pruner": {"type": "none"}, "name": f"b{batch}-{seed}"}
    return Study.model_validate({**fields, **own})


def best_after(batch: int, seed: int, workspace: Workspace) -> list[float]:
    """Return the best noiseless value after each of the numbers of trials."""
    noise = random.Random(seed)
    found: list[float] = []

    def objective(asked: Asked) -> Outcome:
        found.append(surface(dict(asked.values)))
        return Outcome("complete", found[-1] + noise.gauss(0, NOISE), 1, 1)

    study = study_of(batch, seed, max(AFTER))
    storage = open_storage(workspace.optuna_uri, locks=workspace.locks)
    search(study, open_study(study, storage, {"study": study.name}), Inline(objective))
    return [max(found[:number]) for number in AFTER]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    seeds = parser.parse_args().seeds
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace.at(Path(folder))
        rows = {b: [best_after(b, seed, workspace) for seed in range(seeds)] for b in BLOCKS}
    means = {block: [mean(column) for column in zip(*found, strict=True)] for block, found in rows.items()}
    print(f"best value, mean of {seeds} seeds (the ratio to blocks of 1); the best there is is 0.95")
    print("block " + " ".join(f"{f'after {number}':>16}" for number in AFTER))
    for block, values in means.items():
        cells = (f"{v:8.3f} ({v / one:5.3f})" for v, one in zip(values, means[1], strict=True))
        print(f"{block:5d} " + " ".join(f"{cell:>16}" for cell in cells))


if __name__ == "__main__":
    main()
