"""The one function that all else is about: train a recipe, watch its best epoch, write its checkpoint."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fttune.config import Experiment
from fttune.errors import BadInput, CannotWrite, Diverged, Interrupted
from fttune.freezing import apply_phase
from fttune.training import resume
from fttune.training.checkpoints import CheckpointFolder
from fttune.training.events import Described, EpochEnded, Event, FileSaved, Notice
from fttune.training.inputs import Inputs
from fttune.training.loop import train_mode, try_smallest_batch
from fttune.training.memory import memory_errors_told
from fttune.training.resume import Kept, State
from fttune.training.run import prepare_run
from fttune.training.training import Solo, Training, monitored, require_validation

MICRO_BATCHES = "fttune.micro_batches"  # the tag of a run whose batches did not fit into memory
Verdict = Literal["go", "stop", "prune", "pause"]  # on a training after an epoch; stop ends it as complete


@dataclass(frozen=True)
class FineTuneResult:
    """What a run found.

    `value` is the monitored metric at `best_epoch` (counted from 1), None without a validation split, and `metrics` are
    all those of that epoch; `step_losses` holds the training loss of every step; `checkpoint` is the written
    `best.safetensors`.
    """

    state: Literal["complete", "pruned"]
    best_epoch: int
    value: float | None
    metrics: Mapping[str, float]
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
        OutOfMemory: the recipe does not fit into memory, nor does it in micro-batches.
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
    fit = Fit(training, emit=emit, checkpoints=checkpoints)
    result = fit.go_on(lambda ended: "prune" if prune(ended) else "go")
    assert result is not None, "it does not pause"
    return result


class Fit:
    """A training on its way to its result, which may pause after an epoch and go on later."""

    def __init__(
        self,
        training: Training,
        *,
        emit: Callable[[Event], None] = lambda _: None,
        checkpoints: CheckpointFolder | None = None,
    ) -> None:
        self._training, self._emit, self._checkpoints = training, emit, checkpoints
        self._kept = None
        if checkpoints and checkpoints.states:
            self._kept = Kept(checkpoints.states, training.owner, saved=checkpoints.saved)
        self._begun = False
        self._seconds, self._since = 0.0, time.monotonic()

    def go_on(self, judge: Callable[[EpochEnded], Verdict]) -> FineTuneResult | None:
        """Train until `judge` ends or pauses it, or to the end; return the result, None when paused.

        It is asked after each epoch, and once more about the epoch after which it paused, or which was the last one of
        a process that was killed. Raises as `fine_tune`; the training is then closed, as it is after the result.
        """
        self._since = time.monotonic()
        with memory_errors_told(), ExitStack() as closing, self._kept_when_cut_short():
            closing.callback(self._training.close)
            verdict = self._train(judge)
            if verdict == "pause":
                self.keep(after_seconds=resume.PAUSED_SECONDS)
                closing.pop_all()
                self._training.pause()
                self._seconds = self._spent()
                return None
            if self._checkpoints:
                if self._checkpoints.keeps_end:
                    self.keep(after_seconds=resume.PAUSED_SECONDS)
                self._write(self._checkpoints)
        return self._result("pruned" if verdict == "prune" else "complete")

    def _train(self, judge: Callable[[EpochEnded], Verdict]) -> Verdict:
        """Return the first verdict other than to go on, or that one at the end."""
        training = self._training
        if not self._begun:
            self._begin()
            self._begun = True
        if training.ended and (verdict := judge(training.ended[-1])) != "go":
            return verdict
        for ended in training.epochs():
            if ended.micro_batches > max((epoch.micro_batches for epoch in training.ended[:-1]), default=1):
                self._emit(Described({MICRO_BATCHES: str(ended.micro_batches)}))
            self._emit(ended)
            for text in training.inputs.workbench.taken_notices():
                self._emit(Notice(text))
            if (verdict := judge(ended)) != "go":
                return verdict
            self.keep(after_seconds=resume.EVERY_SECONDS)
        return "go"

    def _begin(self) -> None:
        """Say what trains, and go on from the state that a killed process left, its epochs told once more."""
        training = self._training
        self._emit(Described(training.facts))
        if training.notice is not None:
            self._emit(Notice(training.notice))
        if self._kept is not None and (state := self._kept.load()) is not None:
            training.restore(state)
            self._seconds = state.facts["seconds"]
            epochs = len(training.ended)
            self._emit(Notice(f"goes on where it was cut off, after epoch {epochs}"))
            self._emit(Described({"fttune.resumed_after_epoch": str(epochs)}))
            for ended in training.ended:
                self._emit(ended)

    def keep(self, *, after_seconds: float = 0.0) -> None:
        """Write where the training stands, when so much time has passed since that was last done."""
        if self._kept is not None and self._begun:
            self._kept.save(self._state, after_seconds=after_seconds)

    def _state(self) -> State | None:
        state = self._training.state()
        return state and State(state.tensors, {**state.facts, "seconds": self._spent()})

    def _spent(self) -> float:
        """Return how many seconds the training has taken."""
        return self._seconds + time.monotonic() - self._since

    def _result(self, state: Literal["complete", "pruned"]) -> FineTuneResult:
        best, monitor = self._training.best.ended, self._training.best.monitor
        assert best is not None, "there is at least one epoch"
        trainable, total = self._training.counts
        return FineTuneResult(
            state=state,
            best_epoch=best.epoch,
            value=best.metrics[monitor] if monitor else None,
            metrics=best.metrics,
            epochs=tuple(self._training.ended),
            step_losses=tuple(self._training.step_losses),
            trainable_parameters=trainable,
            parameters=total,
            seconds=self._spent(),
            checkpoint=self._checkpoints.folder / "best.safetensors" if self._checkpoints else None,
        )

    @contextmanager
    def _kept_when_cut_short(self) -> Iterator[None]:
        """Write what there is when a training diverges or is interrupted, and where it stands."""
        try:
            yield
        except (Diverged, Interrupted, KeyboardInterrupt) as error:
            if not isinstance(error, Diverged):
                with suppress(OSError, CannotWrite):  # what is raised is the interruption
                    self.keep()
            if self._checkpoints and self._checkpoints.keep_last and self._training.best.ended:
                self._write(self._checkpoints)
            raise

    def _write(self, checkpoints: CheckpointFolder) -> None:
        training, folder = self._training, checkpoints.folder
        assert training.best.snapshot is not None, "an epoch was offered"
        files = training.best.snapshot.write(folder / "best.safetensors", training.about)
        if checkpoints.keep_last:
            files += training.last(training.ended[-1]).write(folder / "last.safetensors", training.about)
        for file in files:
            self._emit(FileSaved(file, "checkpoint"))


@memory_errors_told()
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
