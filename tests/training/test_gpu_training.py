"""What only a CUDA device can show. Skipped elsewhere."""

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.gpu import WatchedFeed
from fttune.models import Weights, load_model
from fttune.models.backbone import build_backbone
from fttune.training import CheckpointFolder, Costs, fine_tune, step
from fttune.training.events import Notice
from fttune.training.feeds import feeds_of
from fttune.training.loop import train_epoch
from fttune.training.regime import next_regime
from fttune.training.run import prepare_run

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
LABELS = tuple(i % 3 for i in range(60))


@pytest.fixture
def make_gpu_recipe(make_recipe):
    def make(**fields):
        base = {"backbone__name": "resnet18", "data__image_size": 64, "data__resize": 64, "training__device": "cuda"}
        return make_recipe(**{**base, "optimizer__lr": 0.01, "training__batch_size": 16, **fields})

    return make


def test_bf16_and_channels_last_are_on_and_train(make_inputs, make_gpu_recipe):
    inputs = make_inputs(LABELS, LABELS, side=64)
    run = prepare_run(make_gpu_recipe(), inputs)
    assert run.device.bf16
    assert run.backbone.module.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    result = fine_tune(make_gpu_recipe(training__epochs=6), inputs)
    assert result.epochs[-1].metrics["train/loss"] < result.epochs[0].metrics["train/loss"] / 2


def test_single_precision_losses_are_those_of_the_cpu(make_inputs, make_gpu_recipe, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    fields = {"training__precision": "fp32", "optimizer__lr": 0.001}
    on_gpu = fine_tune(make_gpu_recipe(**fields), make_inputs(LABELS, side=64)).step_losses
    on_cpu = fine_tune(make_gpu_recipe(**fields, training__device="cpu"), make_inputs(LABELS, side=64)).step_losses
    assert on_gpu == pytest.approx(on_cpu, abs=1e-3)


def test_double_precision_losses_are_those_of_the_cpu(make_inputs, make_gpu_recipe):
    fields = {"training__precision": "float64", "optimizer__lr": 0.001}
    on_gpu = fine_tune(make_gpu_recipe(**fields), make_inputs(LABELS, side=64)).step_losses
    on_cpu = fine_tune(make_gpu_recipe(**fields, training__device="cpu"), make_inputs(LABELS, side=64)).step_losses
    assert on_gpu == pytest.approx(on_cpu, rel=1e-9)


@pytest.mark.parametrize("norm_stats", ["frozen", "all_frozen"])
def test_frozen_parameters_and_buffers_are_byte_identical(norm_stats, tmp_path, make_inputs, make_gpu_recipe):
    source = build_backbone("resnet18", Weights(None, "none"), classes=("a", "b", "c"), seed=1).module.state_dict()
    inputs = make_inputs(LABELS, side=64, weights=Weights(source, "file"))
    recipe = make_gpu_recipe(freeze__unfrozen_stages=1, freeze__norm_stats=norm_stats, optimizer__weight_decay=0.1)
    fine_tune(recipe, inputs, checkpoints=CheckpointFolder(tmp_path, keep_last=True))
    last = load_file(tmp_path / "last.safetensors")
    changed = {name for name in source if not torch.equal(last[name], source[name])}
    trained = {name for name in source if name.startswith(("layer4.", "fc."))}
    if norm_stats == "all_frozen":
        trained -= {name for name in trained if "running_" in name or "num_batches" in name}
    assert changed == trained


@pytest.mark.parametrize("least", [1, 10**9], ids=["replayed", "one by one"])
def test_no_step_waits_for_the_device(least, make_inputs, make_gpu_recipe, monkeypatch):
    monkeypatch.setattr(step, "MIN_REPLAYS", least)
    recipe = make_gpu_recipe(
        optimizer__clip_grad_norm=1.0, training__class_weights="balanced", training__label_smoothing=0.1
    )
    run = prepare_run(recipe, make_inputs(LABELS, side=64))
    regime = next_regime(run, [], None)
    feed = feeds_of(run, regime.boundary).train
    made = step.Step(run, regime.freezing, after=feed.after)
    train_epoch(run, regime, feed, 1, step=made)
    train_epoch(run, regime, WatchedFeed(feed.run, feed.split, feed.kept), 2, step=made)


def test_the_devices_global_generator_is_left_alone(make_inputs, make_gpu_recipe):
    torch.cuda.manual_seed(5)
    before = torch.cuda.get_rng_state()
    fine_tune(make_gpu_recipe(), make_inputs(LABELS, side=64))
    assert torch.equal(torch.cuda.get_rng_state(), before)


def test_a_checkpoint_of_a_cuda_run_loads_on_the_cpu(tmp_path, make_inputs, make_gpu_recipe):
    inputs = make_inputs(LABELS, LABELS, side=64)
    result = fine_tune(make_gpu_recipe(), inputs, checkpoints=CheckpointFolder(tmp_path))
    model = load_model(tmp_path / "best.safetensors")
    images = inputs.normalise(torch.from_numpy(inputs.data.val.images).permute(0, 3, 1, 2))
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(model(images), inputs.data.val.labels).item()
    assert loss == pytest.approx(result.value, rel=0.05, abs=0.02)


REPLAYED = {
    "all parts": {},
    "the last stage": {"freeze__unfrozen_stages": 1},
    "a schedule and clipping": {"training__schedule": "cosine", "optimizer__clip_grad_norm": 0.5},
    "adamw": {"optimizer__name": "adamw", "optimizer__lr": 1e-4},
    "distance to the start": {"freeze__penalty": {"l2_sp": 0.1}},
    "dropout": {"backbone__name": "efficientnet_b0"},
    "phases": {"freeze": {"phases": [{"epochs": 1, "unfrozen_stages": 0}, {"epochs": 1, "unfrozen_stages": 2}]}},
}


@pytest.mark.parametrize("fields", REPLAYED.values(), ids=REPLAYED)
def test_replayed_steps_are_those_made_one_by_one(fields, make_inputs, make_gpu_recipe, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    recipe = make_gpu_recipe(training__precision="fp32", **{"optimizer__lr": 0.001, **fields})
    losses, replays = {}, []
    replay = torch.cuda.CUDAGraph.replay
    monkeypatch.setattr(torch.cuda.CUDAGraph, "replay", lambda self: (replays.append(self), replay(self)))
    for least in (1, 10**9):
        monkeypatch.setattr(step, "MIN_REPLAYS", least)
        losses[least] = fine_tune(recipe, make_inputs(LABELS, LABELS, side=64)).step_losses
    assert replays, "steps were replayed"
    assert losses[1] == pytest.approx(losses[10**9], abs=2e-3)


def test_a_step_that_cannot_be_recorded_is_made_one_by_one_and_it_is_said(make_inputs, make_gpu_recipe, monkeypatch):
    monkeypatch.setattr(step, "MIN_REPLAYS", 1)
    inputs, notices = make_inputs(LABELS, side=64), []
    forward = step.forward

    def waiting(run, x, *, after=0):
        outputs = forward(run, x, after=after)
        outputs.logits.sum().item()
        return outputs

    monkeypatch.setattr(step, "forward", waiting)
    result = fine_tune(make_gpu_recipe(), inputs, emit=lambda e: notices.append(e.text) if isinstance(e, Notice) else 0)
    assert len(result.epochs) == 2
    assert [text for text in notices if text.startswith("training steps are not replayed as a CUDA graph")]
    assert torch.randn(3, device="cuda").unique().numel() == 3, "the device's generator still works"
    monkeypatch.setattr(step, "forward", forward)
    assert fine_tune(make_gpu_recipe(backbone__name="efficientnet_b0"), inputs).epochs, "and so does a recording"


def test_measuring_a_cost_leaves_no_trace_and_counts_the_same_bytes(make_inputs, make_gpu_recipe):
    recipe, inputs = make_gpu_recipe(training__epochs=10, freeze__unfrozen_stages=2), make_inputs(LABELS, side=64)
    result = fine_tune(recipe, inputs)
    state = torch.cuda.get_rng_state()
    costs = [Costs().of(recipe, inputs, result.epochs) for _ in range(2)]
    assert torch.equal(torch.cuda.get_rng_state(), state)
    assert costs[0].peak_memory_bytes == costs[1].peak_memory_bytes
    assert fine_tune(recipe, inputs).step_losses == pytest.approx(result.step_losses, rel=0.05, abs=0.02)
