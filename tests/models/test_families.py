import runpy
from importlib import resources

import pytest
import torch
from torch import nn

from fttune.models import FAMILIES, Backbone
from fttune.models.cifar_resnet import CifarResNet8
from fttune.models.families import BY_NAME, build_module

LARGE = {"resnet152", "resnext101_32x8d", "resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2"}
MEMBERS = sorted(BY_NAME)
BUILT = [pytest.param(name, marks=pytest.mark.slow) if name in LARGE else name for name in MEMBERS]


def backbone_on_meta(name: str) -> Backbone:
    """The architecture without storage: shapes and names only, in milliseconds."""
    with torch.device("meta"):
        module = build_module(name)
    return Backbone(module, BY_NAME[name].stages, BY_NAME[name].head, head_is_new=True)


def test_the_generated_file_of_backbones_is_what_python_m_fttune_models_prints(capsys):
    runpy.run_module("fttune.models", run_name="__main__")
    stored = resources.files("fttune.config").joinpath("backbones.json").read_text(encoding="utf-8")
    assert capsys.readouterr().out == stored


def test_every_resnet_of_torchvision_and_the_small_net_are_members():
    resnets = {"resnet18", "resnet34", "resnet50", "resnet101", "resnet152"}
    relatives = {"resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2"}
    assert set(MEMBERS) == resnets | relatives | {"cifar_resnet8"}
    assert sum(len(family.members) for family in FAMILIES) == len(MEMBERS), "no name stands twice"


def test_the_slow_members_are_those_of_more_than_60_million_parameters():
    sizes = {name: sum(p.numel() for p in backbone_on_meta(name).module.parameters()) for name in MEMBERS}
    assert {name for name, size in sizes.items() if size > 60e6} == LARGE


@pytest.mark.parametrize("name", MEMBERS)
def test_every_parameter_and_buffer_belongs_to_exactly_one_part(name):
    backbone = backbone_on_meta(name)
    tensors = [*backbone.module.parameters(), *backbone.module.buffers()]
    modules = [module for part in backbone.parts().values() for module in part.values()]
    owned = [t for module in modules for t in (*module.parameters(), *module.buffers())]
    assert sorted(map(id, owned)) == sorted(map(id, tensors))


@pytest.mark.parametrize("name", MEMBERS)
def test_the_head_is_the_last_linear_alone_and_stands_last(name):
    backbone = backbone_on_meta(name)
    *stages, head = backbone.parts().items()
    linears = [module for module in backbone.module.modules() if isinstance(module, nn.Linear)]
    assert head == ("head", {backbone.head: linears[0]}) and len(linears) == 1
    assert [stage for stage, _ in stages] == [stage.name for stage in backbone.stages]


@pytest.mark.parametrize("name", BUILT)
def test_the_stages_in_order_compute_what_the_module_computes(name):
    module = build_module(name).eval()
    backbone = Backbone(module, BY_NAME[name].stages, BY_NAME[name].head, head_is_new=True)
    *stages, head = backbone.parts().values()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        x = images
        for stage in stages:
            for part in stage.values():
                x = part(x)
        logits = next(iter(head.values()))(x.flatten(1))
        assert logits.isfinite().all()
        assert torch.equal(logits, module(images))


def test_the_small_net_is_resnet_8_of_the_paper_with_projections():
    """Weight layers: the first convolution, three blocks of two, the head; each widening block projects by 1x1."""
    net = CifarResNet8()
    convolutions = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    assert sum(c.kernel_size == (3, 3) for c in convolutions) + 1 == 8
    assert sum(c.kernel_size == (1, 1) for c in convolutions) == 2
    k3 = 9 * (3 * 16 + 2 * 16 * 16 + 16 * 32 + 32 * 32 + 32 * 64 + 64 * 64)
    k1, norms, head = 16 * 32 + 32 * 64, 2 * (3 * 16 + 3 * 32 + 3 * 64), 64 * 10 + 10
    assert sum(p.numel() for p in net.parameters()) == k3 + k1 + norms + head


@pytest.mark.parametrize("side", [8, 9, 16, 32])
def test_the_small_net_takes_images_of_8_to_32_pixels(side):
    assert CifarResNet8(5)(torch.zeros(2, 3, side, side)).shape == (2, 5)
