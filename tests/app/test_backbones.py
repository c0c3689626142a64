import pytest
import torchvision

from fttune.app.backbones import list_backbones
from fttune.errors import BadInput


def test_without_a_pattern_all_of_torchvision_and_the_small_net_are_listed():
    names = set(torchvision.models.list_models(module=torchvision.models))
    assert list_backbones().keys() == names | {"cifar_resnet8"}


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("resnet18", ["resnet18"]),
        ("vit_*", ["vit_b_16", "vit_b_32", "vit_h_14", "vit_l_16", "vit_l_32"]),
        ("squeeze", ["squeezenet1_0", "squeezenet1_1"]),
    ],
)
def test_a_pattern_is_a_shell_pattern_or_a_part_of_the_name(pattern, names):
    assert list(list_backbones(pattern)) == names


def test_stages_have_their_parameters_and_weights_their_names():
    entry = list_backbones("resnet18")["resnet18"]
    assert dict(zip(entry.stages, entry.stage_parameters, strict=True))["stem"] == 64 * 3 * 49 + 2 * 64
    assert entry.parameters == sum(entry.stage_parameters) + 512 * 1000 + 1000
    assert entry.weights == ("IMAGENET1K_V1",)


def test_an_unknown_name_gets_the_nearest_ones():
    with pytest.raises(BadInput, match="models: unknown name 'resnt50'; nearest: resnet50"):
        list_backbones("resnt50")
    with pytest.raises(BadInput, match="unknown name 'resnt50'; nearest: resnet50"):
        list_backbones("timm:resnt50")


def test_timms_are_listed_when_the_pattern_begins_with_timm():
    (name, entry), *rest = list_backbones("timm:resnet10t").items()
    assert (name, rest) == ("timm:resnet10t", [])
    assert entry.stages == ("stem", "layer1", "layer2", "layer3", "layer4")
    assert entry.weights == ("c3_in1k",)


def test_a_plugins_backbones_are_listed_with_the_others(tmp_path):
    from tests.models.test_plugins import SOURCE

    (tmp_path / "p.py").write_text(SOURCE, encoding="utf-8")
    entry = list_backbones("mynet", plugins=[tmp_path / "p.py"])["plugin:mynet"]
    assert entry.stages == ("stem", "body")
    assert entry.stage_parameters == (3 * 4 * 9 + 4, 4 * 8 * 9 + 8 + 16)
