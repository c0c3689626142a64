from pathlib import Path

import pytest
import torch
from torch import nn

import fttune
from fttune.config.workspace import Workspace
from fttune.errors import BadInput, WeightsError
from fttune.models import Weights, architecture_of, build_backbone, find_architecture, load_model
from fttune.training import CheckpointFolder, prepare
from fttune.training import fine_tune as run_recipe
from tests.models import properties
from tests.recipes import tiny_experiment

SOURCE = """
import torch
from torch import nn

class Net(nn.Module):
    stages = {"stem": ["conv", "act"], "body": ["block", "pool", "flat"]}
    head = "last"

    def __init__(self):
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, 4, 3, padding=1), nn.ReLU()
        self.block = nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        self.pool, self.flat = nn.AdaptiveAvgPool2d(1), nn.Flatten()
        self.last = nn.Linear(8, 10)

    def forward(self, x):
        return self.last(self.flat(self.pool(self.block(self.act(self.conv(x))))))

BACKBONES = {"mynet": Net}
"""


class Net(nn.Module):
    """A model of one's own; its forward adds nothing to its submodules."""

    def __init__(self, stages=None, head="last") -> None:
        super().__init__()
        self.first, self.middle = (
            nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()),
            nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        )
        self.last = nn.Linear(4, 10)
        self.stages = {"stem": ["first"], "rest": ["middle"]} if stages is None else stages
        self.head = head

    def forward(self, x):
        return self.last(self.middle(self.first(x)))


@pytest.fixture
def plugin(tmp_path) -> Path:
    file = tmp_path / "plugin.py"
    file.write_text(SOURCE, encoding="utf-8")
    return file


def test_a_plugins_model_has_the_properties_of_every_backbone(plugin):
    architecture = find_architecture("plugin:mynet", [plugin])
    backbone = build_backbone(architecture, Weights(None, "none"), classes=properties.CLASSES, seed=0)
    assert architecture.stages() == ("stem", "body")
    properties.check_ownership(backbone.module, backbone)
    properties.check_depths(backbone)
    properties.check_stages_in_order(backbone, 8)
    properties.check_new_head(backbone, 8)
    for depth in (0, 1, 2):
        properties.check_two_steps(backbone, 8, depth=depth)


def test_a_recipe_with_a_plugin_trains_and_its_checkpoint_needs_the_plugin(tmp_path, plugin):
    recipe = tiny_experiment(tmp_path, backbone__name="plugin:mynet", freeze__unfrozen_stages=1)
    inputs = prepare(recipe, Workspace.at(tmp_path, plugins=[plugin]))
    assert inputs.weights.identity.startswith("none, plugin sha256:")
    result = run_recipe(recipe, inputs, checkpoints=CheckpointFolder(tmp_path / "run"))
    assert result.trainable_parameters == 4 * 8 * 9 + 8 + 16 + 8 * 3 + 3
    with pytest.raises(WeightsError, match="needs the plugin that builds plugin:mynet"):
        load_model(result.checkpoint)
    model = load_model(result.checkpoint, plugins=[plugin])
    assert model(torch.zeros(1, 3, 8, 8)).shape == (1, 3)


def test_a_plugin_that_the_command_line_does_not_name_is_asked_for(tmp_path):
    recipe = tiny_experiment(tmp_path, backbone__name="plugin:mynet")
    with pytest.raises(BadInput, match=r"plugin:mynet needs its file: add --plugin FILE\.py"):
        prepare(recipe, Workspace.at(tmp_path))
    assert not (tmp_path / "mlruns").exists()


def test_more_stages_than_the_model_has_are_refused_before_data_is_read(tmp_path, plugin):
    recipe = tiny_experiment(tmp_path, backbone__name="plugin:mynet", freeze__unfrozen_stages=3)
    with pytest.raises(BadInput, match=r"must be 0\.\.2 \(the stages are stem, body\), got 3"):
        prepare(recipe, Workspace.at(tmp_path, plugins=[plugin]))
    assert not (tmp_path / "mlruns").exists()


def test_an_unknown_name_gets_the_plugins_own(plugin):
    with pytest.raises(BadInput, match="plugin:<name> must be mynet, got 'mynett'"):
        find_architecture("plugin:mynett", [plugin])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("BACKBONES = {}", "must define BACKBONES = "),
        ("x = 1", "must define BACKBONES = "),
        ("BACKBONES = {'a': 1}", "BACKBONES must map names to functions, got 'a': 1"),
        ("BACKBONES = {'a/b': print}", "BACKBONES must map names to functions, got 'a/b'"),
        ("1 / 0", "cannot be run as a plugin: ZeroDivisionError"),
        ("def", "cannot be run as a plugin: SyntaxError"),
    ],
)
def test_a_plugin_that_cannot_be_used_is_named(tmp_path, source, message):
    (tmp_path / "bad.py").write_text(source, encoding="utf-8")
    with pytest.raises(BadInput, match=r"bad\.py: ") as caught:
        find_architecture("plugin:a", [tmp_path / "bad.py"])
    assert message in str(caught.value)


def test_a_missing_plugin_file_is_named(tmp_path):
    with pytest.raises(BadInput, match=r"absent\.py: cannot be run as a plugin: FileNotFoundError"):
        find_architecture("plugin:a", [tmp_path / "absent.py"])


@pytest.mark.parametrize(
    ("build", "message"),
    [("lambda: 1 / 0", "its function failed: ZeroDivisionError"), ("int", "must return a torch.nn.Module")],
)
def test_a_function_that_builds_no_module_is_named(tmp_path, build, message):
    (tmp_path / "bad.py").write_text(f"BACKBONES = {{'a': {build}}}", encoding="utf-8")
    with pytest.raises(BadInput, match=message):
        find_architecture("plugin:a", [tmp_path / "bad.py"]).stages()


def test_a_name_in_two_plugins_is_refused(tmp_path, plugin):
    other = tmp_path / "other.py"
    other.write_text(SOURCE, encoding="utf-8")
    with pytest.raises(BadInput, match="the backbone mynet stands in two plugins"):
        find_architecture("plugin:mynet", [plugin, other])


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (Net({"stem": ["first"]}, head=None), "the module must carry stages"),
        (Net({}), "the module must carry stages"),
        (Net({"stem": ["first", "middel"]}), "name what it does not have"),
        (Net({"stem": ["middle"]}), r"belong to no stage: first\.0\.weight, first\.0\.bias"),
        (Net({"stem": ["first"], "again": ["first.0"]}), r"belong to two stages: first\.0\.weight"),
        (Net({"stem": ["first"]}, head="first"), "belong to no stage: last"),
        (Net({"stem": ["first.0"], "b": ["last"]}, head="middle"), "head must be a Linear or Conv2d, got Sequential"),
        (Net({"stem": "first"}), "stage stem must be a list of dotted paths"),
        (Net({"a b": ["first"]}), "is no name for a stage"),
        (Net({"head": ["first"]}), "is no name for a stage"),
        (nn.Linear(2, 2), "the module must carry stages"),
    ],
)
def test_what_is_wrong_about_a_model_of_ones_own_is_said(net, message):
    with pytest.raises(BadInput, match=message):
        architecture_of(net)


def test_stages_that_skip_what_the_module_computes_do_not_run_in_order():
    images = torch.randn(2, 3, 8, 8)
    skips = Net({"stem": ["first.0"], "rest": ["middle"]})
    for net, expected in ((Net(), True), (skips, False)):
        backbone = build_backbone(architecture_of(net), Weights(None, "none"), classes=("a", "b"), seed=0)
        assert backbone.runs_in_order(images) is expected


def test_fine_tune_trains_a_copy_of_a_module_from_its_own_weights(tmp_path):
    torch.manual_seed(0)
    net = Net()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    recipe = tiny_experiment(tmp_path, freeze__unfrozen_stages=0)
    workspace = Workspace.at(tmp_path)
    first = fttune.fine_tune(recipe, workspace=workspace, backbone=net)
    assert first.trainable_parameters == 4 * 3 + 3
    assert first.parameters == 3 * 4 * 9 + 4 + 4 * 3 + 3
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert fttune.fine_tune(recipe, workspace=workspace, backbone=net).step_losses == first.step_losses
    with torch.no_grad():
        net.first[0].weight.mul_(3)
    assert fttune.fine_tune(recipe, workspace=workspace, backbone=net).step_losses != first.step_losses
