"""The three sides of a list of trials for `gpu.py`: the plain loop, fttune's training, and the unavoidable work.

All begin with JPEG files, and none writes studies, runs or checkpoints. Needs neither optuna nor mlflow.
"""

import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
import torchvision

from benchmarks import results
from benchmarks.bare import bare_work
from benchmarks.plain_training import Recipe, Task, Trainer, sample_seconds, tune_workers
from benchmarks.trial_lists import RESNET_STAGES
from fttune.config import Experiment
from fttune.config.workspace import Workspace
from fttune.training import finish, plan, prepare


def experiment_of(task: Task, **fields: object) -> Experiment:
    """Return a task as a recipe that trains everything, with other values at fields named as `optimizer__lr`."""
    base = Experiment.model_validate(
        {
            "data": {
                "source": "folder",
                "path": str(task.data),
                "image_size": task.image_size,
                "resize": task.resize,
            },
            "backbone": {"name": task.build.__name__, "weights": str(task.weights)},
            "freeze": {"unfrozen_stages": "all", "head": {"init": "reset"}},
            "optimizer": {"lr": 0.001, "momentum": 0.9},
            "training": {"epochs": task.epochs, "batch_size": task.batch_size},
            "name": "gpu",
        }
    )
    return base.replace({name.replace("__", "."): value for name, value in fields.items()})


def decoding_processes(task: Task) -> results.Record:
    """Return the number of processes that decode fastest for the plain loop."""
    workers, _ = tune_workers(task, [0])
    return {"workers": workers}


def plain_trials(task: Task, recipes: Sequence[Recipe], *, workers: int) -> results.Record:
    """Run the plain loop on some trials; return their seconds and the validation losses of their epochs.

    Building the net and starting the decoding processes does not count.
    """
    trainer = Trainer(task, workers)
    sample_seconds(trainer, recipes[0].unfrozen_stages, batches=1)
    trainer.evaluate(trainer.val_images)
    trainer.limit = None
    seconds, losses = [], []
    for recipe in recipes:
        started = time.perf_counter()
        losses.append([metrics["val/loss"] for metrics in trainer.train(recipe)])
        seconds.append(time.perf_counter() - started)
    return {"seconds": seconds, "losses": losses}


def fttune_trials(task: Task, recipes: Sequence[Recipe]) -> results.Record:
    """Run fttune's training on a list of trials, with nothing kept from before; return what `plain_trials` does."""
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace.at(Path(folder), mlruns=Path(folder))
        started = time.perf_counter()
        inputs = prepare(experiment_of(task), workspace)
        prepared = time.perf_counter() - started
        frozen = (len(RESNET_STAGES) - recipe.unfrozen_stages for recipe in recipes)
        inputs.workbench.activations.wanted = frozenset(frozen)
        trainings = plan([_recipe(task, recipe) for recipe in recipes], inputs)
        found = [finish(begin()) for begin in trainings]
        seconds = time.perf_counter() - started
    losses = [[epoch.metrics["val/loss"] for epoch in result.epochs] for result in found]
    return {"seconds": seconds, "prepare_seconds": prepared, "losses": losses}


def unavoidable(task: Task, recipes: Sequence[Recipe]) -> results.Record:
    """Return the seconds of the work that no search can do without, by part."""
    return {"seconds": bare_work(task, recipes).seconds()}


def chosen_by_depth(recipes: Sequence[Recipe]) -> dict[int, list[int]]:
    """Return the numbers of the trials that the plain loop runs, by depth: the first of each."""
    depths = [recipe.unfrozen_stages for recipe in recipes]
    return {depth: [depths.index(depth)] for depth in sorted(set(depths))}


def scaled_seconds(recipes: Sequence[Recipe], plain: dict[int, results.Record]) -> float:
    """Return the plain loop's time for a list, from the mean of some trials of each depth."""
    means = {depth: sum(found["seconds"]) / len(found["seconds"]) for depth, found in plain.items()}
    return sum(means[depth] * count for depth, count in Counter(r.unfrozen_stages for r in recipes).items())


def differences(
    recipes: Sequence[Recipe], plain: dict[int, results.Record], fttune: results.Record
) -> dict[int, float]:
    """Return the largest difference of a validation loss at the same epoch of the same trial, by depth."""
    found = {}
    for depth, numbers in chosen_by_depth(recipes).items():
        both = zip(plain[depth]["losses"], [fttune["losses"][number] for number in numbers], strict=True)
        found[depth] = max(abs(a - b) for mine, other in both for a, b in zip(mine, other, strict=True))
    return found


def in_words(recipes: Sequence[Recipe], plain: dict[int, results.Record], ours: results.Record, bare: float) -> str:
    """Return the line of a list in the table."""
    seconds = scaled_seconds(recipes, plain)
    ratio, bound = seconds / ours["seconds"], seconds / bare
    gaps = ", ".join(f"{depth}: {gap:.1e}" for depth, gap in differences(recipes, plain, ours).items())
    return (
        f"plain {seconds:.1f} s, fttune {ours['seconds']:.1f} s, bare {bare:.1f} s: ratio {ratio:.2f}, bound "
        f"{bound:.2f}, share {ratio / bound:.0%}; largest difference of val/loss by depth {gaps}"
    )


def _recipe(task: Task, recipe: Recipe) -> Experiment:
    return experiment_of(
        task,
        optimizer__lr=recipe.lr,
        optimizer__momentum=recipe.momentum,
        freeze__unfrozen_stages=recipe.unfrozen_stages,
        seed=recipe.seed,
    )


def make_task(folder: Path, counts: dict[str, int], *, net: str, image_size: int, width: int) -> Task:
    """Return a task of generated pictures; neither they nor its weights are made here."""
    resize = round(image_size * 256 / 224)
    build = getattr(torchvision.models, net)
    data, weights = folder / f"pictures-{width}-{sum(counts.values())}", folder / f"{net}-{image_size}.safetensors"
    return Task(data, weights, build, RESNET_STAGES, image_size, resize, epochs=5, batch_size=64)


def release() -> None:
    """Give memory that nothing uses any more back to the device, so that the next side finds it free."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
