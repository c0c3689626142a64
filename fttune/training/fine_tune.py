"""The one function that all else is about: train a recipe, watch its best epoch, write its checkpoint."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from fttune.config import Experiment
from fttune.config.policy import resolve
from fttune.config.sections import VAL_METRICS, Optimizer
from fttune.errors import BadInput, Diverged, Interrupted
from fttune.freezing import HEAD, Freezing, Parts, apply_phase, insert_lora, named_parameters, trained_names
from fttune.models import build_backbone
from fttune.training.checkpoints import BestEpoch, CheckpointFolder, Snapshot
from fttune.training.device import choose_device
from fttune.training.events import Described, EpochEnded, Event, FileSaved
from fttune.training.inputs import Inputs
from fttune.training.loop import Regime, Run, TrainedEpoch, evaluate, train_epoch, train_mode, try_smallest_batch
from fttune.training.metrics import TOP_K
from fttune.training.regime import Past, next_regime


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
    _require_validation(run)
    emit(Described(_description(run)))
    epochs: list[EpochEnded] = []
    step_losses: list[float] = []
    past: list[Past] = []
    regime: Regime | None = None
    state: Literal["complete", "pruned"] = "complete"
    with _own_random_state(run), _kept_when_cut_short(run, best, epochs, checkpoints, emit):
        while regime := next_regime(run, past, regime):
            ended, trained = _epoch(run, regime, len(past) + 1)
            epochs.append(ended)
            past.append(Past(_loss(ended, best.monitor), trained.motion.gradients))
            step_losses += trained.step_losses
            emit(ended)
            best.offer(ended, run.backbone.module)
            if prune(ended):
                state = "pruned"
                break
            if _has_stalled(run, best, regime, ended.epoch):
                break
    assert best.snapshot is not None, "there is at least one epoch"
    if checkpoints:
        _write(run, best.snapshot, epochs[-1], checkpoints, emit)
    trainable, total = _counts(run)
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
    run = prepare_run(experiment, inputs)
    _require_validation(run)
    for phase in run.policy.phases:
        train_mode(run, apply_phase(run.parts, run.policy, phase))
        run.backbone.require_size(experiment.data.image_size)
        try_smallest_batch(run)


def _monitored(metric: str, inputs: Inputs) -> str | None:
    """Return the metric that chooses the best epoch, None without a validation split."""
    classes = len(inputs.data.classes)
    if metric == "val/top5_accuracy" and classes <= TOP_K:
        raise BadInput(f"val/top5_accuracy needs more than {TOP_K} classes, but there are {classes}; use val/accuracy")
    return metric if inputs.data.val else None


def prepare_run(experiment: Experiment, inputs: Inputs) -> Run:
    """Build model, policy, optimizer and loss of a recipe on its device; the first phase is in force."""
    device = choose_device(experiment.training)
    backbone = build_backbone(
        inputs.architecture or experiment.backbone.name,
        inputs.weights,
        classes=inputs.data.classes,
        seed=experiment.seed,
        head_init=experiment.freeze.head.init,
    )
    parts = backbone.parts()
    policy = resolve(experiment.freeze, [name for name in parts if name != HEAD], epochs=experiment.training.epochs)
    if policy.lora is not None:
        adapted = {stage for phase in policy.phases for stage in phase.stages}
        members = [member for stage in policy.stages if stage in adapted for member in parts[stage].values()]
        insert_lora(members, policy.lora, seed=experiment.seed)
    backbone.module.to(device.device)
    if device.device.type == "cuda":
        backbone.module.to(memory_format=torch.channels_last)
    names = frozenset[str]().union(*(trained_names(parts, policy, phase) for phase in policy.phases))
    named = [member for part in parts.values() for member in named_parameters(part)]
    start = {name: parameter.detach().clone() for name, parameter in named if name in names}
    optimizer = build_optimizer(parts, experiment.optimizer, fused=device.device.type in ("cpu", "cuda"))
    weight = None
    if experiment.training.class_weights == "balanced":
        weight = balanced_weights(inputs.data.train.labels, len(inputs.data.classes)).to(device.device)
    criterion = nn.CrossEntropyLoss(weight=weight, label_smoothing=experiment.training.label_smoothing)
    apply_phase(parts, policy, policy.phases[0])
    return Run(experiment, inputs, device, backbone, parts, policy, optimizer, criterion, start)


def build_optimizer(parts: Parts, config: Optimizer, *, fused: bool) -> torch.optim.Optimizer:
    """Return the optimizer with one group per part, named after it, frozen ones included.

    A frozen parameter has no gradient, so torch's optimizers leave it alone, weight decay and momentum too.
    """
    groups: list[dict[str, Any]] = [
        {"params": [p for _, p in named_parameters(part)], "name": name} for name, part in parts.items()
    ]
    groups = [group for group in groups if group["params"]]
    if config.name == "adamw":
        return torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=config.weight_decay, fused=fused)
    return torch.optim.SGD(
        groups,
        lr=config.learning_rate,
        momentum=config.momentum or 0.0,
        nesterov=config.nesterov,
        weight_decay=config.weight_decay,
        fused=fused,
    )


def balanced_weights(labels: torch.Tensor, classes: int) -> torch.Tensor:
    """Return a weight per class, inverse to its count and 1 on average over samples: n / (classes * count)."""
    counts = torch.bincount(labels, minlength=classes)
    return len(labels) / (classes * counts.float())


def _epoch(run: Run, regime: Regime, epoch: int) -> tuple[EpochEnded, TrainedEpoch]:
    started = time.monotonic()
    trained = train_epoch(run, regime, epoch)
    metrics = {**trained.metrics, "step_seconds": (time.monotonic() - started) / run.steps_per_epoch}
    if math.isfinite(metrics["train/loss"]):  # else the evaluation would only cost time
        metrics |= evaluate(run)
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise Diverged(f"{name} became {value} in epoch {epoch}; a smaller optimizer.lr may help")
    motion = trained.motion
    metrics |= {f"relative_grad_norm/{part}": gradient.relative for part, gradient in motion.gradients.items()}
    metrics |= {f"drift/{part}": value for part, value in motion.drift.items()}
    metrics["stages_trained"] = float(stage_mask(run, regime.freezing.trained))
    return EpochEnded(epoch, {**metrics, "epoch_seconds": time.monotonic() - started}), trained


def stage_mask(run: Run, trained: Iterable[str]) -> int:
    """Return which parts train as a bit mask: bit 0 is the first stage, the highest bit the head."""
    return sum(1 << index for index, part in enumerate(run.parts) if part in trained)


def _loss(ended: EpochEnded, monitor: str | None) -> float:
    """Return the monitored value such that smaller is better."""
    if monitor is None:
        return math.nan
    return ended.metrics[monitor] if VAL_METRICS[monitor] == "minimize" else -ended.metrics[monitor]


def _counts(run: Run) -> tuple[int, int]:
    """Return the number of parameters that ever train, and of all."""
    sizes = [p.numel() for part in run.parts.values() for _, p in named_parameters(part)]
    return sum(tensor.numel() for tensor in run.start.values()), sum(sizes)


def _require_validation(run: Run) -> None:
    """Refuse what watches the validation split when there is none."""
    if run.inputs.data.val is not None:
        return
    if run.experiment.training.early_stop_epochs:
        raise BadInput("training.early_stop_epochs needs a validation split, but data.split.val is 0")
    if run.experiment.training.schedule == "plateau":
        raise BadInput("training.schedule: plateau needs a validation split, but data.split.val is 0")
    if any(phase.plateau for phase in run.policy.phases):
        raise BadInput("freeze.phases: until_plateau needs a validation split, but data.split.val is 0")


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


def _has_stalled(run: Run, best: BestEpoch, regime: Regime, epoch: int) -> bool:
    """Return whether the run stops early; the epochs of earlier phases do not count."""
    patience = run.experiment.training.early_stop_epochs
    assert best.snapshot is not None, "an epoch was offered"
    since = max(best.snapshot.ended.epoch, regime.span.first - 1)
    return patience is not None and epoch - since >= patience


def _description(run: Run) -> Mapping[str, str]:
    data = run.inputs.data
    return {
        "fttune.trainable": _summary(run),
        "fttune.head": f"{'new' if run.backbone.head_is_new else 'kept from the weights'}, {len(data.classes)} classes",
        "fttune.device": run.device.summary,
        "fttune.seed": str(run.experiment.seed),
    }


def _summary(run: Run) -> str:
    """Return what trains in each phase, in one line."""
    freezings = [Freezing(run.parts, trained_names(run.parts, run.policy, p), "frozen") for p in run.policy.phases]
    return "; then ".join(freezing.summary() for freezing in freezings)


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
