"""One epoch of training, one evaluation. Knows a run's parts, not how many epochs there are or what is kept."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fttune.config import Experiment
from fttune.data import augment
from fttune.errors import BadInput
from fttune.freezing import Freezing
from fttune.models import Backbone
from fttune.training.device import Device
from fttune.training.inputs import Inputs
from fttune.training.metrics import classification_metrics
from fttune.training.randomness import augmentation_generator, dropout_seed, sample_order
from fttune.training.schedule import lr_factor

EVALUATION_BATCH = 64


@dataclass(frozen=True)
class Run:
    """Everything one run of a recipe trains with."""

    experiment: Experiment
    inputs: Inputs
    device: Device
    backbone: Backbone
    freezing: Freezing
    optimizer: torch.optim.Optimizer
    criterion: nn.CrossEntropyLoss

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch; the last one may be smaller."""
        return math.ceil(len(self.inputs.data.train.labels) / self.experiment.training.batch_size)


def train_epoch(run: Run, epoch: int) -> tuple[dict[str, float], list[float]]:
    """Train one epoch, counted from 1; return its metrics and the loss of each step.

    `train/loss` is the mean over samples of the loss that was minimised, `train/accuracy` of the predictions made
    on the way. Nothing waits for the device before the end of the epoch. Torch's global generator is seeded anew, for
    dropout.
    """
    seed, part = run.experiment.seed, run.inputs.data.train
    rows = sample_order(len(part.labels), seed=seed, epoch=epoch)
    draws = augmentation_generator(seed=seed, epoch=epoch)
    losses, hits, sizes = [], [], []
    run.backbone.module.train()
    run.freezing.train_mode()
    torch.manual_seed(dropout_seed(seed=seed, epoch=epoch))
    for index, batch in enumerate(torch.split(rows, run.experiment.training.batch_size)):
        factor = _set_lr(run, step=(epoch - 1) * run.steps_per_epoch + index)
        loss, correct = _step(run, batch, draws)
        losses.append(loss)
        hits.append(correct)
        sizes.append(len(batch))
    step_losses = torch.stack(losses).cpu().double()  # in this order: MPS has no float64
    weights = torch.tensor(sizes, dtype=torch.float64)
    metrics = {
        "train/loss": ((step_losses * weights).sum() / weights.sum()).item(),
        "train/accuracy": (torch.stack(hits).cpu().sum() / weights.sum()).item(),
        "lr": run.experiment.optimizer.lr * factor,
    }
    return metrics, step_losses.tolist()


def try_smallest_batch(run: Run) -> None:
    """Run the last batch of an epoch when it is a single image, which some norm layers cannot train on.

    The run's norm statistics move, so it is of no use afterwards. Raises BadInput.
    """
    training, part = run.experiment.training, run.inputs.data.train
    if (len(part.labels) - 1) % training.batch_size:
        return
    run.backbone.module.train()
    run.freezing.train_mode()
    images, _ = run.inputs.batch(part, torch.tensor([0]), run.device.device)
    data = run.experiment.data
    images = augment(images, data.augment, image_size=data.image_size, generator=torch.Generator())
    with torch.no_grad(), run.device.autocast():
        _forward(run, images)


def evaluate(run: Run) -> dict[str, float]:
    """Return the metrics of the validation split; empty when there is none."""
    part = run.inputs.data.val
    if part is None:
        return {}
    run.backbone.module.eval()
    logits, labels = [], []
    rows = torch.arange(len(part.labels))
    with torch.inference_mode(), run.device.autocast():
        for batch in torch.split(rows, max(EVALUATION_BATCH, run.experiment.training.batch_size)):
            images, truth = run.inputs.batch(part, batch, run.device.device)
            logits.append(run.backbone.module(_to_model(run, images)))
            labels.append(truth)
        return classification_metrics(torch.cat(logits), torch.cat(labels), prefix="val")


def _step(run: Run, rows: Tensor, draws: torch.Generator) -> tuple[Tensor, Tensor]:
    """Make one update; return the loss and the number of hits, both still on the device."""
    data = run.experiment.data
    images, labels = run.inputs.batch(run.inputs.data.train, rows, run.device.device)
    images = augment(images, data.augment, image_size=data.image_size, generator=draws)
    with run.device.autocast():
        logits = _forward(run, images)
        loss: Tensor = run.criterion(logits, labels)
    run.optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    if (limit := run.experiment.optimizer.clip_grad_norm) is not None:
        nn.utils.clip_grad_norm_(run.backbone.module.parameters(), limit)
    run.optimizer.step()
    return loss.detach(), (logits.argmax(1) == labels).sum()


def _forward(run: Run, images: Tensor) -> Tensor:
    try:
        logits: Tensor = run.backbone.module(_to_model(run, images))
    except ValueError as error:
        if len(images) > 1:
            raise
        raise BadInput(
            f"training.batch_size is {run.experiment.training.batch_size}, which leaves one image for the last batch "
            f"of an epoch, too few for the norm layers ({error}); choose another"
        ) from error
    return logits


def _to_model(run: Run, images: Tensor) -> Tensor:
    """Normalise; keep channels-last memory on CUDA, where it is faster, and plain order elsewhere, where it is not."""
    images = run.inputs.normalise(images)
    return images if run.device.device.type == "cuda" else images.contiguous()


def _set_lr(run: Run, *, step: int) -> float:
    factor = lr_factor(run.experiment.training, step=step, steps_per_epoch=run.steps_per_epoch)
    for group in run.optimizer.param_groups:
        group["lr"] = run.experiment.optimizer.lr * factor
    return factor
