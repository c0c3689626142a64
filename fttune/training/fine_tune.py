"""The one function that all else is about: train a recipe, watch its best epoch, write its checkpoint."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fttune.config import Experiment
from fttune.errors import BadInput, Diverged, Interrupted
from fttune.freezing import apply_phase
from fttune.training.checkpoints import CheckpointFolder
from fttune.training.events import Described, EpochEnded, Event, FileSaved, Notice
from fttune.training.inputs import Inputs
from fttune.training.loop import train_mode, try_smallest_batch
from fttune.training.run import prepare_run
from fttune.training.training import Solo, Training, monitored, require_validation


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
    return finish(Solo(experiment, inputs, monitor=monitor), emit=emit, prune=prune, checkpoints=checkpoints)


def finish(
    training: Training,
    *,
    emit: Callable[[Event], None] = lambda _: None,
    prune: Callable[[EpochEnded], bool] = lambda _: False,
    checkpoints: CheckpointFolder | None = None,
) -> FineTuneResult:
    """Train to the end, and close the training. Arguments and errors are those of `fine_tune`."""
    started = time.monotonic()
    emit(Described(training.facts))
    if training.notice is not None:
        emit(Notice(training.notice))
    epochs: list[EpochEnded] = []
    state: Literal["complete", "pruned"] = "complete"
    with closing(training), _kept_when_cut_short(training, epochs, checkpoints, emit):
        for ended in training.epochs():
            epochs.append(ended)
            emit(ended)
            for text in training.inputs.workbench.activations.notices():
                emit(Notice(text))
            if prune(ended):
                state = "pruned"
                break
        best = training.best.ended
        assert best is not None, "there is at least one epoch"
        if checkpoints:
            _write(training, epochs[-1], checkpoints, emit)
    trainable, total = training.counts
    return FineTuneResult(
        state=state,
        best_epoch=best.epoch,
        value=best.metrics[training.best.monitor] if training.best.monitor else None,
        epochs=tuple(epochs),
        step_losses=tuple(training.step_losses),
        trainable_parameters=trainable,
        parameters=total,
        seconds=time.monotonic() - started,
        checkpoint=checkpoints.folder / "best.safetensors" if checkpoints else None,
    )


def check_recipe(experiment: Experiment, inputs: Inputs, *, monitor: str | None = None) -> None:
    """Refuse what cannot run before anything is written. Raises BadInput or WeightsError as `fine_tune` does."""
    monitored(monitor or experiment.training.monitor, inputs)
    if inputs.data.val is None and "monitor" in experiment.training.model_fields_set:
        raise BadInput("training.monitor needs a validation split, but data.split.val is 0; leave it out")
    run = prepare_run(experiment, inputs)
    require_validation(experiment, run.policy, inputs)
    for phase in run.policy.phases:
        train_mode(run, apply_phase(run.parts, run.policy, phase))
        run.backbone.require_size(experiment.data.image_size)
        try_smallest_batch(run)
    run.close()


@contextmanager
def _kept_when_cut_short(
    training: Training,
    epochs: list[EpochEnded],
    checkpoints: CheckpointFolder | None,
    emit: Callable[[Event], None],
) -> Iterator[None]:
    """Write what there is when a training diverges or is interrupted; a trial keeps no last state and runs again."""
    try:
        yield
    except (Diverged, Interrupted, KeyboardInterrupt):
        if checkpoints and checkpoints.keep_last and training.best.ended:
            _write(training, epochs[-1], checkpoints, emit)
        raise


def _write(training: Training, last: EpochEnded, checkpoints: CheckpointFolder, emit: Callable[[Event], None]) -> None:
    assert training.best.snapshot is not None, "an epoch was offered"
    files = training.best.snapshot.write(checkpoints.folder / "best.safetensors", training.about)
    if checkpoints.keep_last:
        files += training.last(last).write(checkpoints.folder / "last.safetensors", training.about)
    for file in files:
        emit(FileSaved(file, "checkpoint"))
