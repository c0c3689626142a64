"""One epoch of training, one evaluation. Knows a run's parts, not which phase comes next or what is kept."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from fttune.config.policy import PhasePlan
from fttune.freezing import Freezing
from fttune.interruption import uninterrupted
from fttune.training.feeds import Feed
from fttune.training.gradients import GradientRecord, Motion
from fttune.training.metrics import split_metrics
from fttune.training.plan import Span
from fttune.training.randomness import augmentation_generator, epoch_rows, random_state, seed_dropout, set_random_state
from fttune.training.resume import prefixed, unprefixed
from fttune.training.run import Run
from fttune.training.schedule import lr_factor
from fttune.training.step import Step, forward


@dataclass(frozen=True)
class Regime:
    """What holds in one epoch: the phase, what trains, its lr and that of each part before the schedule.

    `factor` is what a plateau has made of them so far; `moved` are the parts that train or have trained, and
    `boundary` is the number of stages before them that make of an image what they made of it when the run began.
    """

    span: Span
    phase: PhasePlan
    freezing: Freezing
    lr: float
    rates: Mapping[str, float]
    factor: float = 1.0
    moved: frozenset[str] = frozenset()
    boundary: int = 0


@dataclass(frozen=True)
class TrainedEpoch:
    """What an epoch of training did: metrics, the loss of each step, and what became of each trained part."""

    metrics: dict[str, float]
    step_losses: list[float]
    motion: Motion


@dataclass
class SoFar:
    """An epoch under way: the loss and hits of each of its steps, and how the generator of its augmentation stands.

    `whole` is false amid a step. `restored` are the sums of gradients and the state of torch's generators of an epoch
    that another process began, to be gone on with.
    """

    losses: list[Tensor] = field(default_factory=list)
    hits: list[Tensor] = field(default_factory=list)
    draws: Tensor | None = None
    whole: bool = True
    restored: Mapping[str, Tensor] = field(default_factory=dict)

    def tensors(self, run: Run, record: GradientRecord) -> dict[str, Tensor]:
        """Return all of it, by name, for `SoFar.of`; empty before the first step."""
        if self.draws is None:
            return {}
        stacked = {"losses": torch.stack(self.losses), "hits": torch.stack(self.hits), "draws": self.draws}
        return {**stacked, **prefixed("record", record.sums()), **prefixed("random", random_state(run.device.device))}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], device: torch.device) -> "SoFar":
        """Return an epoch under way as it was."""
        if not tensors:
            return cls()
        losses, hits = (list(tensors[name].to(device).unbind()) for name in ("losses", "hits"))
        return cls(losses, hits, tensors["draws"], restored=tensors)

    def go_on(self, run: Run, record: GradientRecord, draws: torch.Generator) -> None:
        """Bring what the next step meets to where it was."""
        if not self.restored:
            return
        assert self.draws is not None, "set by a step"
        with uninterrupted():
            draws.set_state(self.draws)
            record.go_on(unprefixed(self.restored, "record"))
            set_random_state(run.device.device, unprefixed(self.restored, "random"))
            self.restored = {}


def train_epoch(
    run: Run, regime: Regime, feed: Feed, epoch: int, *, step: Step | None = None, so_far: SoFar | None = None
) -> TrainedEpoch:
    """Train one epoch, counted from 1; `step` is what the epoch before trained with, where it still fits.

    `so_far` is filled as the epoch goes on; what stands in it already is not trained again.
    `train/loss` is the mean over samples of the loss that was minimised, `train/accuracy` of the predictions made
    on the way. Nothing waits for the device before the end of the epoch. Torch's global generator is seeded anew, for
    dropout.
    """
    seed, training, per_epoch = run.experiment.seed, run.experiment.training, run.steps_per_epoch
    rows = epoch_rows(feed.split, seed=seed, epoch=epoch)
    draws = augmentation_generator(seed=seed, epoch=epoch)
    step, so_far = step or Step(run, regime.freezing, after=feed.after), so_far or SoFar()
    step.record.begin()
    train_mode(run, regime.freezing)
    seed_dropout(run.device.device, seed=seed, epoch=epoch)
    so_far.go_on(run, step.record, draws)

    def factor(index: int) -> float:
        count = (epoch - regime.span.first) * per_epoch + index
        return regime.factor * lr_factor(training, step=count, steps_per_epoch=per_epoch, epochs=regime.span.epochs)

    batches, begun = torch.split(rows, training.batch_size), len(so_far.losses)
    for index, batch in enumerate(feed.batches(batches[begun:], draws), start=begun):
        with uninterrupted():
            so_far.whole = False
            set_rates(run, regime.rates, factor=factor(index))
            loss, correct = step(*batch)
            so_far.losses.append(loss)
            so_far.hits.append(correct)
            so_far.draws = draws.get_state()
            so_far.whole = True
    step_losses = torch.stack(so_far.losses).cpu().double()  # in this order: MPS has no float64
    weights = torch.tensor([len(batch) for batch in batches], dtype=torch.float64)
    metrics = {
        "train/loss": ((step_losses * weights).sum() / weights.sum()).item(),
        "train/accuracy": (torch.stack(so_far.hits).cpu().sum() / weights.sum()).item(),
        "lr": regime.lr * factor(len(batches) - 1),
    }
    return TrainedEpoch(metrics, step_losses.tolist(), step.record.result(run.start, steps=len(batches)))


def set_rates(run: Run, rates: Mapping[str, float], *, factor: float) -> None:
    """Give every part `factor` times its lr for the next update."""
    for group in run.optimizer.param_groups:
        rate = rates[group["name"]] * factor
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def train_mode(run: Run, freezing: Freezing) -> None:
    """Put the model into training mode, its frozen parts excepted."""
    run.backbone.module.train()
    freezing.train_mode()


def try_smallest_batch(run: Run) -> None:
    """Run the last batch of an epoch when it is a single image, which some norm layers cannot train on.

    The model is in training mode. Its norm statistics move, so the run is of no use afterwards. Raises BadInput.
    """
    training, part = run.experiment.training, run.inputs.data.train
    if (len(part) - 1) % training.batch_size:
        return
    x, _ = Feed(run, part).batch(part.samples[:1], torch.Generator())
    with torch.no_grad(), run.device.autocast():
        forward(run, x)


def evaluate(feeds: Mapping[str, Feed]) -> dict[str, float]:
    """Return the metrics of the validation split, and those under other shifts by their names; empty without one.

    Raises:
        OutOfMemory: one sample at a time is too many.
    """
    metrics: dict[str, float] = {}
    for name, feed in feeds.items():
        run = feed.run
        run.backbone.module.eval()
        wanted = max(run.device.evaluation_batch, run.experiment.training.batch_size)
        evaluated = partial(_evaluated, name, feed)
        metrics |= run.inputs.workbench.evaluation.fit(min(wanted, len(feed.split)), evaluated, run.backbone.module)
    return metrics


def _evaluated(name: str, feed: Feed, at_once: int) -> dict[str, float]:
    """Return the metrics of a split under its name, from at most so many samples at once."""
    run = feed.run
    with torch.inference_mode(), run.device.autocast():
        batches = feed.batches(torch.split(feed.split.samples, at_once))
        pairs = [(run.backbone.outputs(x, after=feed.after).logits, truth) for x, truth in batches]
        logits, labels = (torch.cat(column) for column in zip(*pairs, strict=True))
        return split_metrics(logits, labels, split=name)
