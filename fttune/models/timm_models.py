"""timm's architectures, an optional extra: timm's own grouping says which parameters make a stage.

Every architecture with such a grouping and one linear classifier can be cut. `RUNS` says for some classes of timm how
their stages run one after another; the others run only as a whole.
"""

import math
from collections.abc import Iterator, Mapping
from http.client import HTTPException
from typing import Any, cast

import torch
from torch import Tensor, nn

from fttune.config.known import one_of
from fttune.errors import BadInput, WeightsError
from fttune.models.cut import Cut, Stage, cut, require_whole
from fttune.models.files import DAMAGED, reason
from fttune.models.preprocessing import Preprocessing
from fttune.models.steps import Step, timm_positions, timm_pre_logits

PREFIX = "timm:"
RUNS: Mapping[str, Mapping[str, tuple[Step, ...]]] = {
    "ResNet": {
        "stem": ("conv1", "bn1", "act1", "maxpool"),
        "layer1": ("layer1",),
        "layer2": ("layer2",),
        "layer3": ("layer3",),
        "layer4": ("layer4", timm_pre_logits),
    },
    "RegNet": {
        "stem": ("stem",),
        "s1": ("s1",),
        "s2": ("s2",),
        "s3": ("s3",),
        "s4": ("s4", "final_conv", timm_pre_logits),
    },
    "DenseNet": {
        "stem": ("features.conv0", "features.norm0", "features.pool0"),
        "denseblock1": ("features.denseblock1", "features.transition1"),
        "denseblock2": ("features.denseblock2", "features.transition2"),
        "denseblock3": ("features.denseblock3", "features.transition3"),
        "denseblock4": ("features.denseblock4", "features.norm5", timm_pre_logits),
    },
    "EfficientNet": {
        "stem": ("conv_stem", "bn1"),
        "blocks.{0}": ("blocks.:", "conv_head", "bn2", timm_pre_logits),
    },
    "MobileNetV3": {
        "stem": ("conv_stem", "bn1"),
        "blocks.{0}": ("blocks.:",),
        "conv_head": (timm_pre_logits,),
    },
    "ConvNeXt": {"stem": ("stem",), "stages.{0}": ("stages.:", "norm_pre", timm_pre_logits)},
    "NormFreeNet": {"stem": ("stem",), "stages.{0}": ("stages.:", "final_conv", "final_act", timm_pre_logits)},
    "ByobNet": {"stem": ("stem",), "stages.{0}": ("stages.:", "final_conv", timm_pre_logits)},
    "MaxxVit": {"stem": ("stem",), "stages.{0}": ("stages.:", "norm", timm_pre_logits)},
    "MlpMixer": {"stem": ("stem",), "blocks.{0}": ("blocks.:", "norm", timm_pre_logits)},
    "SwinTransformer": {"stem": ("patch_embed",), "layers.{0}": ("layers.:", "norm", timm_pre_logits)},
    "SwinTransformerV2": {"stem": ("patch_embed",), "layers.{0}": ("layers.:", "norm", timm_pre_logits)},
    "VisionTransformer": {
        "stem": ("patch_embed", timm_positions, "patch_drop", "norm_pre"),
        "blocks.{0}": ("blocks.:", "norm", timm_pre_logits),
    },
}


def timm() -> Any:
    """Return the library. Raises BadInput when it is not installed."""
    try:
        import timm
    except ImportError as error:
        raise BadInput('timm:<name> needs the library timm: pip install "fttune[timm]"') from error
    return timm


def require_known(name: str) -> None:
    """Refuse a name that timm does not have, with the nearest ones. Raises BadInput."""
    if not timm().is_model(name.partition(".")[0]):
        raise BadInput(f"backbone.name: {one_of(name, timm().list_models())} (timm's)")


def build(name: str) -> nn.Module:
    """Return timm's architecture with random weights and its original head. Raises BadInput."""
    require_known(name)
    try:
        module: nn.Module = timm().create_model(name)
    except (RuntimeError, ValueError, TypeError) as error:  # such as an unknown pretrained tag
        raise BadInput(f"backbone.name: timm cannot build {name} ({reason(error)})") from error
    return module


def cut_by_groups(module: nn.Module, *, name: str) -> Cut:
    """Return the parts of a timm model: its coarse groups of parameters, and the classifier as head.

    Layers that timm leaves out of its groups, as the hidden layer of a classifier, make a last stage of their own;
    norms among them belong to the stage before.

    Raises:
        BadInput: it has no groups, no single linear classifier, or a tensor that no module of one stage holds.
    """
    head = _classifier(module, name)
    groups = _groups(module, head, name)
    members: dict[int, list[str]] = {group: [] for group in sorted(set(groups.values()))}
    for path, group in _owners(module, groups, head):
        members[group].append(path)
    stages = [Stage("stem" if i == 0 else paths[0], tuple(paths), ()) for i, paths in enumerate(members.values())]
    linear = isinstance(module.get_submodule(head), nn.Linear)  # what follows a convolution is not known
    steps = _steps(module, len(stages)) if linear else []
    if steps:
        stages = [Stage(s.name, s.members, run) for s, run in zip(stages, steps, strict=True)]
    parts = Cut(tuple(stages), Stage("head", (head,), (head,)), runnable=bool(steps))
    require_whole(module, parts, name=name)
    return parts


def pretrained(name: str) -> tuple[Mapping[str, Tensor], str]:
    """Return timm's pretrained tensors by the names of its module, and what they are called.

    Raises:
        BadInput: timm does not know the name.
        WeightsError: there are none, or they could not be downloaded or read.
    """
    require_known(name)
    if not timm().models.is_model_pretrained(name):
        raise WeightsError(f"timm has no pretrained weights for {name}; use none, a file or experiment:<name>")
    try:
        with torch.random.fork_rng(devices=[]):
            module = timm().create_model(name, pretrained=True)
    except (OSError, HTTPException, *DAMAGED) as error:
        raise WeightsError(
            f"timm's weights of {name} could not be downloaded or read ({reason(error)}); "
            "fetch them where there is a network, or set backbone.weights: <file>"
        ) from error
    config = module.pretrained_cfg
    return module.state_dict(), f"{PREFIX}{config['architecture']}.{config['tag']}".rstrip(".")


def preprocessing(name: str) -> Preprocessing:
    """Return what images looked like when timm's weights were made."""
    require_known(name)
    library = timm()
    config = library.data.resolve_data_config(pretrained_cfg=library.get_pretrained_cfg(name).to_dict())
    side, interpolation = config["input_size"][-1], config["interpolation"]
    return Preprocessing(
        resize=math.floor(side / config["crop_pct"]),
        crop=side,
        interpolation=interpolation if interpolation in ("bilinear", "bicubic") else "bilinear",
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )


def _classifier(module: nn.Module, name: str) -> str:
    layer = cast(Any, module).get_classifier() if hasattr(module, "get_classifier") else None
    if isinstance(layer, nn.Linear | nn.Conv2d):
        paths: dict[nn.Module, str] = {child: path for path, child in module.named_modules()}
        return paths[layer]
    raise BadInput(f"backbone {PREFIX}{name}: has no single linear classifier to replace; choose another")


def _groups(module: nn.Module, head: str, name: str) -> dict[str, int]:
    """Return parameter -> group, without the head's."""
    try:
        matcher = cast(Any, module).group_matcher(coarse=True)
        groups: dict[str, int] = timm().models.group_parameters(module, matcher, reverse=True)
    except (AttributeError, NotImplementedError, TypeError, AssertionError) as error:
        raise BadInput(
            f"backbone {PREFIX}{name}: timm has no stages for it ({reason(error)}); choose another"
        ) from error
    last = groups[f"{head}.weight"]
    groups = {path: group for path, group in groups.items() if not path.startswith(f"{head}.")}
    rest = [module.get_parameter(path) for path, group in groups.items() if group == last]
    before = max((group for group in groups.values() if group != last), default=last)
    if all(parameter.ndim < 2 for parameter in rest):
        groups = {path: before if group == last else group for path, group in groups.items()}
    return groups


def _owners(module: nn.Module, groups: Mapping[str, int], head: str) -> Iterator[tuple[str, int]]:
    """Yield the largest modules within one group each, and lone parameters; what has neither follows its neighbour."""
    last = min(groups.values())

    def visit(path: str, part: nn.Module) -> Iterator[tuple[str, int]]:
        nonlocal last
        if path == head:
            return
        own = {groups[name] for name, _ in part.named_parameters(path) if name in groups}
        if path and len(own) <= 1 and not head.startswith(f"{path}."):
            last = next(iter(own), last)
            yield path, last
            return
        for name, _ in part.named_parameters(path, recurse=False):
            yield name, groups[name]
        for name, child in part.named_children():
            yield from visit(f"{path}.{name}" if path else name, child)

    return visit("", module)


def _steps(module: nn.Module, stages: int) -> list[tuple[Step, ...]]:
    """Return the steps of each stage, or nothing where they are not known for this class or these stages."""
    rows = RUNS.get(type(module).__name__)
    if rows is None:
        return []
    try:
        found = cut(module, rows, head=()).stages
    except AttributeError:  # a variant with other submodules
        return []
    return [stage.steps for stage in found] if len(found) == stages else []
