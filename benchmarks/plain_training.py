"""The plain training program under `plain_study.py`: images, the model, one recipe, its metrics. Knows no study.

Imports nothing of fttune; the model is built by the caller's function.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
METRIC = "val/accuracy"
EVALUATION_FACTOR = 4
Batches = Iterator[tuple[Tensor, Tensor]]
State = dict[str, Tensor]


@dataclass(frozen=True)
class Task:
    """Images in `data/{train,val,test}/<class>/`, and the net: `stages` are its submodules from the input on.

    `weights` is a state dict in safetensors; its head is replaced. `in_memory` keeps the images as tensors.
    """

    data: Path
    weights: Path
    build: Callable[[], nn.Module]
    stages: tuple[tuple[str, ...], ...]
    image_size: int
    resize: int
    epochs: int
    batch_size: int
    in_memory: bool = False
    head: str = "fc"


@dataclass(frozen=True)
class Recipe:
    """What a trial chooses; `unfrozen_stages` counts from the output, 0 trains the head alone."""

    lr: float
    momentum: float
    unfrozen_stages: int
    seed: int = 0


@dataclass
class Epochs(Sampler[int]):
    """The order of samples, set anew for each epoch; lives in the main process, so that workers may persist."""

    order: list[int]

    def __iter__(self) -> Iterator[int]:
        return iter(self.order)

    def __len__(self) -> int:
        return len(self.order)


class FolderImages:
    """Images of a folder, decoded anew each time, by `workers` processes that live on between epochs."""

    def __init__(self, folder: Path, task: Task, *, batch_size: int, workers: int) -> None:
        self.dataset = ImageFolder(str(folder), transform_of(task))
        self.sampler = Epochs(list(range(len(self.dataset))))
        self.loader = DataLoader(
            self.dataset,
            batch_size=batch_size,
            sampler=self.sampler,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
        )

    def __len__(self) -> int:
        return len(self.dataset)

    def batches(self, order: Tensor | None = None) -> Batches:
        """Yield images (B, 3, H, W) float32 and labels (B,), in an order of rows or as they lie."""
        self.sampler.order = list(range(len(self))) if order is None else order.tolist()
        yield from self.loader


class TensorImages:
    """Images of a folder, decoded once and kept as float32 tensors: for sets that are small."""

    def __init__(self, folder: Path, task: Task, *, batch_size: int) -> None:
        dataset = ImageFolder(str(folder), transform_of(task))
        self.images = torch.stack([image for image, _ in dataset])
        self.labels = torch.tensor(dataset.targets)
        self.batch_size = batch_size

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, order: Tensor | None = None) -> Batches:
        """Yield batches as `FolderImages` does."""
        rows = torch.arange(len(self)) if order is None else order
        for chunk in rows.split(self.batch_size):
            yield self.images[chunk], self.labels[chunk]


def transform_of(task: Task) -> v2.Compose:
    """Return what makes an RGB image a normalised tensor; resized by Pillow, as fttune's data room does."""
    steps = [v2.Resize(task.resize, antialias=True), v2.CenterCrop(task.image_size), v2.PILToTensor()]
    return v2.Compose([*steps, v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])


def images_of(task: Task, split: str, *, workers: int) -> FolderImages | TensorImages:
    """Return a split's images, in larger batches when it does not train."""
    size = task.batch_size * (1 if split == "train" else EVALUATION_FACTOR)
    if task.in_memory:
        return TensorImages(task.data / split, task, batch_size=size)
    return FolderImages(task.data / split, task, batch_size=size, workers=workers)


@dataclass
class Trainer:
    """A model that is built once, and the images; `train` runs one recipe and leaves its best epoch in `best`.

    An epoch trains on `limit` samples, on all when it is None.
    """

    task: Task
    workers: int = 0
    limit: int | None = None
    best: State = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.train_images = images_of(self.task, "train", workers=self.workers)
        self.val_images = images_of(self.task, "val", workers=self.workers)
        self.classes = len([folder for folder in (self.task.data / "train").iterdir() if folder.is_dir()])
        self.model = self.task.build()
        self.features = self.model.get_submodule(self.task.head).in_features
        self.model.set_submodule(self.task.head, nn.Linear(self.features, self.classes))
        self.model.to(self.device)
        if self.device.type == "cuda":
            self.model.to(memory_format=torch.channels_last)
        self.kept = {n: t for n, t in load_file(self.task.weights).items() if not n.startswith(f"{self.task.head}.")}

    def restore(self, recipe: Recipe) -> tuple[list[nn.Module], torch.optim.Optimizer]:
        """Make the model a recipe's: kept weights, a new head, what trains; return the frozen modules too."""
        torch.manual_seed(recipe.seed)
        head = nn.Linear(self.features, self.classes)
        new = {f"{self.task.head}.{name}": tensor for name, tensor in head.state_dict().items()}
        self.model.load_state_dict({**self.kept, **new})
        self.model.requires_grad_(True)
        cut = len(self.task.stages) - recipe.unfrozen_stages
        frozen = [self.model.get_submodule(name) for stage in self.task.stages[:cut] for name in stage]
        for module in frozen:
            module.requires_grad_(False)
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        for parameter in trained:
            parameter.grad = None
        return frozen, torch.optim.SGD(trained, lr=recipe.lr, momentum=recipe.momentum, fused=True)

    def train(self, recipe: Recipe) -> Iterator[dict[str, float]]:
        """Train a recipe and yield each epoch's metrics."""
        frozen, optimizer = self.restore(recipe)
        best = -1.0
        for epoch in range(1, self.task.epochs + 1):
            metrics = {**self.train_epoch(recipe, epoch, frozen, optimizer), **self.evaluate(self.val_images)}
            if metrics[METRIC] > best:
                best = metrics[METRIC]
                self.best = {n: t.to("cpu", copy=True).contiguous() for n, t in self.model.state_dict().items()}
            yield metrics

    def train_epoch(
        self, recipe: Recipe, epoch: int, frozen: Sequence[nn.Module], optimizer: torch.optim.Optimizer
    ) -> dict[str, float]:
        """Train one epoch, counted from 1, and return its metrics."""
        self.model.train()
        for module in frozen:
            module.eval()
        total, hits = torch.zeros(2, dtype=torch.float64, device=self.device)
        for images, labels in self.train_images.batches(self.order(recipe.seed, epoch)):
            images, labels = self.to_device(images), labels.to(self.device, non_blocking=True)
            with self.autocast():
                logits = self.model(images)
                loss = nn.functional.cross_entropy(logits, labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            total += loss.detach() * len(labels)
            hits += (logits.detach().argmax(1) == labels).sum()
        samples = len(self.train_images)
        return {"train/loss": total.item() / samples, "train/accuracy": hits.item() / samples}

    def evaluate(self, split: FolderImages | TensorImages) -> dict[str, float]:
        """Return the model's metrics on a split, named as those of validation."""
        self.model.eval()
        logits, labels = [], []
        with torch.inference_mode(), self.autocast():
            for images, truth in split.batches():
                logits.append(self.model(self.to_device(images)).float())
                labels.append(truth)
        return metrics_of(torch.cat(logits).cpu(), torch.cat(labels))

    def order(self, seed: int, epoch: int) -> Tensor:
        """Return the order of training samples in an epoch, counted from 1: fttune's documented formula."""
        generator = torch.Generator().manual_seed((seed * 2654435761 + epoch) % 2**32)
        return torch.randperm(len(self.train_images), generator=generator)[: self.limit]

    def to_device(self, images: Tensor) -> Tensor:
        """Return images where the model is, in the order of memory that it wants there."""
        if self.device.type == "cuda":
            return images.to(self.device, non_blocking=True, memory_format=torch.channels_last)
        return images

    def autocast(self) -> torch.autocast:
        """Return the context of lower precision, which is on on a GPU."""
        return torch.autocast("cuda", torch.bfloat16, enabled=self.device.type == "cuda")


def metrics_of(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Return validation metrics of logits (N, classes); recall and F1 as scikit-learn defines them."""
    classes, predicted = logits.shape[1], logits.argmax(1)
    hits = torch.bincount(labels[predicted == labels], minlength=classes).double()
    truth, guessed = (torch.bincount(of, minlength=classes).double() for of in (labels, predicted))
    occurs = truth + guessed > 0
    metrics = {
        "val/loss": nn.functional.cross_entropy(logits, labels).item(),
        "val/accuracy": hits.sum().item() / len(labels),
        "val/balanced_accuracy": (hits[truth > 0] / truth[truth > 0]).mean().item(),
        "val/macro_f1": (2 * hits[occurs] / (truth + guessed)[occurs]).mean().item(),
    }
    if classes > 5:
        top = logits.topk(5, dim=1).indices == labels[:, None]
        metrics["val/top5_accuracy"] = top.any(1).double().mean().item()
    return metrics


def tune_workers(task: Task, depths: Sequence[int]) -> tuple[int, dict[int, float]]:
    """Return the number of decoding processes that trains fastest, and about how long a trial of each depth takes.

    Tried are 0, 1, 2, 4, ... up to the cores, on a few batches after one that starts the workers. Seconds are those of
    training and evaluation, without stores.
    """
    cores = os.cpu_count() or 1
    tried = [0] if task.in_memory else sorted({0, cores, *(2**n for n in range(cores.bit_length()) if 2**n <= cores)})
    found = {workers: sample_seconds(Trainer(task, workers), min(depths)) for workers in tried}
    best = min(found, key=lambda workers: found[workers])
    trainer = Trainer(task, best)
    train, val = len(trainer.train_images), len(trainer.val_images)
    per_sample = {depth: sample_seconds(trainer, depth) for depth in {0, *depths}}
    return best, {depth: task.epochs * (train * per_sample[depth] + val * per_sample[0]) for depth in depths}


def sample_seconds(trainer: Trainer, depth: int, batches: int = 4) -> float:
    """Return the seconds that one training image takes at a depth."""
    recipe, size = Recipe(0.001, 0.9, depth), trainer.task.batch_size
    frozen, optimizer = trainer.restore(recipe)
    for count in (1, batches):  # the first starts the workers
        trainer.limit = count * size
        started = time.perf_counter()
        trainer.train_epoch(recipe, 1, frozen, optimizer)
    return (time.perf_counter() - started) / min(batches * size, len(trainer.train_images))


def accuracy_on_test(task: Task, checkpoint: Path) -> float:
    """Return the accuracy of a checkpoint on the test split, which nothing has seen."""
    trainer = Trainer(task)
    trainer.model.load_state_dict(load_file(checkpoint))
    return trainer.evaluate(images_of(task, "test", workers=0))["val/accuracy"]
