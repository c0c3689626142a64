import pytest
import torch
import torchvision
from torch import nn

from fttune.errors import WeightsError
from fttune.models import Weights, build_backbone
from fttune.models.cifar_resnet import CifarResNet8

CLASSES = ("cat", "dog", "eel")
NONE = Weights(None, "none")


def random_state(classes: int) -> dict[str, torch.Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(99)
        return CifarResNet8(classes).state_dict()


def build(state: dict[str, torch.Tensor] | None, *, made_for: tuple[str, ...] | None = None, seed: int = 0):
    return build_backbone("cifar_resnet8", Weights(state, "file.pth", made_for), classes=CLASSES, seed=seed)


@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1])
def test_the_new_head_is_plain_torchs_linear_after_manual_seed(seed):
    head = build_backbone("resnet18", NONE, classes=CLASSES, seed=seed).module.get_submodule("fc")
    torch.manual_seed(seed)
    plain = nn.Linear(512, 3)
    assert torch.equal(head.weight, plain.weight)
    assert torch.equal(head.bias, plain.bias)


def test_the_new_head_does_not_depend_on_the_weights_below_it():
    loaded, random = build(random_state(10), seed=5), build(None, seed=5)
    assert torch.equal(loaded.module.get_submodule("fc").weight, random.module.get_submodule("fc").weight)


def test_random_stages_are_torchvisions_own_after_manual_seed():
    state = build_backbone("resnet18", NONE, classes=CLASSES, seed=3).module.state_dict()
    torch.manual_seed(3)
    plain = torchvision.models.resnet18().state_dict()
    assert state.keys() == plain.keys()
    assert all(torch.equal(state[key], plain[key]) for key in plain if not key.startswith("fc."))


def test_building_leaves_torchs_global_generator_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    build(None, seed=2)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_backbone_is_torchvisions_own_module_with_another_head():
    backbone = build_backbone("resnet18", NONE, classes=CLASSES, seed=0)
    assert type(backbone.module) is torchvision.models.ResNet
    assert backbone.module(torch.zeros(2, 3, 32, 32)).shape == (2, 3)
    assert list(backbone.parts()) == ["stem", "layer1", "layer2", "layer3", "layer4", "head"]
    assert backbone.head_is_new


def test_weights_with_a_head_of_another_size_fill_everything_but_the_head():
    state = random_state(10)
    backbone = build(state)
    own = backbone.module.state_dict()
    assert backbone.head_is_new
    assert all(torch.equal(own[key], state[key]) for key in state if not key.startswith("fc."))
    assert own["fc.weight"].shape == (3, 64)


@pytest.mark.parametrize("made_for", [None, CLASSES])
def test_a_head_of_the_right_size_is_kept_unless_it_is_known_to_stand_for_other_classes(made_for):
    state = random_state(3)
    backbone = build(state, made_for=made_for)
    assert not backbone.head_is_new
    assert all(torch.equal(tensor, state[key]) for key, tensor in backbone.module.state_dict().items())


@pytest.mark.parametrize("made_for", [("a", "b", "c"), tuple(reversed(CLASSES))])
def test_a_head_of_the_right_size_for_other_classes_is_replaced(made_for):
    backbone = build(random_state(3), made_for=made_for)
    assert backbone.head_is_new
    assert torch.equal(backbone.module.get_submodule("fc").weight, build(None).module.get_submodule("fc").weight)


@pytest.mark.parametrize("lost", [["fc.weight"], ["fc.bias"], ["fc.weight", "fc.bias"]])
def test_weights_without_a_whole_head_get_a_new_one(lost):
    state = random_state(3)
    for key in lost:
        del state[key]
    backbone = build(state)
    assert backbone.head_is_new
    assert torch.equal(backbone.module.get_submodule("fc").weight, build(None).module.get_submodule("fc").weight)


def test_building_changes_neither_the_given_weights_nor_shares_memory_with_them():
    state = random_state(3)
    copies = {key: tensor.clone() for key, tensor in state.items()}
    backbone = build(state)
    for parameter in backbone.module.parameters():
        parameter.data.add_(1)
    assert state.keys() == copies.keys()
    assert all(torch.equal(state[key], copies[key]) for key in copies)


def test_files_from_before_num_batches_tracked_load():
    state = {k: t for k, t in random_state(3).items() if not k.endswith("num_batches_tracked")}
    own = build(state).module.state_dict()
    assert all(torch.equal(own[key], tensor) for key, tensor in state.items())
    assert own["bn1.num_batches_tracked"] == 0


def test_a_missing_an_unknown_and_a_misshapen_tensor_are_all_named_at_once():
    state = random_state(3)
    del state["bn1.running_mean"]
    state["layer9.weight"] = torch.zeros(1)
    state["conv1.weight"] = torch.zeros(16, 1, 3, 3)
    with pytest.raises(WeightsError) as caught:
        build(state)
    assert str(caught.value).splitlines() == [
        "the weights file.pth do not fit the backbone; name weights of this backbone, or another backbone.name:",
        "  missing: bn1.running_mean",
        "  unknown: layer9.weight",
        "  of another shape: conv1.weight (16, 1, 3, 3), not (16, 3, 3, 3)",
    ]


def test_weights_of_another_architecture_are_refused_with_a_short_list():
    state = torchvision.models.resnet18().state_dict()
    with pytest.raises(WeightsError, match=r"unknown: .*, and [0-9]+ more\n") as caught:
        build(state)
    assert max(map(len, str(caught.value).splitlines())) < 600


def test_a_head_that_is_ignored_does_not_hide_an_unknown_tensor_elsewhere():
    with pytest.raises(WeightsError, match=r"unknown: fcc\.weight"):
        build({**random_state(10), "fcc.weight": torch.zeros(1)})
