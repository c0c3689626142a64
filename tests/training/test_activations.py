"""Which activations are kept, where, and when they are computed."""

from pathlib import Path

import pytest
import torch

from fttune.data import ArrayCache
from fttune.models import Backbone, Weights
from fttune.models.cifar_resnet import CifarResNet8
from fttune.training import Inputs, prepare
from fttune.training.activations import Activations, Prefix
from fttune.training.run import Run, prepare_run

STAGES = 4


@pytest.fixture
def run(make_inputs, make_recipe) -> Run:
    torch.manual_seed(3)
    weights = Weights(CifarResNet8(3).state_dict(), "file")
    return prepare_run(make_recipe(freeze__unfrozen_stages=0), make_inputs(weights=weights))


@pytest.fixture
def stages_run(monkeypatch) -> list[str]:
    """The names of the stages that ran, in order."""
    ran: list[str] = []
    run_stage = Backbone.run_stage
    monkeypatch.setattr(Backbone, "run_stage", lambda self, name, x: (ran.append(name), run_stage(self, name, x))[1])
    return ran


def expected(run: Run, boundary: int) -> torch.Tensor:
    """What the stages make of the training images, all at once."""
    with torch.no_grad():
        run.backbone.module.eval()
        x = run.prefix.images(run.inputs.data.train, torch.arange(22))
        for stage in run.backbone.cut.stages[:boundary]:
            x = run.backbone.run_stage(stage.name, x)
    return x


def values(kept) -> torch.Tensor:
    return kept.batch(torch.arange(22), torch.device("cpu"))


@pytest.mark.parametrize("boundary", range(1, STAGES + 1))
def test_activations_are_what_the_stages_compute(boundary, run):
    kept = Activations().deepest(run.prefix, run.inputs.data.train, boundary)
    assert kept.boundary == boundary
    assert torch.allclose(values(kept), expected(run, boundary), rtol=1e-4, atol=1e-5)


def test_one_pass_keeps_all_that_the_study_can_cut_at(run, stages_run):
    activations, train = Activations(), run.inputs.data.train
    activations.wanted = frozenset({1, 2, 3, 4})
    activations.deepest(run.prefix, train, 4)
    stages_run.clear()
    assert [activations.deepest(run.prefix, train, boundary).boundary for boundary in (3, 1, 4, 2)] == [3, 1, 4, 2]
    assert stages_run == []


def test_a_deeper_boundary_begins_at_the_shallower_one(run, stages_run):
    activations, train = Activations(), run.inputs.data.train
    activations.wanted = frozenset({2, 4})
    activations.deepest(run.prefix, train, 2)
    stages_run.clear()
    kept = activations.deepest(run.prefix, train, 4)
    assert set(stages_run) == {"layer2", "layer3"}
    assert torch.allclose(values(kept), expected(run, 4), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("wanted", [{2, 3, 4}, {4}])
@pytest.mark.parametrize("left", [(), (2,), (3,), (2, 3), (4,)])
def test_what_a_killed_process_left_changes_no_bit(left, wanted, run, tmp_path):
    train, cache = run.inputs.data.train, ArrayCache(tmp_path / "arrays")

    def found(*boundaries: int) -> list[torch.Tensor]:
        activations = Activations(cache)
        activations.wanted = frozenset(wanted)
        return [values(activations.deepest(run.prefix, train, boundary)) for boundary in boundaries]

    (last,) = found(4)
    for file in (tmp_path / "arrays").rglob("*.npy"):
        if int(file.stem.rpartition("-")[2].rstrip("f")) not in left:
            file.unlink()
    order = [*sorted({*wanted} - {4}), 4]
    assert torch.equal(found(*order)[-1], last)
    assert torch.equal(found(4)[0], last)


def test_what_does_not_fit_is_not_kept_and_the_nearest_before_it_is_used(run, stages_run):
    sizes = {boundary: expected(run, boundary).nbytes for boundary in range(1, STAGES + 1)}
    assert sizes[4] < sizes[3] < sizes[1]
    activations, train = Activations(memory_bytes=sizes[3] + sizes[4]), run.inputs.data.train
    assert activations.deepest(run.prefix, train, 3).boundary == 3
    assert activations.deepest(run.prefix, train, 4).boundary == 4
    stages_run.clear()
    assert activations.deepest(run.prefix, train, 2) is None
    assert activations.deepest(run.prefix, train, 2) is None, "and it is tried once"
    assert len(stages_run) <= 6
    assert Activations(memory_bytes=0).deepest(run.prefix, train, 4) is None


def test_another_process_finds_them_on_disk(run, stages_run, tmp_path):
    train, folder = run.inputs.data.train, tmp_path / "arrays"
    first = Activations(ArrayCache(folder)).deepest(run.prefix, train, 3)
    stages_run.clear()
    second = Activations(ArrayCache(folder)).deepest(run.prefix, train, 3)
    assert torch.equal(values(first), values(second))
    assert len(stages_run) <= 12, "only to see shapes"


def test_damaged_files_are_made_anew_and_it_is_said(run, tmp_path):
    train, cache = run.inputs.data.train, ArrayCache(tmp_path / "arrays")
    before = values(Activations(cache).deepest(run.prefix, train, 3)).clone()
    (file,) = (tmp_path / "arrays").rglob("*.npy")
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.unlink()
    file.write_bytes(content)
    again = Activations(cache)
    assert torch.equal(values(again.deepest(run.prefix, train, 3)), before)
    assert [text for text in again.notices() if "was damaged and is made anew" in text]
    assert again.notices() == []


def test_without_room_on_disk_they_stay_in_memory(run, tmp_path):
    activations = Activations(ArrayCache(tmp_path / "arrays", 0))
    assert activations.deepest(run.prefix, run.inputs.data.train, 3).boundary == 3
    assert list((tmp_path / "arrays").rglob("*.npy")) == []


def test_other_weights_precisions_images_and_random_nets_have_other_activations(make_inputs, make_recipe):
    def name(inputs: Inputs, **fields) -> str:
        prefix: Prefix = prepare_run(make_recipe(**fields), inputs).prefix
        return prefix.array_key(inputs.data.train, 2)

    plain = make_inputs()
    other_weights = make_inputs(weights=Weights(CifarResNet8(3).state_dict(), "other"))
    other_images = make_inputs(train=tuple(i % 3 for i in range(21)))
    names = [name(plain), name(other_weights), name(plain, seed=1), name(plain, training__precision="float64")]
    names += [prepare_run(make_recipe(), plain).prefix.array_key(plain.data.train, 3), name(other_images)]
    assert len(set(names)) == len(names)
    assert name(plain) == name(plain, optimizer__lr=0.5, freeze__unfrozen_stages=1, training__batch_size=3)
    assert name(other_weights) == name(other_weights, seed=1), "the seed draws no stage of a net with weights"


def test_a_module_in_hand_leaves_nothing_on_disk(workspace, make_recipe):
    recipe = make_recipe(data__limit_per_class=4, data__classes=(0, 1, 2), freeze__unfrozen_stages=1)
    net = CifarResNet8(3)
    net.stages, net.head = {"stem": ["conv1", "bn1", "relu"], "rest": ["layer1", "layer2", "layer3"]}, "fc"
    files: list[Path] = []
    for inputs in (prepare(recipe, workspace), prepare(recipe, workspace, module=net)):
        run = prepare_run(recipe, inputs)
        run.inputs.workbench.activations.deepest(run.prefix, inputs.data.train, 1)
        files.append(sorted((workspace.arrays / "activations").glob("*.npy")))
    assert len(files[0]) == len(files[1]) == 1


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_a_device_with_memory_of_its_own_keeps_them_there(order, run, tmp_path):
    run.backbone.module.to(memory_format=order)
    train, folder = run.inputs.data.train, tmp_path / "arrays"
    activations = Activations(ArrayCache(folder), free_bytes=lambda _: 10**9)
    activations.wanted = frozenset({2, 3})
    for boundary in (3, 2):
        kept = activations.deepest(run.prefix, train, boundary)
        assert kept.boundary == boundary and isinstance(kept.values, torch.Tensor)
        assert torch.allclose(values(kept), expected(run, boundary), rtol=1e-4, atol=1e-5)
        assert values(kept).is_contiguous(memory_format=order)
    assert list(folder.rglob("*.npy")) == [], "computing them anew takes less than reading them"


def test_all_that_a_device_keeps_takes_a_quarter_of_what_would_be_free_without_it(run, tmp_path):
    sizes = {boundary: expected(run, boundary).nbytes for boundary in range(1, STAGES + 1)}
    free = [4 * (sizes[3] + sizes[4])]
    activations = Activations(ArrayCache(tmp_path / "arrays"), free_bytes=lambda _: free[0])
    places = {}
    for boundary in (3, 4, 2):
        places[boundary] = type(activations.deepest(run.prefix, run.inputs.data.train, boundary).values)
        free[0] -= sizes[boundary] * (places[boundary] is torch.Tensor)
    assert places[3] is places[4] is torch.Tensor
    assert places[2] is not torch.Tensor
