"""The features of a recipe are what its head would see, of images spread evenly over the training split."""

import pytest
import torch

from fttune.errors import OutOfMemory
from fttune.models.cifar_resnet import cifar_resnet8
from fttune.training import features, features_of


@pytest.mark.parametrize(("images", "rows"), [(22, range(22)), (127, range(0, 127, 2))])
def test_features_are_what_the_head_of_the_plain_model_sees(make_recipe, make_inputs, images, rows):
    inputs = make_inputs(train=[i % 3 for i in range(images)])
    found = features_of(make_recipe(freeze__unfrozen_stages=0), inputs)
    seen = []
    torch.manual_seed(0)
    model = cifar_resnet8().eval()
    model.fc.register_forward_pre_hook(lambda _, args: seen.append(args[0].double()))
    pixels = torch.from_numpy(inputs.data.train.images[list(rows)]).permute(0, 3, 1, 2)
    with torch.no_grad():
        model(inputs.normalise(pixels).contiguous())
    assert found.mean == pytest.approx(float(seen[0].mean()), rel=1e-5)
    assert found.scale == pytest.approx(float(((seen[0] - seen[0].mean()) ** 2).mean().sqrt()), rel=1e-5)


def test_features_that_do_not_fit_into_memory_are_not_known(make_recipe, make_inputs, monkeypatch):
    def fails(*_):
        raise OutOfMemory("none left")

    monkeypatch.setattr(features, "_measured", fails)
    assert features_of(make_recipe(), make_inputs()) is None
