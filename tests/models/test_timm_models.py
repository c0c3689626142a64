import builtins
from functools import partial

import pytest
import timm
import torch
from timm.data import create_transform

from fttune.config.sections import Backbone as Config
from fttune.errors import BadInput, WeightsError
from fttune.models import Weights, build_backbone, find_architecture, load_weights
from tests.models import properties
from tests.models.properties import CLASSES, sketched

ALWAYS = ("vit_tiny_patch16_224", "mobilenetv3_small_050")
RUNNABLE = {  # name -> the smallest side that it takes
    "vit_tiny_patch16_224": 224,
    "mobilenetv3_small_050": 32,
    "resnet10t": 32,
    "efficientnet_lite0": 32,
    "convnext_atto": 32,
    "swin_tiny_patch4_window7_224": 224,
    "swinv2_tiny_window8_256": 256,
    "densenet121": 32,
    "regnetx_002": 32,
    "mixer_s32_224": 224,
    "nfnet_f0": 32,
    "repvgg_a0": 32,
    "maxvit_rmlp_pico_rw_256": 256,
    "mobilevit_xxs": 64,
}
WHOLE_ONLY = {
    "cait_xxs24_224": 224,
    "beit_base_patch16_224": 224,
    "edgenext_xx_small": 64,
    "pvt_v2_b0": 64,
    "vgg11": 64,
}


def slow_unless_chosen(names):
    return [name if name in ALWAYS else pytest.param(name, marks=pytest.mark.slow) for name in names]


def built(name):
    return build_backbone(f"timm:{name}", Weights(None, "none"), classes=CLASSES, seed=0)


@pytest.mark.parametrize("name", slow_unless_chosen(RUNNABLE))
def test_a_timm_model_has_the_properties_of_every_backbone(name):
    backbone, side = built(name), RUNNABLE[name]
    properties.check_ownership(backbone.module, backbone)
    properties.check_depths(backbone)
    assert backbone.runnable
    properties.check_stages_in_order(backbone, side)
    properties.check_new_head(backbone, side)
    for depth in (0, len(backbone.cut.stages) // 2, len(backbone.cut.stages)):
        properties.check_two_steps(backbone, side, depth=depth)


@pytest.mark.slow
@pytest.mark.parametrize("name", WHOLE_ONLY)
def test_a_timm_model_that_cannot_run_by_stages_says_so_and_trains_as_the_others(name):
    backbone, side = built(name), WHOLE_ONLY[name]
    assert not backbone.runnable
    with pytest.raises(ValueError, match=f"timm:{name} cannot be run stage by stage"):
        backbone.run_stage("stem", properties.images(side))
    properties.check_ownership(backbone.module, backbone)
    properties.check_depths(backbone)
    properties.check_new_head(backbone, side)
    for depth in (0, len(backbone.cut.stages) // 2, len(backbone.cut.stages)):
        properties.check_two_steps(backbone, side, depth=depth)


@pytest.mark.parametrize("name", ["resnet10t", "vit_tiny_patch16_224", "convnext_atto"])
def test_stages_are_timms_own_coarse_groups_with_final_norms_in_the_last(name):
    backbone = sketched(find_architecture(f"timm:{name}"))
    groups = timm.models.group_parameters(backbone.module, backbone.module.group_matcher(coarse=True))
    head = backbone.cut.head_path
    found = [
        [
            n
            for path, p in part.items()
            for n, _ in properties.tensors(p, path)
            if "running" not in n and "num_b" not in n
        ]
        for part in list(backbone.parts().values())[:-1]
    ]
    kept = [[n for n in groups[key] if not n.startswith(f"{head}.")] for key in sorted(groups)]
    assert {n for group in found for n in group} == {n for group in kept for n in group}
    for group in kept[: len(found)]:
        assert any(set(group) <= set(stage) for stage in found)


def test_an_unknown_timm_name_gets_the_nearest_ones():
    with pytest.raises(BadInput, match=r"backbone\.name: unknown name 'resnet5O'; nearest: resnet50"):
        find_architecture("timm:resnet5O")


def test_an_unknown_pretrained_tag_is_refused():
    with pytest.raises(BadInput, match=r"timm cannot build resnet50\.nonsense"):
        find_architecture("timm:resnet50.nonsense").stages()


@pytest.mark.parametrize("name", ["deit_tiny_distilled_patch16_224", "levit_128s"])
def test_a_timm_model_with_two_classifiers_is_refused(name):
    with pytest.raises(BadInput, match="has no single linear classifier to replace"):
        find_architecture(f"timm:{name}").stages()


def test_without_timm_one_message_names_what_to_install(monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name == "timm":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(BadInput, match=r'timm:<name> needs the library timm: pip install "fttune\[timm\]"'):
        find_architecture("timm:resnet50")


def test_default_weights_are_timms_pretrained_with_its_data_config(tmp_path, monkeypatch):
    torch.manual_seed(3)
    state = timm.create_model("resnet10t").state_dict()
    torch.save(state, tmp_path / "resnet10t.pth")
    overlay = {"file": str(tmp_path / "resnet10t.pth"), "hf_hub_id": None, "url": ""}
    monkeypatch.setattr(timm, "create_model", partial(timm.create_model, pretrained_cfg_overlay=overlay))
    weights = load_weights(Config(name="timm:resnet10t", weights="DEFAULT"), root=tmp_path)
    assert weights.state.keys() == state.keys()
    assert all(torch.equal(weights.state[key], state[key]) for key in state)
    assert weights.identity.startswith("timm:resnet10t.")
    config = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg("resnet10t").to_dict())
    resize, crop, *_ = create_transform(**config).transforms
    own = weights.preprocessing
    assert (own.resize, own.crop, own.interpolation) == (resize.size, crop.size[0], resize.interpolation.value)
    assert (own.mean, own.std) == (config["mean"], config["std"])
    backbone = build_backbone("timm:resnet10t", weights, classes=CLASSES, seed=0)
    assert torch.equal(backbone.module.state_dict()["layer1.0.conv1.weight"], state["layer1.0.conv1.weight"])
    assert backbone.head_is_new


def test_a_timm_download_that_fails_names_the_way_out(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise FileNotFoundError("no network")

    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(WeightsError, match=r"timm's weights of resnet10t could not be .*no network.*<file>"):
        load_weights(Config(name="timm:resnet10t", weights="DEFAULT"), root=tmp_path)


def test_a_timm_model_without_pretrained_weights_says_so(tmp_path):
    name = next(n for n in timm.list_models() if not timm.models.is_model_pretrained(n))
    with pytest.raises(WeightsError, match=f"timm has no pretrained weights for {name}"):
        load_weights(Config(name=f"timm:{name}", weights="DEFAULT"), root=tmp_path)
