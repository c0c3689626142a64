"""A small residual net for images of 8 to 32 pixels: ResNet of depth 6n + 2 with n = 1, which is ResNet-8.

He et al., "Deep Residual Learning for Image Recognition" (arXiv 1512.03385), section 4.2, with torchvision's
basic block and projection shortcuts. Names of its submodules follow torchvision's ResNet.
"""

import torch
from torch import nn
from torchvision.models.resnet import BasicBlock


class CifarResNet8(nn.Module):
    """Map images (B, 3, H, W) to logits (B, classes); 78 k parameters, three stages of 16, 32 and 64 channels."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, kernel_size=3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _block(16, 16, stride=1)
        self.layer2 = _block(16, 32, stride=2)
        self.layer3 = _block(32, 64, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.bn1(self.conv1(images)))  # (B, 16, H, W)
        x = self.layer3(self.layer2(self.layer1(x)))  # (B, 64, H/4, W/4)
        logits: torch.Tensor = self.fc(torch.flatten(self.avgpool(x), 1))
        return logits


def cifar_resnet8() -> CifarResNet8:
    """Return a new net with random weights."""
    return CifarResNet8()


def _block(inputs: int, outputs: int, *, stride: int) -> BasicBlock:
    if stride == 1 and inputs == outputs:
        return BasicBlock(inputs, outputs)
    shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
    return BasicBlock(inputs, outputs, stride, shortcut)
