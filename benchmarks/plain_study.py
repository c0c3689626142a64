"""The baseline: a study as a competent engineer writes it with Optuna, torch and MLflow, and without fttune.

It decodes the images in a `Dataset` with torchvision's v2 transforms, in persistent worker processes whose number
`tune_workers` measures (small images may be kept as tensors instead); it builds the model once and restores it from a
kept state dict for each trial, keeps frozen stages without gradients and in evaluation mode, evaluates in larger
batches, uses fused SGD and, on a GPU, bf16 autocast, channels-last memory and pinned batches. One MLflow run per trial
under one parent, one batch of metrics per epoch, the best epoch's checkpoint as artifact; Optuna's trials in SQLite.

Its choices of chance are those that fttune documents (order of samples, new head), so that metrics can be compared.
The training itself is `plain_training.py`. Nothing of fttune is imported.
"""

import logging
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import optuna
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from safetensors.torch import save_file

from benchmarks.plain_training import METRIC, Recipe, Task, Trainer


@dataclass(frozen=True)
class Space:
    """The ranges of the three choices, both ends included."""

    lr: tuple[float, float]
    momentum: tuple[float, float]
    unfrozen_stages: tuple[int, int]


@dataclass(frozen=True)
class Plan:
    """How trials are chosen: `fixed` ones first, then the sampler's; `workers` decode."""

    space: Space
    n_trials: int
    fixed: Sequence[Recipe] = ()
    seed: int = 0
    pruning: bool = False
    sampler_seed: int = 0
    workers: int = 0


@dataclass(frozen=True)
class PlainStudy:
    """How long a study took, and each of its trials by its number, in seconds."""

    seconds: float
    trial_seconds: tuple[float, ...]


def run_study(task: Task, plan: Plan, root: Path) -> PlainStudy:
    """Run a study with its stores in `root`: `mlflow.db`, `artifacts/`, `optuna.db`."""
    for name in ("mlflow", "alembic", "optuna"):
        logging.getLogger(name).setLevel(logging.WARNING)
    begun = time.perf_counter()
    root.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(task, plan.workers)
    client = MlflowClient(f"sqlite:///{root / 'mlflow.db'}")
    experiment = client.create_experiment("plain", artifact_location=(root / "artifacts").as_uri())
    parent = client.create_run(experiment, run_name="plain")
    study = _create_study(plan, root)
    seconds = []

    def objective(trial: optuna.Trial) -> float:
        started = time.perf_counter()
        try:
            return _run_trial(trial, plan, trainer, client, parent)
        finally:
            seconds.append(time.perf_counter() - started)

    study.optimize(objective, n_trials=plan.n_trials)
    client.set_terminated(parent.info.run_id)
    return PlainStudy(time.perf_counter() - begun, tuple(seconds))


def _create_study(plan: Plan, root: Path) -> optuna.Study:
    study = optuna.create_study(
        study_name="plain",
        storage=f"sqlite:///{root / 'optuna.db'}",
        sampler=optuna.samplers.TPESampler(seed=plan.sampler_seed),
        pruner=optuna.pruners.MedianPruner() if plan.pruning else optuna.pruners.NopPruner(),
        direction="maximize",
    )
    for recipe in plan.fixed:
        choices = {"lr": recipe.lr, "momentum": recipe.momentum, "unfrozen_stages": recipe.unfrozen_stages}
        study.enqueue_trial(choices)
    return study


def _run_trial(trial: optuna.Trial, plan: Plan, trainer: Trainer, client: MlflowClient, parent: Run) -> float:
    """Train one trial as one run below `parent`; raise TrialPruned when the pruner stops it."""
    recipe = _sampled(trial, plan)
    tags = {"mlflow.parentRunId": parent.info.run_id}
    created = client.create_run(parent.info.experiment_id, run_name=f"trial-{trial.number:04d}", tags=tags)
    run = created.info.run_id
    client.log_batch(run, params=[Param(name, str(value)) for name, value in trial.params.items()])
    best, pruned = _run_epochs(trial, trainer.train(recipe), client, run)
    if not pruned:
        with tempfile.TemporaryDirectory() as folder:
            save_file(trainer.best, str(Path(folder) / "best.safetensors"))
            client.log_artifact(run, str(Path(folder) / "best.safetensors"), "checkpoint")
    client.log_batch(run, metrics=_points({"value": best}, 0), tags=[RunTag("pruned", str(pruned))])
    client.set_terminated(run, "KILLED" if pruned else "FINISHED")
    if pruned:
        raise optuna.TrialPruned
    return best


def _run_epochs(
    trial: optuna.Trial, epochs: Iterator[dict[str, float]], client: MlflowClient, run: str
) -> tuple[float, bool]:
    """Log and report each epoch; return the best value, and whether the pruner stopped the trial."""
    best = -1.0
    for epoch, metrics in enumerate(epochs, start=1):
        client.log_batch(run, metrics=_points(metrics, epoch))
        best = max(best, metrics[METRIC])
        trial.report(metrics[METRIC], epoch)
        if trial.should_prune():
            return best, True
    return best, False


def _sampled(trial: optuna.Trial, plan: Plan) -> Recipe:
    space = plan.space
    return Recipe(
        lr=trial.suggest_float("lr", *space.lr, log=True),
        momentum=trial.suggest_float("momentum", *space.momentum),
        unfrozen_stages=trial.suggest_int("unfrozen_stages", *space.unfrozen_stages),
        seed=plan.seed,
    )


def _points(metrics: Mapping[str, float], step: int) -> list[Metric]:
    return [Metric(name, value, int(1000 * time.time()), step) for name, value in metrics.items()]


def checkpoint_of(root: Path, number: int) -> Path:
    """Return the checkpoint of a trial of the study in `root`."""
    client = MlflowClient(f"sqlite:///{root / 'mlflow.db'}")
    return artifact_of(run_named(client, f"trial-{number:04d}"))


def run_named(client: MlflowClient, name: str) -> Run:
    """Return the run of that name."""
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    (run,) = client.search_runs(experiments, f"attributes.run_name = '{name}'")
    return run


def artifact_of(run: Run) -> Path:
    """Return the local file of a run's best checkpoint."""
    return Path(url2pathname(urlsplit(run.info.artifact_uri).path)) / "checkpoint" / "best.safetensors"
