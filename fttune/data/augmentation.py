"""Random views of training images, on any device. All randomness comes from the generator that is passed in."""

import math

import torch
from torchvision.transforms import functional as F

SCALE = (0.08, 1.0)
RATIO = (3 / 4, 4 / 3)
_TRIES = 10


def augment(images: torch.Tensor, kind: str, *, image_size: int, generator: torch.Generator) -> torch.Tensor:
    """Return `images` (B, 3, H, W) uint8 as (B, 3, image_size, image_size) uint8.

    `none` returns them as they are and `flip` mirrors each with probability 1/2: both expect H = W = image_size.
    `standard` expects squares, and cuts and resizes as torchvision's `RandomResizedCrop` before the flip.
    Each image has its own draws.
    """
    if kind == "none":
        return images
    if kind == "standard":
        images = _random_resized_crop(images, image_size, generator)
    elif kind != "flip":
        raise ValueError(f"augment is {kind!r}, but must be none, flip or standard")
    return _flip(images, generator)


def crop_boxes(count: int, side: int, generator: torch.Generator) -> torch.Tensor:
    """Return (count, 4) int64 boxes (top, left, height, width) in a square, drawn as `RandomResizedCrop.get_params`.

    Of ten tries per image the first that fits counts; if none does, the box is the whole square.
    """
    draws = torch.rand(count, _TRIES, 2, generator=generator, device=generator.device)
    area = side**2 * (SCALE[0] + (SCALE[1] - SCALE[0]) * draws[..., 0])  # (count, tries)
    low, high = (math.log(ratio) for ratio in RATIO)
    ratio = torch.exp(low + (high - low) * draws[..., 1])
    sizes = torch.stack([(area / ratio).sqrt(), (area * ratio).sqrt()], dim=-1).round().long()  # height, width
    fits = ((sizes > 0) & (sizes <= side)).all(dim=-1)
    first = fits.int().argmax(dim=1)
    size = sizes[torch.arange(count, device=sizes.device), first]  # (count, 2)
    size = torch.where(fits.any(dim=1, keepdim=True), size, side)
    room = torch.rand(count, 2, generator=generator, device=generator.device)
    corner = (room * (side - size + 1)).long()
    return torch.cat([corner, size], dim=1)


def _random_resized_crop(images: torch.Tensor, image_size: int, generator: torch.Generator) -> torch.Tensor:
    boxes = crop_boxes(len(images), images.shape[-1], generator).tolist()
    views = [
        F.resized_crop(image, *box, [image_size, image_size], antialias=True)
        for image, box in zip(images, boxes, strict=True)
    ]
    return torch.stack(views)


def _flip(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    mirrored = torch.rand(len(images), generator=generator, device=generator.device) < 0.5
    return torch.where(mirrored.to(images.device, non_blocking=True)[:, None, None, None], images.flip(-1), images)
