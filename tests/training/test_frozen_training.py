"""What a whole run changes in the weights it started from."""

import pytest
import torch
from safetensors.torch import load_file

from fttune.models import Weights, build_backbone
from fttune.models.cifar_resnet import CifarResNet8
from fttune.training import CheckpointFolder, fine_tune

OPTIMIZERS = {
    "sgd": {"optimizer__momentum": 0.9, "optimizer__weight_decay": 0.1},
    "adamw": {"optimizer__name": "adamw", "optimizer__lr": 0.01, "optimizer__weight_decay": 0.1},
}
TRAINED = {
    0: ("fc.",),
    1: ("fc.", "layer3."),
    3: ("fc.", "layer3.", "layer2.", "layer1."),
    "all": ("fc.", "layer", "conv1.", "bn1."),
}


@pytest.fixture
def source() -> dict[str, torch.Tensor]:
    """Weights of a net that has seen images: no statistic is at its initial value."""
    torch.manual_seed(3)
    net = CifarResNet8(3).train()
    for _ in range(3):
        net(torch.randn(16, 3, 8, 8))
    return net.state_dict()


@pytest.fixture
def changed(tmp_path, source, make_inputs, make_recipe):
    """Train a recipe from `source` and return the names of tensors of which a byte has changed."""

    def run(**fields) -> set[str]:
        inputs = make_inputs(weights=Weights({name: t.clone() for name, t in source.items()}, "file"))
        fine_tune(make_recipe(**fields), inputs, checkpoints=CheckpointFolder(tmp_path / "files", keep_last=True))
        last = load_file(tmp_path / "files" / "last.safetensors")
        assert last.keys() == source.keys()
        return {name for name in source if last[name].numpy().tobytes() != source[name].numpy().tobytes()}

    return run


def statistics(names) -> set[str]:
    return {name for name in names if "running_" in name or "num_batches_tracked" in name}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("depth", TRAINED)
def test_frozen_parameters_and_buffers_are_byte_identical_with_momentum_and_weight_decay(
    depth, optimizer, changed, source
):
    names = changed(freeze__unfrozen_stages=depth, **OPTIMIZERS[optimizer])
    assert names == {name for name in source if name.startswith(TRAINED[depth])}


def test_clipping_and_class_weights_do_not_reach_frozen_parts(changed):
    names = changed(
        freeze__unfrozen_stages=0,
        optimizer__clip_grad_norm=0.1,
        optimizer__weight_decay=0.1,
        training__class_weights="balanced",
        training__label_smoothing=0.1,
        data__augment="standard",
    )
    assert names == {"fc.weight", "fc.bias"}


@pytest.mark.parametrize("depth", TRAINED)
def test_all_frozen_moves_no_running_statistic(depth, changed, source):
    names = changed(freeze__unfrozen_stages=depth, freeze__norm_stats="all_frozen", **OPTIMIZERS["sgd"])
    assert names == {name for name in source if name.startswith(TRAINED[depth])} - statistics(source)


def test_updated_moves_every_running_statistic_and_no_frozen_parameter(changed, source):
    names = changed(freeze__unfrozen_stages=0, freeze__norm_stats="updated", **OPTIMIZERS["sgd"])
    assert names == {"fc.weight", "fc.bias"} | statistics(source)


def test_norms_of_a_frozen_run_use_the_statistics_of_the_weights(source, make_inputs, make_recipe):
    """The first loss of a linear probe is that of the whole net in evaluation mode."""
    inputs = make_inputs(weights=Weights(source, "file"))
    result = fine_tune(make_recipe(freeze__unfrozen_stages=0, training__batch_size=22), inputs)
    net = build_backbone("cifar_resnet8", inputs.weights, classes=inputs.data.classes, seed=0).module.eval()
    images = torch.from_numpy(inputs.data.train.images).permute(0, 3, 1, 2)
    logits = net(inputs.normalise(images))
    loss = torch.nn.functional.cross_entropy(logits, inputs.data.train.labels)
    assert result.step_losses[0] == pytest.approx(loss.item(), abs=1e-5)
