"""What a run's model is fed with: images, or activations of its frozen stages where they are kept."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fttune.data import Part as Split
from fttune.data import augment
from fttune.freezing import has_running_norms, named_parameters
from fttune.training.activations import Kept
from fttune.training.run import Run


@dataclass(frozen=True)
class Feed:
    """A split's samples as a run's model takes them: images, or what its first `after` stages make of those."""

    run: Run
    split: Split
    kept: Kept | None = None

    @property
    def after(self) -> int:
        """How many stages the samples have passed."""
        return self.kept.boundary if self.kept else 0

    def batch(self, rows: Tensor, draws: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Return inputs (B, ...) and labels (B,) of some rows of the split's images, on the device; `draws` augments
        images."""
        return next(self.batches([rows], draws))

    def batches(self, order: Sequence[Tensor], draws: torch.Generator | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield inputs and labels of each of `order`, as `batch` does, ahead of when they are needed on a GPU."""
        device = self.run.device.device
        if self.kept is not None:
            for rows in order:
                yield self.kept.batch(rows, device), self.split.labels_of(rows).to(device, non_blocking=True)
            return
        data = self.run.experiment.data
        for images, labels in self.run.inputs.batches(self.split, order, device):
            if draws is not None:
                images = augment(images, data.fresh_augment, image_size=data.image_size, generator=draws)
            yield self.run.to_model(images), labels


@dataclass(frozen=True)
class Feeds:
    """What an epoch trains and is evaluated on; the latter by the prefix of its metrics."""

    train: Feed
    evaluation: Mapping[str, Feed]


def feeds_of(run: Run, boundary: int) -> Feeds:
    """Return an epoch's samples; what the first `boundary` stages make of them is computed once, in evaluation mode.

    Fresh augmentation shows other images in every epoch, so training then begins at the images; fixed views do not.
    """
    data = run.inputs.data
    parts = {} if data.val is None else {"val": data.val, **data.also}
    train = boundary if run.experiment.data.fresh_augment == "none" else 0
    return Feeds(_feed(run, data.train, train), {name: _feed(run, split, boundary) for name, split in parts.items()})


def why_not_once(run: Run) -> str | None:
    """Return in one line why stages that never train run anew for every batch of training, None when none does."""
    trains = [bool({name for name, _ in named_parameters(run.parts[s])} & run.trained) for s in run.policy.stages]
    leading = run.policy.stages[: [*trains, True].index(True)]
    why = None
    if all(trains):
        return None  # nothing is frozen
    if not leading:
        why = f"the first stage, {run.policy.stages[0]}, trains"
    elif not run.runs_by_stages:
        why = f"{run.backbone.name} cannot be run stage by stage"
    elif (fresh := run.experiment.data.fresh_augment) != "none":
        why = f"data.augment: {fresh} shows other images in every epoch"
    elif run.policy.norm_stats == "updated" and any(has_running_norms(run.parts[stage]) for stage in leading):
        why = "freeze.norm_stats: updated moves the statistics of frozen stages"
    return why and f"frozen stages run for every batch anew: {why}"


def _feed(run: Run, split: Split, boundary: int) -> Feed:
    if not boundary:
        return Feed(run, split)
    with run.device.autocast():
        return Feed(run, split, run.inputs.workbench.activations.deepest(run.prefix, split, boundary))
