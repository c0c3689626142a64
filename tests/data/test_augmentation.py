import pytest
import torch
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms import functional as F

from fttune.data import augment
from fttune.data.augmentation import crop_boxes


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(count: int = 6, side: int = 16) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator(9))


def test_none_returns_the_images_and_draws_nothing():
    g = generator()
    before = g.get_state()
    images = batch()
    assert augment(images, "none", image_size=16, generator=g) is images
    assert torch.equal(g.get_state(), before)


def test_flip_mirrors_about_half_of_the_images_and_leaves_the_others():
    images = batch(400, 4)
    flipped = augment(images, "flip", image_size=4, generator=generator())
    mirrored = (flipped == images.flip(-1)).flatten(1).all(1)
    kept = (flipped == images).flatten(1).all(1)
    assert (mirrored ^ kept).all()
    assert 150 < mirrored.sum() < 250


def test_standard_is_torchvisions_resized_crop_of_the_drawn_boxes_then_a_flip():
    images = batch()
    views = augment(images, "standard", image_size=12, generator=generator(3))
    g = generator(3)
    boxes = crop_boxes(len(images), 16, g)
    mirrored = torch.rand(len(images), generator=g) < 0.5
    for image, view, box, mirror in zip(images, views, boxes.tolist(), mirrored, strict=True):
        expected = F.resized_crop(image, *box, [12, 12], antialias=True)
        assert torch.equal(view, expected.flip(-1) if mirror else expected)
    assert views.dtype == torch.uint8 and views.shape == (6, 3, 12, 12)


@pytest.mark.parametrize("kind", ["flip", "standard"])
def test_only_the_given_generator_decides(kind):
    images = batch()
    first = augment(images, kind, image_size=16, generator=generator(1))
    torch.manual_seed(123)
    assert torch.equal(first, augment(images, kind, image_size=16, generator=generator(1)))
    assert not torch.equal(first, augment(images, kind, image_size=16, generator=generator(2)))


def test_boxes_lie_inside_and_keep_torchvisions_scale_and_ratio():
    top, left, height, width = crop_boxes(5000, 64, generator()).T
    assert (top >= 0).all() and (left >= 0).all() and (height > 0).all() and (width > 0).all()
    assert (top + height <= 64).all() and (left + width <= 64).all()
    ratio, area = width / height, width * height / 64**2
    assert ratio.min() > 0.7 and ratio.max() < 1.45
    assert area.min() > 0.07 and area.max() <= 1


def test_boxes_are_distributed_as_torchvisions():
    torch.manual_seed(0)
    image = torch.empty(3, 64, 64)
    expected = torch.tensor([RandomResizedCrop.get_params(image, (0.08, 1.0), (3 / 4, 4 / 3)) for _ in range(4000)])
    found = crop_boxes(4000, 64, generator())
    assert torch.allclose(found.double().mean(0), expected.double().mean(0), atol=1.0)
    assert torch.allclose(found.double().std(0), expected.double().std(0), atol=1.0)


def test_a_square_of_one_pixel_is_its_own_crop():
    assert crop_boxes(50, 1, generator()).unique(dim=0).tolist() == [[0, 0, 1, 1]]


def test_an_image_for_which_no_try_fits_is_taken_whole(monkeypatch):
    monkeypatch.setattr("fttune.data.augmentation.SCALE", (1.5, 2.0))
    assert crop_boxes(3, 8, generator()).tolist() == [[0, 0, 8, 8]] * 3


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="augment is 'cutout', but must be none, flip or standard"):
        augment(batch(), "cutout", image_size=16, generator=generator())
