"""What models do between their submodules, as small pure functions that a table can name.

A step is the dotted path of a submodule, or one of these functions: each takes the whole module and the activations
so far, and returns the next ones. None of them changes its input.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Step = str | Callable[[nn.Module, Tensor], Tensor]


def flatten(_: nn.Module, x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C * H * W)."""
    return torch.flatten(x, 1)


def mean_hw(_: nn.Module, x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C)."""
    return x.mean([2, 3])


def pool_hw(_: nn.Module, x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, 1, 1)."""
    return F.adaptive_avg_pool2d(x, (1, 1))


def relu(_: nn.Module, x: Tensor) -> Tensor:
    """Rectify."""
    return F.relu(x)


def vit_tokens(module: nn.Module, x: Tensor) -> Tensor:
    """torchvision's ViT: patches (B, D, h, w) -> tokens (B, 1 + h * w, D) with the class token and positions."""
    patches = x.flatten(2).permute(0, 2, 1)  # (B, h * w, D)
    class_token: Tensor = module.get_parameter("class_token").expand(len(x), -1, -1)
    return torch.cat([class_token, patches], dim=1) + module.get_parameter("encoder.pos_embedding")


def first_token(_: nn.Module, x: Tensor) -> Tensor:
    """(B, tokens, D) -> (B, D)."""
    return x[:, 0]


def timm_positions(module: nn.Module, x: Tensor) -> Tensor:
    """timm's ViT: patches to tokens with positions, its position dropout included."""
    tokens: Tensor = module._pos_embed(x)  # type: ignore[operator]
    return tokens


def timm_pre_logits(module: nn.Module, x: Tensor) -> Tensor:
    """timm: all that stands between the last features and the classifier."""
    features: Tensor = module.forward_head(x, pre_logits=True)  # type: ignore[operator]
    return features
