"""One recipe over all folds of a cross-validation: what each training says, and what follows from all of them."""

import dataclasses
import math
import statistics
from collections.abc import Callable, Sequence
from typing import Literal

from fttune.training.events import Described, EpochEnded, Event, FileSaved
from fttune.training.fine_tune import FineTuneResult

Emit = Callable[[Event], None]


def in_fold(emit: Emit, fold: int) -> Emit:
    """Return what logs the events of a fold's training, counted from 1: its metrics under `fold-<n>/`.

    What trains is said by the first fold alone. Files are left out: `best_fold` says which one's are kept.
    """

    def say(event: Event) -> None:
        if isinstance(event, EpochEnded):
            metrics = {f"fold-{fold}/{name}": value for name, value in event.metrics.items()}
            emit(dataclasses.replace(event, metrics=metrics))
        elif not (isinstance(event, FileSaved) or (isinstance(event, Described) and fold > 1)):
            emit(event)

    return say


def fold_ended(result: FineTuneResult, fold: int) -> EpochEnded:
    """Return what a fold, counted from 1, found at its best epoch: metrics under `fold/`, with the fold as step."""
    found = {name: value for name, value in result.metrics.items() if "/" in name and name.partition("/")[0] != "train"}
    return EpochEnded(fold, {f"fold/{name}": value for name, value in found.items()})


def best_fold(results: Sequence[FineTuneResult], *, maximize: bool) -> FineTuneResult:
    """Return the result of the best fold, the first one on ties."""
    sign = 1 if maximize else -1
    return max(results, key=lambda result: -math.inf if result.value is None else sign * result.value)


def over_folds(results: Sequence[FineTuneResult], state: Literal["complete", "pruned"]) -> FineTuneResult:
    """Return the result of a recipe: the mean value and metrics over its folds, the median of their best epochs,
    all epochs."""
    values = [result.value for result in results if result.value is not None]
    return dataclasses.replace(
        results[0],
        state=state,
        value=statistics.fmean(values),
        metrics={name: statistics.fmean(r.metrics[name] for r in results) for name in results[0].metrics},
        best_epoch=statistics.median_low([result.best_epoch for result in results]),
        epochs=tuple(epoch for result in results for epoch in result.epochs),
        step_losses=tuple(loss for result in results for loss in result.step_losses),
        seconds=sum(result.seconds for result in results),
        checkpoint=None,
    )
