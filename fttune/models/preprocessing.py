"""What images looked like when weights were made."""

from dataclasses import dataclass

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

    def resize_for(self, image_size: int) -> int:
        """Return the shorter side before a crop to `image_size`, in the weights' own proportion."""
        return max(image_size, round(image_size * self.resize / self.crop))
