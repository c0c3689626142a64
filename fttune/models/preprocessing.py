"""What images looked like when weights were made."""

from dataclasses import dataclass

import torch
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """What images looked like when the weights were made; sizes in pixels, `mean` and `std` of values in 0..1."""

    resize: int = 256
    crop: int = 224
    interpolation: str = "bilinear"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def normalised(self, images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return images (B, 3, H, W) uint8 as `dtype`, shifted and scaled."""
        # A tensor that is made on the device would wait for it.
        constants = (torch.tensor(c, dtype=dtype).view(1, 3, 1, 1) for c in (self.mean, self.std))
        mean, std = (c.to(images.device, non_blocking=True) for c in constants)
        return images.to(dtype).div_(255).sub_(mean).div_(std)

    def resize_for(self, image_size: int) -> int:
        """Return the shorter side before a crop to `image_size`, in the weights' own proportion."""
        return max(image_size, round(image_size * self.resize / self.crop))
