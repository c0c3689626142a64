"""Which architectures torchvision has and how each is cut into stages: data, one row per family.

A row lists its members by glob, and its stages as patterns (`cut.py` expands them over a built module). The head is the
last layer alone; what stands before it belongs to a stage. Hidden layers of a classifier are a last stage `classifier`.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import torchvision
from torch import Tensor, nn

from fttune.models.cifar_resnet import cifar_resnet8
from fttune.models.cut import Auxiliary
from fttune.models.steps import Step, first_token, flatten, mean_hw, pool_hw, relu, vit_tokens

State = Mapping[str, Tensor]


def _vit_image_size(state: State) -> dict[str, int]:
    """A ViT's position embeddings (1, 1 + (side / patch)^2, D) fix the side of its images."""
    patches, positions = state.get("conv_proj.weight"), state.get("encoder.pos_embedding")
    if patches is None or positions is None or patches.ndim != 4 or positions.ndim != 3:
        return {}
    return {"image_size": math.isqrt(positions.shape[1] - 1) * patches.shape[-1]}


@dataclass(frozen=True)
class Family:
    """The stages that architectures of one kind share, and what else is peculiar to them.

    `options` are arguments of the builder, `fitted` those that the weights decide; `renames` lead from the names in
    torchvision's published files to those of its modules (regular expressions). torchvision rescales the input of some
    published weights inside the model: `statistics` are the (mean, std) of the images that such a model sees.
    """

    members: tuple[str, ...]
    stages: Mapping[str, tuple[Step, ...]]
    head: tuple[Step, ...]
    auxiliary: tuple[Auxiliary, ...] = ()
    options: Mapping[str, object] = field(default_factory=dict)
    fitted: Callable[[State], Mapping[str, object]] = lambda _: {}
    renames: Mapping[str, str] = field(default_factory=dict)
    statistics: tuple[float, float] | None = None


FAMILIES = (
    Family(  # He et al. 2015 (arXiv 1512.03385), section 4.2
        members=("cifar_resnet8",),
        stages={
            "stem": ("conv1", "bn1", "relu"),
            "layer1": ("layer1",),
            "layer2": ("layer2",),
            "layer3": ("layer3", "avgpool", flatten),
        },
        head=("fc",),
    ),
    Family(
        members=("resnet*", "resnext*", "wide_resnet*"),
        stages={
            "stem": ("conv1", "bn1", "relu", "maxpool"),
            "layer1": ("layer1",),
            "layer2": ("layer2",),
            "layer3": ("layer3",),
            "layer4": ("layer4", "avgpool", flatten),
        },
        head=("fc",),
    ),
    Family(
        members=("alexnet",),
        stages={
            "stem": ("features.0:3",),
            "conv2": ("features.3:6",),
            "conv3": ("features.6:8",),
            "conv4": ("features.8:10",),
            "conv5": ("features.10:", "avgpool", flatten),
            "classifier": ("classifier.:-1",),
        },
        head=("classifier.6",),
    ),
    Family(
        members=("vgg*",),
        stages={
            "stem": ("features.:1|MaxPool2d",),  # VGG's first block
            "block{2}": ("features.1:|MaxPool2d", "avgpool", flatten),
            "classifier": ("classifier.:-1",),
        },
        head=("classifier.6",),
    ),
    Family(
        members=("squeezenet*",),
        stages={
            "stem": ("features.:1|MaxPool2d",),
            "block{1}": ("features.1:|MaxPool2d", "classifier.0"),
        },
        head=("classifier.1", "classifier.2", "classifier.3", flatten),
    ),
    Family(
        members=("densenet*",),
        stages={
            "stem": ("features.conv0", "features.norm0", "features.relu0", "features.pool0"),
            "denseblock1": ("features.denseblock1", "features.transition1"),
            "denseblock2": ("features.denseblock2", "features.transition2"),
            "denseblock3": ("features.denseblock3", "features.transition3"),
            "denseblock4": ("features.denseblock4", "features.norm5", relu, pool_hw, flatten),
        },
        head=("classifier",),
        renames={r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)": r"\1\2"},
    ),
    Family(  # Szegedy et al. 2014 (arXiv 1409.4842), section 5: 0.3 of each auxiliary loss
        members=("googlenet",),
        stages={
            "stem": ("conv1", "maxpool1", "conv2", "conv3", "maxpool2"),
            "inception3a": ("inception3a",),
            "inception3b": ("inception3b", "maxpool3"),
            "inception4a": ("inception4a",),
            "inception4b": ("inception4b",),
            "inception4c": ("inception4c",),
            "inception4d": ("inception4d",),
            "inception4e": ("inception4e", "maxpool4"),
            "inception5a": ("inception5a",),
            "inception5b": ("inception5b", "avgpool", flatten, "dropout"),
        },
        head=("fc",),
        auxiliary=(
            Auxiliary("inception4a", "aux1", "aux1.fc2", 0.3),
            Auxiliary("inception4d", "aux2", "aux2.fc2", 0.3),
        ),
        options={"init_weights": True},
        statistics=(0.5, 0.5),
    ),
    Family(  # 0.4 of the auxiliary loss, as in torchvision's own training script
        members=("inception_v3",),
        stages={
            "stem": (
                "Conv2d_1a_3x3",
                "Conv2d_2a_3x3",
                "Conv2d_2b_3x3",
                "maxpool1",
                "Conv2d_3b_1x1",
                "Conv2d_4a_3x3",
                "maxpool2",
            ),
            "Mixed_5b": ("Mixed_5b",),
            "Mixed_5c": ("Mixed_5c",),
            "Mixed_5d": ("Mixed_5d",),
            "Mixed_6a": ("Mixed_6a",),
            "Mixed_6b": ("Mixed_6b",),
            "Mixed_6c": ("Mixed_6c",),
            "Mixed_6d": ("Mixed_6d",),
            "Mixed_6e": ("Mixed_6e",),
            "Mixed_7a": ("Mixed_7a",),
            "Mixed_7b": ("Mixed_7b",),
            "Mixed_7c": ("Mixed_7c", "avgpool", "dropout", flatten),
        },
        head=("fc",),
        auxiliary=(Auxiliary("Mixed_6e", "AuxLogits", "AuxLogits.fc", 0.4),),
        options={"init_weights": True},
        statistics=(0.5, 0.5),
    ),
    Family(
        members=("mobilenet_v2",),
        stages={
            "stem": ("features.0",),
            "block{1}": ("features.1:-1", "features.-1", pool_hw, flatten, "classifier.0"),
        },
        head=("classifier.1",),
    ),
    Family(
        members=("mobilenet_v3_*",),
        stages={
            "stem": ("features.0",),
            "block{1}": ("features.1:-1", "features.-1", "avgpool", flatten),
            "classifier": ("classifier.:-1",),
        },
        head=("classifier.3",),
    ),
    Family(
        members=("mnasnet*",),
        stages={
            "stem": ("layers.:8",),
            "stack{1}": ("layers.8:14", "layers.14:", mean_hw, "classifier.0"),
        },
        head=("classifier.1",),
    ),
    Family(
        members=("shufflenet_v2_*",),
        stages={
            "stem": ("conv1", "maxpool"),
            "stage2": ("stage2",),
            "stage3": ("stage3",),
            "stage4": ("stage4", "conv5", mean_hw),
        },
        head=("fc",),
    ),
    Family(
        members=("efficientnet_*",),
        stages={
            "stem": ("features.0",),
            "stage{1}": ("features.1:-1", "features.-1", "avgpool", flatten, "classifier.0"),
        },
        head=("classifier.1",),
    ),
    Family(
        members=("regnet_*",),
        stages={
            "stem": ("stem",),
            "block{1}": ("trunk_output.:", "avgpool", flatten),
        },
        head=("fc",),
    ),
    Family(
        members=("convnext_*",),
        stages={
            "stem": ("features.0",),
            "stage1": ("features.1",),
            "stage2": ("features.2", "features.3"),
            "stage3": ("features.4", "features.5"),
            "stage4": ("features.6", "features.7", "avgpool", "classifier.:-1"),
        },
        head=("classifier.2",),
    ),
    Family(
        members=("vit_*",),
        stages={
            "stem": ("conv_proj", "class_token", "encoder.pos_embedding", vit_tokens, "encoder.dropout"),
            "block{1}": ("encoder.layers.:", "encoder.ln", first_token),
        },
        head=("heads.head",),
        fitted=_vit_image_size,
        renames={r"\.mlp\.linear_1\.": ".mlp.0.", r"\.mlp\.linear_2\.": ".mlp.3."},
    ),
    Family(  # patch merging belongs to the block that it feeds
        members=("swin_*",),
        stages={
            "stem": ("features.0",),
            "stage1.block{1}": ("features.1.:",),
            "stage2.block{1}": ("features.2", "features.3.:"),
            "stage3.block{1}": ("features.4", "features.5.:"),
            "stage4.block{1}": ("features.6", "features.7.:", "norm", "permute", "avgpool", "flatten"),
        },
        head=("head",),
    ),
    Family(
        members=("maxvit_*",),
        stages={
            "stem": ("stem",),
            "block1.layer{1}": ("blocks.0.layers.:",),
            "block2.layer{1}": ("blocks.1.layers.:",),
            "block3.layer{1}": ("blocks.2.layers.:",),
            "block4.layer{1}": ("blocks.3.layers.:",),
            "classifier": ("classifier.:-1",),
        },
        head=("classifier.5",),
    ),
)

OWN_BUILDERS: dict[str, Callable[[], nn.Module]] = {"cifar_resnet8": cifar_resnet8}
_NAMES = (*OWN_BUILDERS, *torchvision.models.list_models(module=torchvision.models))
BY_NAME = {
    name: family
    for family in FAMILIES
    for name in _NAMES
    if any(fnmatchcase(name, pattern) for pattern in family.members)
}


def same_family(one: str, other: str) -> bool:
    """Return whether two backbones are of one family: of one row here; of timm's, by the letters they begin with."""
    if one in BY_NAME or other in BY_NAME or not one.startswith("timm:"):
        return one == other or (one in BY_NAME and BY_NAME[one] is BY_NAME.get(other))
    return _letters(one) == _letters(other)


def _letters(name: str) -> str:
    """Return what a name begins with, up to its first digit or underscore: `timm:resnet` of `timm:resnet50.a1_in1k`."""
    return re.split(r"[0-9_.]", name, maxsplit=1)[0]


def build_module(name: str, state: State) -> nn.Module:
    """Return the architecture that `state` fits, with random weights and its original head.

    The weights come from torch's global generator.
    """
    if name in OWN_BUILDERS:
        return OWN_BUILDERS[name]()
    family = BY_NAME[name]
    module: nn.Module = torchvision.models.get_model(name, weights=None, **family.options, **family.fitted(state))
    return module
