"""The one function that all else is about: train a recipe, watch its best epoch, write its checkpoint."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from fttune.config import Experiment
from fttune.config.sections import Optimizer
from fttune.errors import BadInput, Diverged, Interrupted
from fttune.freezing import Parts, apply_policy, named_parameters
from fttune.models import build_backbone
from fttune.training.checkpoints import BestEpoch, CheckpointFolder, Snapshot
from fttune.training.device import choose_device
from fttune.training.events import Described, EpochEnded, Event, FileSaved
from fttune.training.inputs import Inputs
from fttune.training.loop import Run, evaluate, train_epoch, try_smallest_batch
from fttune.training.metrics import TOP_K


@dataclass(frozen=True)
class FineTuneResult:
    """What a run found.

    `value` is the monitored metric at `best_epoch` (counted from 1), None without a validation split; `step_losses`
    holds the training loss of every step; `checkpoint` is the written `best.safetensors`.
    """

    state: Literal["complete", "pruned"]
    best_epoch: int
    value: float | None
    epochs: tuple[EpochEnded, ...]
    step_losses: tuple[float, ...]
    trainable_parameters: int
    parameters: int
    seconds: float
    checkpoint: Path | None


def fine_tune(
    experiment: Experiment,
    inputs: Inputs,
    *,
    monitor: str | None = None,
    emit: Callable[[Event], None] = lambda _: None,
    prune: Callable[[EpochEnded], bool] = lambda _: False,
    checkpoints: CheckpointFolder | None = None,
) -> FineTuneResult:
    """Train a recipe and return what it found; the best epoch is chosen by `monitor` on the validation split.

    Args:
        experiment: the recipe.
        inputs: its images and weights, from `prepare`.
        monitor: the metric that chooses the best epoch; default `training.monitor`.
        emit: receives each event as it happens.
        prune: asked after each epoch; True ends the run in the state `pruned`.
        checkpoints: where the best (and last) state is written at the end; None writes nothing.

    Raises:
        Diverged: a loss or metric is NaN or infinite.
        BadInput: the device or precision is not to be had here, or the monitored metric not for these classes.
        WeightsError: the weights do not fit the backbone.
    """
    started = time.monotonic()
    best = BestEpoch(_monitored(monitor or experiment.training.monitor, inputs))
    run = prepare_run(experiment, inputs)
    emit(Described(_description(run)))
    epochs: list[EpochEnded] = []
    step_losses: list[float] = []
    state: Literal["complete", "pruned"] = "complete"
    with _own_random_state(run), _kept_when_cut_short(run, best, epochs, checkpoints, emit):
        for epoch in range(1, experiment.training.epochs + 1):
            ended, losses = _epoch(run, epoch)
            epochs.append(ended)
            step_losses += losses
            emit(ended)
            best.offer(ended, run.backbone.module)
            if prune(ended):
                state = "pruned"
                break
            if _has_stalled(run, best, epoch):
                break
    assert best.snapshot is not None, "there is at least one epoch"
    if checkpoints:
        _write(run, best.snapshot, epochs[-1], checkpoints, emit)
    trainable, total = run.freezing.counts()
    return FineTuneResult(
        state=state,
        best_epoch=best.snapshot.ended.epoch,
        value=best.snapshot.ended.metrics[best.monitor] if best.monitor else None,
        epochs=tuple(epochs),
        step_losses=tuple(step_losses),
        trainable_parameters=trainable,
        parameters=total,
        seconds=time.monotonic() - started,
        checkpoint=checkpoints.folder / "best.safetensors" if checkpoints else None,
    )


def check_recipe(experiment: Experiment, inputs: Inputs, *, monitor: str | None = None) -> None:
    """Refuse what cannot run before anything is written. Raises BadInput or WeightsError as `fine_tune` does."""
    _monitored(monitor or experiment.training.monitor, inputs)
    if inputs.data.val is None and "monitor" in experiment.training.model_fields_set:
        raise BadInput("training.monitor needs a validation split, but data.split.val is 0; leave it out")
    try_smallest_batch(prepare_run(experiment, inputs))


def _monitored(metric: str, inputs: Inputs) -> str | None:
    """Return the metric that chooses the best epoch, None without a validation split."""
    classes = len(inputs.data.classes)
    if metric == "val/top5_accuracy" and classes <= TOP_K:
        raise BadInput(f"val/top5_accuracy needs more than {TOP_K} classes, but there are {classes}; use val/accuracy")
    return metric if inputs.data.val else None


def prepare_run(experiment: Experiment, inputs: Inputs) -> Run:
    """Build model, freezing, optimizer and loss of a recipe on its device."""
    if experiment.training.early_stop_epochs and inputs.data.val is None:
        raise BadInput("training.early_stop_epochs needs a validation split, but data.split.val is 0")
    device = choose_device(experiment.training)
    backbone = build_backbone(
        experiment.backbone.name, inputs.weights, classes=inputs.data.classes, seed=experiment.seed
    )
    backbone.module.to(device.device)
    if device.device.type == "cuda":
        backbone.module.to(memory_format=torch.channels_last)
    parts = backbone.parts()
    freezing = apply_policy(parts, experiment.freeze)
    optimizer = build_optimizer(parts, experiment.optimizer, fused=device.device.type in ("cpu", "cuda"))
    weight = None
    if experiment.training.class_weights == "balanced":
        weight = balanced_weights(inputs.data.train.labels, len(inputs.data.classes)).to(device.device)
    criterion = nn.CrossEntropyLoss(weight=weight, label_smoothing=experiment.training.label_smoothing)
    return Run(experiment, inputs, device, backbone, freezing, optimizer, criterion)


def build_optimizer(parts: Parts, config: Optimizer, *, fused: bool) -> torch.optim.Optimizer:
    """Return the optimizer with one group per part, named after it, frozen ones included.

    A frozen parameter has no gradient, so torch's optimizers leave it alone, weight decay and momentum too.
    """
    groups: list[dict[str, Any]] = [
        {"params": [p for _, p in named_parameters(part)], "name": name} for name, part in parts.items()
    ]
    groups = [group for group in groups if group["params"]]
    if config.name == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, weight_decay=config.weight_decay, fused=fused)
    return torch.optim.SGD(
        groups,
        lr=config.lr,
        momentum=config.momentum or 0.0,
        nesterov=config.nesterov,
        weight_decay=config.weight_decay,
        fused=fused,
    )


def balanced_weights(labels: torch.Tensor, classes: int) -> torch.Tensor:
    """Return a weight per class, inverse to its count and 1 on average over samples: n / (classes * count)."""
    counts = torch.bincount(labels, minlength=classes)
    return len(labels) / (classes * counts.float())


def _epoch(run: Run, epoch: int) -> tuple[EpochEnded, list[float]]:
    started = time.monotonic()
    metrics, step_losses = train_epoch(run, epoch)
    if math.isfinite(metrics["train/loss"]):  # else the evaluation would only cost time
        metrics |= evaluate(run)
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise Diverged(f"{name} became {value} in epoch {epoch}; a smaller optimizer.lr may help")
    return EpochEnded(epoch, {**metrics, "epoch_seconds": time.monotonic() - started}), step_losses


@contextmanager
def _kept_when_cut_short(
    run: Run,
    best: BestEpoch,
    epochs: Sequence[EpochEnded],
    checkpoints: CheckpointFolder | None,
    emit: Callable[[Event], None],
) -> Iterator[None]:
    """Write what there is when a training diverges or is interrupted; a trial keeps no last state and runs again."""
    try:
        yield
    except (Diverged, Interrupted, KeyboardInterrupt):
        if checkpoints and checkpoints.keep_last and best.snapshot:
            _write(run, best.snapshot, epochs[-1], checkpoints, emit)
        raise


def _own_random_state(run: Run) -> AbstractContextManager[None]:
    """Return the context in which torch's global generators may be seeded: they are as before afterwards."""
    device = run.device.device
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


def _has_stalled(run: Run, best: BestEpoch, epoch: int) -> bool:
    patience = run.experiment.training.early_stop_epochs
    assert best.snapshot is not None, "an epoch was offered"
    return patience is not None and epoch - best.snapshot.ended.epoch >= patience


def _description(run: Run) -> Mapping[str, str]:
    data = run.inputs.data
    return {
        "fttune.trainable": run.freezing.summary(),
        "fttune.head": f"{'new' if run.backbone.head_is_new else 'kept from the weights'}, {len(data.classes)} classes",
        "fttune.device": run.device.summary,
        "fttune.seed": str(run.experiment.seed),
    }


def _write(
    run: Run, best: Snapshot, last: EpochEnded, checkpoints: CheckpointFolder, emit: Callable[[Event], None]
) -> None:
    own, geometry = run.inputs.weights.preprocessing, run.inputs.geometry
    about = {
        "experiment": run.experiment.model_dump(),
        "name": run.experiment.name,
        "classes": run.inputs.data.classes,
        "preprocessing": {
            **dataclasses.asdict(own),
            "resize": geometry.resize,
            "crop": geometry.image_size,
        },
    }
    files = best.write(checkpoints.folder / "best.safetensors", about)
    if checkpoints.keep_last:
        files += Snapshot.of(last, run.backbone.module).write(checkpoints.folder / "last.safetensors", about)
    for file in files:
        emit(FileSaved(file, "checkpoint"))
