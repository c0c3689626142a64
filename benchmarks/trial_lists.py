"""Fixed lists of trials of a ResNet, and the weights that they begin with. Knows neither studies nor fttune."""

from collections import Counter
from collections.abc import Sequence
from itertools import islice

import torch
from safetensors.torch import save_file
from torch import nn

from benchmarks.plain_training import Recipe, Task, images_of

DEEPEST = {"A": 0, "B": 2, "C": 5}  # unfrozen stages
RESNET_STAGES = (("conv1", "bn1"), ("layer1",), ("layer2",), ("layer3",), ("layer4",))
LR, MOMENTA = (1e-3, 1e-2), (0.0, 0.5, 0.9)
TIMED_PER_DEPTH = 3


def recipes_of(deepest: int, count: int) -> tuple[Recipe, ...]:
    """Return trials with 0 to `deepest` unfrozen stages in turn, and no two with the same learning rate."""
    low, high = LR
    return tuple(
        Recipe(
            lr=low * (high / low) ** (0.618034 * index % 1),
            momentum=MOMENTA[index // (deepest + 1) % len(MOMENTA)],
            unfrozen_stages=index % (deepest + 1),
        )
        for index in range(count)
    )


def timed_trials(recipes: Sequence[Recipe], *, all_of_them: bool) -> list[int]:
    """Return the numbers of the trials that the plain side runs: all, or a few of each depth."""
    seen: Counter[int] = Counter()
    chosen = []
    for number, recipe in enumerate(recipes):
        seen[recipe.unfrozen_stages] += 1
        if all_of_them or seen[recipe.unfrozen_stages] <= TIMED_PER_DEPTH:
            chosen.append(number)
    return chosen


def make_weights(task: Task, *, batches: int | None = None) -> Task:
    """Write a task's weights if they are missing: a random net whose norm statistics are those of the images.

    Those of a pretrained net would be like that. They are taken from training images, as many batches as `batches`
    says, in random order, on the CPU. Returns the task.
    """
    if task.weights.exists():
        return task
    torch.manual_seed(0)
    net = task.build()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean over all batches
    net.train()
    source = images_of(task, "train", workers=0)
    with torch.no_grad():
        for images, _ in islice(source.batches(torch.randperm(len(source))), batches):
            net(images)
    temporary = task.weights.with_suffix(".part")
    save_file(net.state_dict(), str(temporary))
    temporary.rename(task.weights)
    return task
