import runpy
from fnmatch import fnmatchcase
from importlib import resources

import pytest
import torch
import torchvision
from torch import nn

from fttune.config import known
from fttune.errors import BadInput
from fttune.models import FAMILIES, Backbone, Weights, build_backbone, find_architecture
from fttune.models.cifar_resnet import CifarResNet8
from fttune.models.families import BY_NAME
from tests.models import properties
from tests.models.properties import CLASSES, sketched

TORCHVISION = torchvision.models.list_models(module=torchvision.models)
MEMBERS = sorted(BY_NAME)
NONE = Weights(None, "none")
ONE_OF_EACH_FAMILY = (
    "cifar_resnet8",
    "resnet18",
    "alexnet",
    "vgg11",
    "squeezenet1_1",
    "densenet121",
    "googlenet",
    "inception_v3",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "mnasnet0_5",
    "shufflenet_v2_x0_5",
    "efficientnet_b0",
    "regnet_y_400mf",
    "convnext_tiny",
    "vit_b_32",
    "swin_t",
    "maxvit_t",
)
HUGE = ("regnet_y_128gf", "vit_h_14", "vit_l_16", "vit_l_32")  # more than 200 million parameters
SECONDS_EACH = ("vgg11", "maxvit_t", "vit_b_32", "inception_v3")
SMALLEST_SIDE = {"vit_*": 224, "maxvit_*": 224, "inception_v3": 75, "alexnet": 63}  # pixels; else 32
SMALLEST_SIDE_IN_TRAINING = {**SMALLEST_SIDE, "inception_v3": 299}  # for its auxiliary head


def side_of(name: str, sides: dict[str, int]) -> int:
    return next((side for pattern, side in sides.items() if fnmatchcase(name, pattern)), 32)


def slow_unless_chosen(names):
    return [name if name in ONE_OF_EACH_FAMILY else pytest.param(name, marks=pytest.mark.slow) for name in names]


def _runs_always(name: str, depth: str) -> bool:
    return name in ONE_OF_EACH_FAMILY and (depth == "middle" or name not in SECONDS_EACH)


@pytest.fixture(scope="module")
def built(request) -> Backbone:
    return build_backbone(request.param, NONE, classes=CLASSES, seed=0)


every_build = pytest.mark.parametrize(
    "built", slow_unless_chosen([name for name in MEMBERS if name not in HUGE]), indirect=True
)


def test_the_generated_file_of_backbones_is_what_python_m_fttune_models_prints(capsys):
    runpy.run_module("fttune.models", run_name="__main__")
    stored = resources.files("fttune.config").joinpath("backbones.json").read_text(encoding="utf-8")
    assert capsys.readouterr().out == stored


def test_every_classification_model_of_torchvision_is_a_member_of_one_family():
    assert set(MEMBERS) == {*TORCHVISION, "cifar_resnet8"}
    for name in MEMBERS:
        rows = [family for family in FAMILIES if any(fnmatchcase(name, pattern) for pattern in family.members)]
        assert rows == [BY_NAME[name]]
    assert {id(BY_NAME[name]) for name in ONE_OF_EACH_FAMILY} == {id(family) for family in FAMILIES}
    assert len(ONE_OF_EACH_FAMILY) == len(FAMILIES)


def test_the_huge_models_are_those_of_more_than_200_million_parameters():
    assert {name for name in MEMBERS if known.backbones()[name].parameters > 200e6} == set(HUGE)


@pytest.mark.parametrize("name", MEMBERS)
def test_parts_share_every_parameter_and_buffer_out_and_train_as_the_depth_says(name):
    backbone = sketched(find_architecture(name))
    properties.check_ownership(backbone.module, backbone)
    properties.check_depths(backbone)
    assert tuple(stage.name for stage in backbone.cut.stages) == known.backbones()[name].stages
    kind = nn.Conv2d if name.startswith("squeezenet") else nn.Linear
    *_, last = (m for path, m in backbone.module.named_modules() if isinstance(m, kind) and "aux" not in path.lower())
    head = list(backbone.parts()["head"].values())
    assert head[0] is last
    assert all(not list(module.parameters()) for module in head[1:]), "SqueezeNet rectifies and pools its logits"


@pytest.mark.parametrize("name", [name for name in TORCHVISION if known.backbones()[name].weights])
def test_counts_of_parameters_are_those_that_torchvision_publishes(name):
    entry = known.backbones()[name]
    published = torchvision.models.get_model_weights(name)[entry.weights[0]].meta["num_params"]
    with_heads = {"googlenet": 13_004_888, "inception_v3": 27_161_264}  # torchvision counts without auxiliary heads
    at_224 = {"vit_h_14": 632_045_800}  # published for larger images, with more positions
    assert entry.parameters == {**with_heads, **at_224}.get(name, published)


@every_build
def test_the_stages_in_order_compute_exactly_what_the_module_computes(built):
    properties.check_stages_in_order(built, side_of(built.name, SMALLEST_SIDE))


@every_build
def test_the_head_is_replaced_for_another_number_of_classes(built):
    properties.check_new_head(built, side_of(built.name, SMALLEST_SIDE))


@pytest.mark.parametrize(
    ("built", "depth"),
    [
        pytest.param(name, depth, marks=[] if _runs_always(name, depth) else pytest.mark.slow)
        for name in MEMBERS
        if name not in HUGE
        for depth in ("none", "middle", "all")
    ],
    indirect=["built"],
)
def test_two_updates_move_exactly_the_tensors_that_the_depth_says(built, depth):
    stages = len(built.cut.stages)
    depth = {"none": 0, "middle": stages // 2, "all": stages}[depth]
    properties.check_two_steps(built, side_of(built.name, SMALLEST_SIDE_IN_TRAINING), depth=depth)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_outputs_in_training_are_torchvisions_own_with_the_auxiliary_logits_by_stage(name):
    backbone = build_backbone(name, NONE, classes=CLASSES, seed=0)
    backbone.module.train()
    images = properties.images(299)
    torch.manual_seed(0)
    found = backbone.outputs(images)
    again = build_backbone(name, NONE, classes=CLASSES, seed=0).module.train()
    torch.manual_seed(0)
    own = again(images)
    assert torch.equal(found.logits, own.logits)
    if name == "googlenet":
        expected = {"inception4a": (0.3, own.aux_logits1), "inception4d": (0.3, own.aux_logits2)}
    else:
        expected = {"Mixed_6e": (0.4, own.aux_logits)}
    assert found.auxiliary.keys() == expected.keys()
    for stage, (weight, logits) in expected.items():
        assert found.auxiliary[stage][0] == weight
        assert found.auxiliary[stage][1].shape == (2, 3)
        assert torch.equal(found.auxiliary[stage][1], logits)


def test_an_auxiliary_head_in_evaluation_mode_does_not_run():
    backbone = build_backbone("googlenet", NONE, classes=CLASSES, seed=0)
    backbone.module.train()
    backbone.module.get_submodule("aux1").eval()
    assert list(backbone.outputs(properties.images(32)).auxiliary) == ["inception4d"]
    backbone.module.eval()
    assert backbone.outputs(properties.images(32)).auxiliary == {}


@pytest.mark.parametrize(
    ("name", "side", "good"), [("vit_b_32", 96, 224), ("inception_v3", 64, 75), ("alexnet", 32, 63)]
)
def test_images_that_the_model_cannot_take_are_refused_before_it_runs(name, side, good):
    backbone = build_backbone(name, NONE, classes=CLASSES, seed=0)
    backbone.module.eval()
    backbone.require_size(good)
    with pytest.raises(BadInput, match=f"data.image_size is {side}, which {name} cannot take"):
        backbone.require_size(side)
    assert not any(tensor.is_meta for tensor in backbone.module.state_dict().values())


def test_inception_takes_small_images_in_training_while_its_auxiliary_head_is_frozen():
    backbone = build_backbone("inception_v3", NONE, classes=CLASSES, seed=0)
    with pytest.raises(BadInput):
        backbone.require_size(224)
    backbone.module.get_submodule("AuxLogits").eval()
    backbone.require_size(224)


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
