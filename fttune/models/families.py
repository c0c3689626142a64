"""Which architectures there are and how each is cut into stages: data, one row per family.

A stage lists submodules in the order in which the input passes them. The head is the last Linear alone; the
pooling before it belongs to the last stage.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torchvision
from torch import nn

from fttune.models.cifar_resnet import cifar_resnet8


@dataclass(frozen=True)
class Stage:
    """A named part of a backbone: dotted paths of its submodules, from the input to the output."""

    name: str
    modules: tuple[str, ...]


@dataclass(frozen=True)
class Family:
    """The stages that architectures of one kind share, the path of their head, and their members."""

    members: tuple[str, ...]
    stages: tuple[Stage, ...]
    head: str


FAMILIES = (
    Family(  # He et al. 2015 (arXiv 1512.03385), section 4.2
        members=("cifar_resnet8",),
        stages=(
            Stage("stem", ("conv1", "bn1", "relu")),
            Stage("layer1", ("layer1",)),
            Stage("layer2", ("layer2",)),
            Stage("layer3", ("layer3", "avgpool")),
        ),
        head="fc",
    ),
    Family(
        members=(
            "resnet18",
            "resnet34",
            "resnet50",
            "resnet101",
            "resnet152",
            "resnext50_32x4d",
            "resnext101_32x8d",
            "resnext101_64x4d",
            "wide_resnet50_2",
            "wide_resnet101_2",
        ),
        stages=(
            Stage("stem", ("conv1", "bn1", "relu", "maxpool")),
            Stage("layer1", ("layer1",)),
            Stage("layer2", ("layer2",)),
            Stage("layer3", ("layer3",)),
            Stage("layer4", ("layer4", "avgpool")),
        ),
        head="fc",
    ),
)

BY_NAME = {member: family for family in FAMILIES for member in family.members}
OWN_BUILDERS: dict[str, Callable[[], nn.Module]] = {"cifar_resnet8": cifar_resnet8}


def build_module(name: str) -> nn.Module:
    """Return the architecture with random weights from torch's global generator and its original head."""
    if name in OWN_BUILDERS:
        return OWN_BUILDERS[name]()
    module: nn.Module = torchvision.models.get_model(name, weights=None)
    return module
