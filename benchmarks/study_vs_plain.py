"""How much faster than a good plain loop is fttune on the same list of trials, and how near to what is possible?

Work: a fixed list of trials of a ResNet-18 on generated JPEG images (250 x 187 pixels, 10 classes, image_size 64), 24
trials of 5 epochs: list A trains the head alone, B unfreezes 0 to 2 stages, C 0 to 5, spread evenly. The weights are a
file that this program makes: a ResNet-18 from a fixed seed, with norm statistics of the generated images; nothing is
downloaded. Baseline: `plain_study.py` with the number of decoding processes that was fastest here, on the same trials
in the same order of samples. Each side begins with a fresh workspace, in a process of its own with imports done (see
`cold.py`, also for what peak memory means); the sides of pairs alternate. fttune does what the baseline does not:
gradient norms and drift of each part, fsync and sha256 of checkpoints, the best trial as an MLflow model.

The bound is plain's time over that of the work that no search can do without (`bare.py`), measured within each pair.
A plain side that would take more than 5 minutes is timed on 3 trials per depth and scaled, and the table says so.

Differences of metrics are those of rounding. They stay below 1e-6 where the head alone trains, and grow with every
unfrozen stage, since this net is untrained: at 5 stages, 6 steps carried a change of 5e-7 in the input of the plain
program alone to 5e-4 in its training loss and 2e-2 in its validation loss.

    python -m benchmarks.study_vs_plain --trials 6 --epochs 2 --images 120     about 7 minutes on 2 busy cores
    python -m benchmarks.study_vs_plain --lists A --pairs 5                    an estimated 20 minutes a pair there
    python -m benchmarks.study_vs_plain --lists A --trials 100                 an estimated 60 minutes there

Pairs go to a file as they end (`--results`), and a later call of the same code and sizes continues from it.
"""

import argparse
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torchvision
from mlflow import MlflowClient

import fttune
from benchmarks import results
from benchmarks.bare import Bare, bare_work
from benchmarks.cold import Measured, measured
from benchmarks.pictures import picture_folder
from benchmarks.plain_study import PlainStudy, Plan, Space, run_named, run_study
from benchmarks.plain_training import Recipe, Task, tune_workers
from benchmarks.trial_lists import DEEPEST, LR, RESNET_STAGES, TIMED_PER_DEPTH, make_weights, recipes_of, timed_trials
from fttune.config import Experiment, Study
from fttune.config.workspace import Workspace

CLASSES, SIZE, RESIZE, BATCH, BLOCK = 10, 64, 72, 32, 8
VAL_SHARE = 0.2
PLAIN_LIMIT_SECONDS = 300
COMPARED = ("train/loss", "train/accuracy", "val/loss", "val/accuracy")
COMPARED += ("val/balanced_accuracy", "val/macro_f1", "val/top5_accuracy")
Metrics = dict[int, dict[str, list[float]]]  # trial -> metric -> value of each epoch


@dataclass(frozen=True)
class List:
    """A list of trials, all different, and the task that they are of."""

    task: Task
    recipes: tuple[Recipe, ...]

    @property
    def space(self) -> Space:
        """Ranges that hold every trial."""
        return Space(LR, (0.0, 0.95), (0, max(recipe.unfrozen_stages for recipe in self.recipes)))


def fttune_study(task: Task, plan: Plan, *, name: str = "list") -> Study:
    """Return the study that searches what `plan` does; fixed trials come in blocks, all else is our default."""
    space: dict[str, Any] = {
        "optimizer.lr": {"type": "float", "low": plan.space.lr[0], "high": plan.space.lr[1], "log": True},
        "optimizer.momentum": {"type": "float", "low": plan.space.momentum[0], "high": plan.space.momentum[1]},
    }
    shallow, deep = plan.space.unfrozen_stages
    if deep > shallow:
        space["freeze.unfrozen_stages"] = {"type": "int", "low": shallow, "high": deep}
    content = {
        "experiment": experiment_of(task, plan.seed),
        "budget": {"n_trials": plan.n_trials},
        "sampler": {"type": "tpe", "seed": plan.sampler_seed},
        "space": space,
        "name": name,
    }
    if plan.fixed:
        choices = [(recipe.lr, recipe.momentum, recipe.unfrozen_stages) for recipe in plan.fixed]
        baselines = [dict(zip(space, chosen, strict=False)) for chosen in choices]  # the space may end before the depth
        content |= {"batch": BLOCK, "baselines": baselines}
    return Study.model_validate(content)


def experiment_of(task: Task, seed: int) -> Experiment:
    """Return a task as an experiment that trains the head alone."""
    backbone = "resnet18" if task.build is torchvision.models.resnet18 else "cifar_resnet8"
    return Experiment.model_validate(
        {
            "data": {
                "source": "folder",
                "path": str(task.data),
                "image_size": task.image_size,
                "resize": task.resize,
            },
            "backbone": {"name": backbone, "weights": str(task.weights)},
            "freeze": {"unfrozen_stages": 0, "head": {"init": "reset"}},
            "optimizer": {"lr": 0.01, "momentum": 0.9},
            "training": {"epochs": task.epochs, "batch_size": task.batch_size},
            "seed": seed,
            "name": "fttune",
        }
    )


def run_fttune(task: Task, plan: Plan, root: Path) -> None:
    """Run the study of a plan with everything generated in `root`."""
    fttune.search(fttune_study(task, plan), workspace=Workspace.at(root, mlruns=root))


def stored_metrics(root: Path, trials: int) -> Metrics:
    """Return what MLflow holds of the first trials of the study in `root`."""
    client = MlflowClient(f"sqlite:///{root / 'mlflow.db'}")
    found: Metrics = {}
    for number in range(trials):
        run = run_named(client, f"trial-{number:04d}").info.run_id
        histories = {name: client.get_metric_history(run, name) for name in COMPARED}
        found[number] = {name: [p.value for p in sorted(h, key=lambda p: p.step)] for name, h in histories.items()}
    return found


def differences(plain: Metrics, other: Metrics, pairs: Mapping[int, int]) -> dict[str, float]:
    """Return the largest difference of each metric; `pairs` maps trials of the plain side to those of the other."""
    found = dict.fromkeys(COMPARED, 0.0)
    for mine, theirs in pairs.items():
        for name in COMPARED:
            both = zip(plain[mine][name], other[theirs][name], strict=True)
            found[name] = max([found[name], *(abs(a - b) for a, b in both)])
    return found


def scaled_seconds(timed: PlainStudy, recipes: Sequence[Recipe], chosen: Sequence[int]) -> float:
    """Return the time of the whole list: what lies outside trials once, and each trial's by the mean of its depth."""
    outside = timed.seconds - sum(timed.trial_seconds)
    by_depth: dict[int, list[float]] = {}
    for number, seconds in zip(chosen, timed.trial_seconds, strict=True):
        by_depth.setdefault(recipes[number].unfrozen_stages, []).append(seconds)
    means = {depth: sum(found) / len(found) for depth, found in by_depth.items()}
    return outside + sum(means[recipe.unfrozen_stages] for recipe in recipes)


def run_pair(of: List, *, workers: int, chosen: Sequence[int], plain_first: bool) -> results.Record:
    """Measure both sides once, and the bare work; return times, memory and the differences of metrics."""
    whole = Plan(of.space, len(of.recipes), of.recipes, workers=workers)
    timed = replace(whole, n_trials=len(chosen), fixed=[of.recipes[number] for number in chosen])
    with tempfile.TemporaryDirectory() as folder:
        roots = {"plain": Path(folder) / "plain", "fttune": Path(folder) / "fttune"}
        sides: dict[str, Measured[Any]] = {}
        for side in ("plain", "fttune") if plain_first else ("fttune", "plain"):
            os.sync()  # what one side wrote must not be written back at the other's cost
            roots[side].mkdir()
            work, plan = (run_study, timed) if side == "plain" else (run_fttune, whole)
            sides[side] = measured(work, of.task, plan, roots[side])
        plain = stored_metrics(roots["plain"], len(chosen))
        other = stored_metrics(roots["fttune"], len(of.recipes))
    bare: Measured[Bare] = measured(bare_work, of.task, of.recipes)
    return {
        "plain_seconds": scaled_seconds(sides["plain"].result, of.recipes, chosen),
        "scaled": len(chosen) < len(of.recipes),
        "fttune_seconds": sides["fttune"].seconds,
        "bare_seconds": bare.result.seconds(),
        "plain_mib": sides["plain"].peak_mib,
        "fttune_mib": sides["fttune"].peak_mib,
        "differences": differences(plain, other, dict(enumerate(chosen))),
        "plain_first": plain_first,
        "workers": workers,
    }


def run_list(of: List, key: Mapping[str, Any], *, pairs: int, file: Path) -> list[results.Record]:
    """Return the pairs of a list: those of the file, and new ones until there are enough."""
    found = results.matching(file, key)
    if len(found) >= pairs:
        return found
    depths = sorted({recipe.unfrozen_stages for recipe in of.recipes})
    workers, trial_seconds = measured(tune_workers, of.task, depths).result
    expected = sum(trial_seconds[recipe.unfrozen_stages] for recipe in of.recipes)
    chosen = timed_trials(of.recipes, all_of_them=expected <= PLAIN_LIMIT_SECONDS)
    print(f"list {key['list']}: plain decodes in {workers} processes, about {expected:.0f} s", flush=True)
    for index in range(len(found), pairs):
        pair = run_pair(of, workers=workers, chosen=chosen, plain_first=index % 2 == 0)
        results.append(file, {**key, "pair": index, **pair})
        print(f"  pair {index}: plain {pair['plain_seconds']:.1f} s, fttune {pair['fttune_seconds']:.1f} s", flush=True)
        found.append(pair)
    return found


def row_of(name: str, pairs: Sequence[results.Record]) -> str:
    """Return a line of the table."""
    plain, other, bare = (
        [pair[side] for pair in pairs] for side in ("plain_seconds", "fttune_seconds", "bare_seconds")
    )
    ratios = [a / b for a, b in zip(plain, other, strict=True)]
    bounds = [a / b["total"] for a, b in zip(plain, bare, strict=True)]
    shares = [ratio / bound for ratio, bound in zip(ratios, bounds, strict=True)]
    memory = median(pair["fttune_mib"] / pair["plain_mib"] for pair in pairs)
    gaps = {metric: max(pair["differences"][metric] for pair in pairs) for metric in COMPARED}
    worst = max(gaps, key=lambda metric: gaps[metric])
    spread = f"{median(ratios):.2f} ({min(ratios):.2f} .. {max(ratios):.2f})"
    return (
        f"{name:<5}{len(pairs):>5}{median(plain):>9.1f}{'*' if pairs[0]['scaled'] else ' '}{median(other):>9.1f}"
        f"{spread:>24}{median(bounds):>8.1f}{median(shares):>8.0%}"
        f"{median(pair['plain_mib'] for pair in pairs):>9.0f}{memory:>8.2f}   {gaps[worst]:.1e} {worst}"
    )


def make_task(folder: Path, *, images: int, epochs: int) -> Task:
    """Return the task of all lists, its images and weights made when they are missing."""
    val = round(VAL_SHARE * images)
    counts = {"train": images - val, "val": val}
    data = picture_folder(folder / f"pictures-{images}", counts, classes=range(CLASSES))
    weights, build = folder / f"resnet18-{images}.safetensors", torchvision.models.resnet18
    return make_weights(Task(data, weights, build, RESNET_STAGES, SIZE, RESIZE, epochs=epochs, batch_size=BATCH))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lists", nargs="+", choices=list(DEEPEST), default=list(DEEPEST))
    parser.add_argument("--pairs", type=int, default=1)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--results", type=Path, default=results.DEFAULT_FOLDER / "study_vs_plain.jsonl")
    asked = parser.parse_args()
    results.DEFAULT_FOLDER.mkdir(parents=True, exist_ok=True)
    task = make_task(results.DEFAULT_FOLDER, images=asked.images, epochs=asked.epochs)
    sizes = {"trials": asked.trials, "epochs": asked.epochs, "images": asked.images, **results.surroundings()}
    rows = []
    for name in asked.lists:
        of = List(task, recipes_of(DEEPEST[name], asked.trials))
        rows.append(row_of(name, run_list(of, {"list": name, **sizes}, pairs=asked.pairs, file=asked.results)))
    print(f"{asked.trials} trials x {asked.epochs} epochs, {asked.images} images; on {sizes['device']}")
    print(
        "list pairs  plain s  fttune s   ratio (min .. max)        bound   share  plain MiB  memory  largest difference"
    )
    print("\n".join(rows))
    if any("*" in row for row in rows):
        print(f"* plain was timed on {TIMED_PER_DEPTH} trials per depth and scaled to the whole list")


if __name__ == "__main__":
    main()
