"""LoRA: the base model at the start, the adapted model after merging."""

import copy

import pytest
import torch
import torchvision
from torch import nn

from fttune.config.freeze import Freeze, Lora
from fttune.freezing import apply_policy, insert_lora, merged_state
from fttune.models.cifar_resnet import CifarResNet8

LORA = Lora(rank=3, alpha=6.0)


def vit() -> nn.Module:
    """The smallest ViT that torchvision's class makes: attention, linear and conv layers."""
    return torchvision.models.VisionTransformer(
        image_size=8, patch_size=4, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=16, num_classes=3
    )


def adapted(net: nn.Module) -> nn.Module:
    insert_lora([net], LORA, seed=0)
    return net


def shaken(net: nn.Module) -> nn.Module:
    """The net after its adapters have learned something."""
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.endswith(".up"):
                parameter.normal_(std=0.1)
    return net


@pytest.mark.parametrize("make", [lambda: CifarResNet8(3), vit], ids=["convolutions", "attention"])
def test_an_adapted_model_begins_as_the_base_model_and_merges_into_what_it_became(make):
    torch.manual_seed(0)
    base = make().eval()
    net = adapted(copy.deepcopy(base)).eval()
    images = torch.randn(4, 3, 8, 8)
    assert torch.equal(net(images), base(images))
    shaken(net)
    assert not torch.allclose(net(images), base(images), atol=1e-3)
    merged = make()
    merged.load_state_dict(merged_state(net))
    assert torch.allclose(merged.eval()(images), net(images), atol=1e-5)


def test_the_merged_weight_is_the_papers_formula():
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, 3, groups=2)
    base = conv.weight.detach().clone()
    shaken(adapted(nn.Sequential(conv)))
    factors = conv.parametrizations.weight[0]
    expected = base + 6.0 / 3 * (factors.up @ factors.down).reshape(6, 2, 3, 3)
    assert torch.allclose(merged_state(nn.Sequential(conv))["0.weight"], expected)


def test_a_model_without_adapters_is_its_own_merged_state():
    net = CifarResNet8(3)
    state = merged_state(net)
    assert state.keys() == net.state_dict().keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in net.state_dict().items())


def test_only_the_factors_in_open_stages_and_the_head_train():
    net = CifarResNet8(3)
    parts = {"body": {"layer1": net.layer1}, "last": {"layer2": net.layer2}, "head": {"fc": net.fc}}
    insert_lora([net.layer1, net.layer2], LORA, seed=0)
    freezing = apply_policy(parts, Freeze.model_validate({"unfrozen_stages": 1, "adapter": {"lora": {}}}))
    trained = {
        name for name, parameter in net.named_parameters() if parameter.requires_grad and "conv1." not in name[:6]
    }
    factors = {
        name for name, _ in net.named_parameters() if name.startswith("layer2") and name.endswith(("up", "down"))
    }
    assert len(factors) == 2 * 3  # two convolutions and the shortcut
    assert freezing.names == factors | {"fc.weight", "fc.bias"}
    assert freezing.names <= trained


def test_the_seed_draws_the_factors():
    first, again, other = (CifarResNet8(3) for _ in range(3))
    insert_lora([first], LORA, seed=1)
    insert_lora([again], LORA, seed=1)
    insert_lora([other], LORA, seed=2)
    downs = [net.layer1.conv1.parametrizations.weight[0].down for net in (first, again, other)]
    assert torch.equal(downs[0], downs[1])
    assert not torch.equal(downs[0], downs[2])
