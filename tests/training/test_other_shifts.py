"""Metrics under other shifts: those of the same weights on shifted images by hand, and no influence on the run."""

import dataclasses
import math

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn
from torchvision.transforms import functional as F

from fttune.config.data import Shift
from fttune.data import Part
from fttune.data.shift import shift_images
from fttune.models.cifar_resnet import CifarResNet8
from fttune.training import CheckpointFolder, fine_tune
from fttune.training import metrics as metrics_module

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
DURATIONS = ("epoch_seconds", "step_seconds")


def with_ood(inputs):
    val = inputs.data.val
    images = shift_images(val.images, Shift(contrast=0.4))
    return dataclasses.replace(
        inputs, data=dataclasses.replace(inputs.data, also={"ood": Part(images, val.labels, val.names, "ood")})
    )


def deterministic(ended) -> dict[str, float]:
    return {name: value for name, value in ended.metrics.items() if name not in DURATIONS}


def test_metrics_under_a_shift_are_those_of_the_same_weights_on_shifted_images(make_inputs, make_recipe, tmp_path):
    inputs = make_inputs()
    result = fine_tune(make_recipe(), with_ood(inputs), checkpoints=CheckpointFolder(tmp_path))
    net = CifarResNet8()
    net.fc = nn.Linear(64, 3)
    net.load_state_dict(load_file(tmp_path / "best.safetensors"))
    net.eval()
    pixels = inputs.data.val.images.astype(float)
    mean = pixels.mean((1, 2), keepdims=True)
    shifted = torch.from_numpy(np.rint((pixels - mean) * 0.4 + mean)).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        logits = net(F.normalize(shifted, MEAN, STD))
    labels, metrics = inputs.data.val.labels, result.epochs[result.best_epoch - 1].metrics
    assert abs(metrics["ood/loss"] - nn.functional.cross_entropy(logits, labels).item()) < 1e-4
    assert abs(metrics["ood/accuracy"] - (logits.argmax(1) == labels).double().mean().item()) < 1e-9
    names = {name.removeprefix("val/") for name in metrics if name.startswith("val/")}
    assert {name.removeprefix("ood/") for name in metrics if name.startswith("ood/")} == names


def test_other_shifts_change_nothing_else_of_a_run(make_inputs, make_recipe):
    plain, beside = (fine_tune(make_recipe(), inputs) for inputs in (make_inputs(), with_ood(make_inputs())))
    assert plain.step_losses == beside.step_losses
    assert (plain.best_epoch, plain.value) == (beside.best_epoch, beside.value)
    for one, other in zip(plain.epochs, beside.epochs, strict=True):
        assert deterministic(one) == {k: v for k, v in deterministic(other).items() if not k.startswith("ood/")}


def test_a_metric_under_another_shift_that_is_not_finite_is_left_out_and_ends_no_run(
    make_inputs, make_recipe, monkeypatch
):
    plain = metrics_module.classification_metrics

    def overflowing(logits, labels, *, prefix):
        metrics = plain(logits, labels, prefix=prefix)
        return {**metrics, "ood/loss": math.inf} if prefix == "ood" else metrics

    monkeypatch.setattr(metrics_module, "classification_metrics", overflowing)
    result = fine_tune(make_recipe(), with_ood(make_inputs()))
    assert result.state == "complete"
    assert all("ood/loss" not in ended.metrics and "ood/accuracy" in ended.metrics for ended in result.epochs)
