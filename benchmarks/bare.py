"""The work that no search can do without, measured bare: no store, no checkpoint, no study.

One decode of every image; one pass through the frozen prefixes, which keeps the activations at each boundary that the
list cuts at; each trial's steps and evaluations of what trains, on those activations; the heads of trials that train
nothing else as one matrix product, since they share their batches. What plain takes over what this takes is the bound
of the speed-up of a list. Trials of one depth do the same work, so one of each is measured and multiplied.
"""

import math
import os
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.datasets import ImageFolder

from benchmarks.plain_training import EVALUATION_FACTOR, Recipe, Task, Trainer, transform_of

Split = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Bare:
    """Seconds of each part of the work; `last_losses` are those of validation, of the trials that were measured."""

    decode: float
    prefixes: float
    suffixes: float
    heads: float
    last_losses: dict[int, float]

    def seconds(self) -> dict[str, float]:
        """Return the seconds by part, and in all."""
        parts = {name: getattr(self, name) for name in ("decode", "prefixes", "suffixes", "heads")}
        return {**parts, "total": sum(parts.values())}


def bare_work(task: Task, recipes: Sequence[Recipe]) -> Bare:
    """Do the unavoidable work of a list of trials, and return what each part took."""
    started = time.perf_counter()
    splits = {split: _decoded(task, split) for split in ("train", "val")}
    decode = time.perf_counter() - started
    trainer = Trainer(task)
    depths = Counter(recipe.unfrozen_stages for recipe in recipes)
    started = time.perf_counter()
    kept = {split: _activations(trainer, images, list(depths)) for split, (images, _) in splits.items()}
    if trainer.device.type == "cuda":
        torch.cuda.synchronize()  # what is measured next waits for its own result
    prefixes = time.perf_counter() - started
    truth, val_truth = (splits[split][1].to(trainer.device) for split in ("train", "val"))
    suffixes, losses = 0.0, {}
    for depth in depths.keys() - {0}:
        number = next(i for i, recipe in enumerate(recipes) if recipe.unfrozen_stages == depth)
        sides = (kept["train"][depth], truth), (kept["val"][depth], val_truth)
        started = time.perf_counter()
        losses[number] = _train_suffix(trainer, recipes[number], *sides)
        suffixes += depths[depth] * (time.perf_counter() - started)
    started = time.perf_counter()
    if heads := [number for number, recipe in enumerate(recipes) if recipe.unfrozen_stages == 0]:
        sides = (kept["train"][0], truth), (kept["val"][0], val_truth)
        found = _train_heads(trainer, [recipes[number] for number in heads], *sides)
        losses |= dict(zip(heads, found.tolist(), strict=True))
    return Bare(decode, prefixes, suffixes, time.perf_counter() - started, losses)


def _decoded(task: Task, split: str) -> Split:
    """Return a split as normalised tensors, decoded by as many threads as there are cores."""
    dataset = ImageFolder(str(task.data / split), transform_of(task))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        pairs = list(pool.map(dataset.__getitem__, range(len(dataset))))
    return torch.stack([image for image, _ in pairs]), torch.tensor([label for _, label in pairs])


def _activations(trainer: Trainer, images: Tensor, depths: Sequence[int]) -> dict[int, Tensor]:
    """Return the input of what trains at each depth, in one pass through the net."""
    trainer.model.load_state_dict(trainer.kept, strict=False)
    trainer.model.eval()
    stages, size = len(trainer.task.stages), EVALUATION_FACTOR * trainer.task.batch_size
    found: dict[int, list[Tensor]] = {depth: [] for depth in depths}
    with torch.inference_mode(), trainer.autocast():
        for batch in images.split(size):
            x = trainer.to_device(batch)
            for depth in range(stages, min(depths) - 1, -1):
                if depth in found:
                    found[depth].append(x if depth else pooled(x))
                if depth:
                    x = run_stage(trainer, stages - depth, x)
    return {depth: torch.cat(parts) for depth, parts in found.items()}


def run_stage(trainer: Trainer, index: int, x: Tensor) -> Tensor:
    """Return the output of a stage of a ResNet; the stem's functions stand between its modules."""
    for name in trainer.task.stages[index]:
        x = trainer.model.get_submodule(name)(x)
    if index == 0:
        x = trainer.model.get_submodule("relu")(x)
        if hasattr(trainer.model, "maxpool"):
            x = trainer.model.get_submodule("maxpool")(x)
    return x


def pooled(x: Tensor) -> Tensor:
    """Return features (B, C) of the last stage's output (B, C, H, W)."""
    return x.mean((2, 3))


def _suffix(trainer: Trainer, depth: int, x: Tensor) -> Tensor:
    stages = len(trainer.task.stages)
    for index in range(stages - depth, stages):
        x = run_stage(trainer, index, x)
    logits: Tensor = trainer.model.get_submodule(trainer.task.head)(pooled(x))
    return logits


def _train_suffix(trainer: Trainer, recipe: Recipe, train: Split, val: Split) -> float:
    """Train what is not frozen on kept activations; return the validation loss of the last epoch."""
    frozen, optimizer = trainer.restore(recipe)
    loss = math.nan
    for epoch in range(1, trainer.task.epochs + 1):
        trainer.model.train()
        for module in frozen:
            module.eval()
        for rows in trainer.order(recipe.seed, epoch).to(trainer.device).split(trainer.task.batch_size):
            with trainer.autocast():
                logits = _suffix(trainer, recipe.unfrozen_stages, train[0][rows])
                step_loss = nn.functional.cross_entropy(logits, train[1][rows])
            optimizer.zero_grad(set_to_none=True)
            step_loss.backward()
            optimizer.step()
        trainer.model.eval()
        with torch.inference_mode(), trainer.autocast():
            size = EVALUATION_FACTOR * trainer.task.batch_size
            logits = torch.cat([_suffix(trainer, recipe.unfrozen_stages, batch) for batch in val[0].split(size)])
            loss = nn.functional.cross_entropy(logits, val[1]).item()
    return loss


def _train_heads(trainer: Trainer, recipes: Sequence[Recipe], train: Split, val: Split) -> Tensor:
    """Train the heads of many trials at once; return the validation loss of each at the last epoch, (trials,)."""
    (x, truth), (val_x, val_truth) = (train[0].float(), train[1]), (val[0].float(), val[1])
    trainer.restore(recipes[0])  # the same seed gives the same new head
    head = trainer.model.get_submodule(trainer.task.head)
    count = len(recipes)
    weight = head.weight.detach().repeat(count, 1, 1)  # (trials, classes, features)
    bias = head.bias.detach().repeat(count, 1)  # (trials, classes)
    speed = torch.zeros_like(weight), torch.zeros_like(bias)
    lr, momentum = (torch.tensor([getattr(r, name) for r in recipes], device=x.device) for name in ("lr", "momentum"))
    losses = torch.empty(count)
    for epoch in range(1, trainer.task.epochs + 1):
        for rows in trainer.order(recipes[0].seed, epoch).to(x.device).split(trainer.task.batch_size):
            gap = _logits(x[rows], weight, bias).softmax(2)  # (B, trials, classes)
            gap[torch.arange(len(rows)), :, truth[rows]] -= 1
            gap /= len(rows)
            gradients = (gap.flatten(1).T @ x[rows]).view_as(weight), gap.sum(0)
            for parameter, velocity, gradient in zip((weight, bias), speed, gradients, strict=True):
                shape = (count, *[1] * (parameter.dim() - 1))
                velocity.mul_(momentum.view(shape)).add_(gradient)
                parameter.sub_(lr.view(shape) * velocity)
        logits = _logits(val_x, weight, bias).flatten(0, 1)  # (N * trials, classes)
        each = nn.functional.cross_entropy(logits, val_truth.repeat_interleave(count), reduction="none")
        losses = each.view(-1, count).mean(0)
    return losses


def _logits(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return (x @ weight.flatten(0, 1).T).view(len(x), *bias.shape) + bias  # (B, trials, classes)
