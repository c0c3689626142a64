"""One epoch of training, one evaluation. Knows a run's parts, not which phase comes next or what is kept."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fttune.config.policy import PhasePlan
from fttune.errors import BadInput
from fttune.freezing import HEAD, Freezing
from fttune.models import Outputs
from fttune.training.feeds import Feed
from fttune.training.gradients import GradientRecord, Motion
from fttune.training.metrics import split_metrics
from fttune.training.plan import Span
from fttune.training.randomness import augmentation_generator, epoch_rows, seed_dropout
from fttune.training.run import Run
from fttune.training.schedule import lr_factor

EVALUATION_BATCH = 64


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


def train_epoch(run: Run, regime: Regime, feed: Feed, epoch: int) -> TrainedEpoch:
    """Train one epoch, counted from 1.

    `train/loss` is the mean over samples of the loss that was minimised, `train/accuracy` of the predictions made
    on the way. Nothing waits for the device before the end of the epoch. Torch's global generator is seeded anew, for
    dropout.
    """
    seed, training, per_epoch = run.experiment.seed, run.experiment.training, run.steps_per_epoch
    rows = epoch_rows(feed.split, seed=seed, epoch=epoch)
    draws = augmentation_generator(seed=seed, epoch=epoch)
    record = GradientRecord(regime.freezing.members, moments=run.policy.auto in ("snr", "autofreeze"))
    losses, hits, sizes, factor = [], [], [], 1.0
    train_mode(run, regime.freezing)
    seed_dropout(run.device.device, seed=seed, epoch=epoch)
    batches = torch.split(rows, training.batch_size)
    for index, batch in enumerate(feed.batches(batches, draws)):
        step = (epoch - regime.span.first) * per_epoch + index
        factor = regime.factor * lr_factor(training, step=step, steps_per_epoch=per_epoch, epochs=regime.span.epochs)
        set_rates(run, regime.rates, factor=factor)
        loss, correct = update(run, regime, batch, record, after=feed.after)
        losses.append(loss)
        hits.append(correct)
        sizes.append(len(batches[index]))
    step_losses = torch.stack(losses).cpu().double()  # in this order: MPS has no float64
    weights = torch.tensor(sizes, dtype=torch.float64)
    metrics = {
        "train/loss": ((step_losses * weights).sum() / weights.sum()).item(),
        "train/accuracy": (torch.stack(hits).cpu().sum() / weights.sum()).item(),
        "lr": regime.lr * factor,
    }
    return TrainedEpoch(metrics, step_losses.tolist(), record.result(run.start))


def set_rates(run: Run, rates: Mapping[str, float], *, factor: float) -> None:
    """Give every part `factor` times its lr for the next update."""
    for group in run.optimizer.param_groups:
        group["lr"] = rates[group["name"]] * factor


def update(
    run: Run, regime: Regime, batch: tuple[Tensor, Tensor], record: GradientRecord, *, after: int = 0
) -> tuple[Tensor, Tensor]:
    """Make one update on a batch that has passed `after` stages; return the loss and the hits, still on the device."""
    x, labels = batch
    with run.device.autocast():
        outputs = _forward(run, x, after=after)
        loss: Tensor = run.criterion(outputs.logits, labels)
        for weight, logits in outputs.auxiliary.values():
            loss = loss + weight * run.criterion(logits, labels)
    if run.policy.l2_sp is not None:
        loss = loss + _distance_penalty(run, regime, run.policy.l2_sp)
    run.optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    record.add()
    if (limit := run.experiment.optimizer.clip_grad_norm) is not None:
        nn.utils.clip_grad_norm_(run.backbone.module.parameters(), limit)
    run.optimizer.step()
    return loss.detach(), (outputs.logits.argmax(1) == labels).sum()


def _distance_penalty(run: Run, regime: Regime, alpha: float) -> Tensor:
    """Return alpha/2 * ||w - w0||^2 over what trains outside the head (L2-SP)."""
    stages = [members for part, members in regime.freezing.members.items() if part != HEAD]
    squares = [(p - run.start[name]).square().sum() for members in stages for name, p in members]
    return alpha / 2 * torch.stack(squares).sum() if squares else torch.zeros((), device=run.device.device)


def train_mode(run: Run, freezing: Freezing) -> None:
    """Put the model into training mode, its frozen parts excepted."""
    run.backbone.module.train()
    freezing.train_mode()


def try_smallest_batch(run: Run) -> None:
    """Run the last batch of an epoch when it is a single image, which some norm layers cannot train on.

    The model is in training mode. Its norm statistics move, so the run is of no use afterwards. Raises BadInput.
    """
    training, part = run.experiment.training, run.inputs.data.train
    if (len(part.labels) - 1) % training.batch_size:
        return
    x, _ = Feed(run, part).batch(torch.tensor([0]), torch.Generator())
    with torch.no_grad(), run.device.autocast():
        _forward(run, x)


def evaluate(feeds: Mapping[str, Feed]) -> dict[str, float]:
    """Return the metrics of the validation split, and those under other shifts by their names; empty without one."""
    metrics: dict[str, float] = {}
    for name, feed in feeds.items():
        run = feed.run
        run.backbone.module.eval()
        rows = torch.arange(len(feed.split.labels))
        with torch.inference_mode(), run.device.autocast():
            batches = feed.batches(torch.split(rows, max(EVALUATION_BATCH, run.experiment.training.batch_size)))
            pairs = [(run.backbone.outputs(x, after=feed.after).logits, truth) for x, truth in batches]
            logits, labels = (torch.cat(column) for column in zip(*pairs, strict=True))
            metrics |= split_metrics(logits, labels, split=name)
    return metrics


def _forward(run: Run, x: Tensor, *, after: int = 0) -> Outputs:
    try:
        return run.backbone.outputs(x, after=after)
    except ValueError as error:
        if len(x) > 1:
            raise
        raise BadInput(
            f"training.batch_size is {run.experiment.training.batch_size}, which leaves one image for the last batch "
            f"of an epoch, too few for the norm layers ({error}); choose another"
        ) from error
