"""Selections of single parameters, against the names that torchvision's ResNet is known to have."""

import pytest
import torch
import torchvision

from fttune.config.freeze import Freeze
from fttune.errors import PolicyRefused
from fttune.freezing import apply_policy


def parts():
    with torch.device("meta"):
        net = torchvision.models.resnet18(num_classes=2)
    stages = {"stem": ("conv1", "bn1"), **{f"layer{i}": (f"layer{i}",) for i in range(1, 5)}, "head": ("fc",)}
    return net, {name: {path: net.get_submodule(path) for path in paths} for name, paths in stages.items()}


def trained(**freeze):
    net, of = parts()
    freezing = apply_policy(of, Freeze.model_validate(freeze))
    names = {name for name, parameter in net.named_parameters() if parameter.requires_grad}
    assert names == freezing.names
    return names, freezing


def test_params_norm_are_the_weights_and_biases_of_norm_layers():
    names, freezing = trained(train={"params": "norm"})
    assert names == {
        n for n, _ in parts()[0].named_parameters() if ".bn" in n or n.startswith("bn1") or "downsample.1" in n
    } | {
        "fc.weight",
        "fc.bias",
    }
    assert freezing.trained == ("stem", "layer1", "layer2", "layer3", "layer4", "head")


def test_params_bias_are_all_biases_and_the_head():
    names, _ = trained(train={"params": "bias"})
    assert names == {n for n, _ in parts()[0].named_parameters() if n.endswith(".bias")} | {"fc.weight"}


def test_a_regex_is_searched_in_dotted_names_and_opens_only_the_parts_that_it_fits():
    names, freezing = trained(train={"regex": r"layer[12]\..*conv2"}, head={"frozen": True})
    assert names == {f"layer{i}.{j}.conv2.weight" for i in (1, 2) for j in (0, 1)}
    assert freezing.trained == ("layer1", "layer2")


def test_a_choice_that_fits_nothing_is_refused():
    with pytest.raises(
        PolicyRefused, match=r"freeze.train.regex: 'layer9' fits no parameter of the stages, such as conv1"
    ):
        trained(train={"regex": "layer9"})
    head = {"head": {"1": torch.nn.Linear(2, 2)}, "body": {"0": torch.nn.Linear(2, 2)}}
    with pytest.raises(PolicyRefused, match=r"freeze.train.params: 'norm' fits no parameter"):
        apply_policy({"body": head["body"], "head": head["head"]}, Freeze.model_validate({"train": {"params": "norm"}}))


def test_a_frozen_head_stays_in_evaluation_mode():
    net, of = parts()
    freezing = apply_policy(of, Freeze.model_validate({"train": {"first": 1}, "head": {"frozen": True}}))
    net.train()
    freezing.train_mode()
    assert (net.conv1.training, net.layer4.training, net.fc.training) == (True, False, False)
