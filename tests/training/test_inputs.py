import numpy as np
import pytest
import torch
from torchvision import transforms

from fttune.config.workspace import Workspace
from fttune.errors import WeightsError
from fttune.models import Preprocessing, Weights
from fttune.training import prepare
from fttune.training.inputs import geometry_of

OWN = Preprocessing(resize=232, crop=224, interpolation="bicubic", mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))


def test_images_are_normalised_bit_for_bit_as_torchvision_does(make_inputs):
    inputs = make_inputs(weights=Weights(None, "none", preprocessing=OWN))
    pixels = inputs.data.train.images
    images, labels = inputs.batch(inputs.data.train, torch.tensor([4, 0, 9]), torch.device("cpu"))
    plain = transforms.Compose([transforms.ToTensor(), transforms.Normalize(OWN.mean, OWN.std)])
    expected = torch.stack([plain(np.ascontiguousarray(pixels[row])) for row in (4, 0, 9)])
    assert torch.equal(inputs.normalise(images), expected)
    assert images.dtype is torch.uint8
    assert labels.tolist() == [4 % 3, 0, 0]


def test_normalising_leaves_the_stored_images_alone(make_inputs):
    inputs = make_inputs()
    before = inputs.data.train.images.copy()
    images, _ = inputs.batch(inputs.data.train, torch.arange(5), torch.device("cpu"))
    inputs.normalise(images).zero_()
    images.zero_()
    assert np.array_equal(inputs.data.train.images, before)


@pytest.mark.parametrize(
    ("image_size", "resize", "expected"), [(224, None, 232), (112, None, 116), (224, 256, 256), (32, 32, 32)]
)
def test_geometry_is_the_recipes_own_or_else_the_weights(image_size, resize, expected, make_recipe):
    recipe = make_recipe(data__image_size=image_size, data__resize=resize)
    geometry = geometry_of(recipe, Weights(None, "none", preprocessing=OWN))
    assert (geometry.resize, geometry.image_size, geometry.interpolation) == (expected, image_size, "bicubic")


def test_prepare_reads_real_digits_and_weights_of_a_file(tmp_path, make_recipe):
    torch.save({"a": torch.ones(1)}, tmp_path / "w.pth")
    recipe = make_recipe(data__classes=[3, 8], backbone__weights="w.pth")
    inputs = prepare(recipe, Workspace.at(tmp_path))
    assert inputs.data.classes == ("3", "8")
    assert inputs.data.train.images.shape[1:] == (8, 8, 3)
    assert inputs.weights.identity.startswith("sha256:")
    assert not (tmp_path / "mlruns" / "mlflow.db").exists()


def test_prepare_needs_the_file_of_an_experiment(tmp_path, make_recipe):
    recipe = make_recipe(backbone__weights="experiment:source")
    with pytest.raises(WeightsError, match="experiment:source has not been resolved to a file"):
        prepare(recipe, Workspace.at(tmp_path))
