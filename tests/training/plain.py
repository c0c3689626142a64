"""What any tutorial would write out: normalised images, and the small net with a new head."""

import torch
from torch import nn

from fttune.models.cifar_resnet import CifarResNet8

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


def tensors(part) -> torch.Tensor:
    """The images as torchvision's ToTensor and Normalize make them, (N, 3, H, W)."""
    images = torch.from_numpy(part.images).permute(0, 3, 1, 2).contiguous()
    return (images.float() / 255 - MEAN[:, None, None]) / STD[:, None, None]


def small_net(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    net = CifarResNet8()
    torch.manual_seed(seed)
    net.fc = nn.Linear(64, 3)
    return net
