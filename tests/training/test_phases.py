"""Whole runs over several phases, against the same training written out in plain PyTorch."""

import math

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from fttune.errors import BadInput
from fttune.models import Weights
from fttune.models.cifar_resnet import CifarResNet8
from fttune.training import CheckpointFolder, fine_tune
from fttune.training.events import EpochEnded
from tests.training.plain import small_net, tensors

PROBE_THEN_TUNE = {"phases": [{"unfrozen_stages": 0, "epochs": 2, "lr": 0.1}, {"train": "all", "epochs": 2}]}


def plain_phases(inputs, *, lrs, cosine=False) -> list[float]:
    """Probe the head for two epochs, then train everything for two; a fresh schedule, the head's momentum kept."""
    net = small_net(seed=0)
    part = inputs.data.train
    images = tensors(part)
    body = [p for name, p in net.named_parameters() if not name.startswith("fc.")]
    optimizer = torch.optim.SGD([{"params": body}, {"params": net.fc.parameters()}], lr=1.0, momentum=0.9)
    losses = []
    for epoch in range(1, 5):
        probing = epoch <= 2
        for p in body:
            p.requires_grad_(not probing)
        net.train(not probing)
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(epoch)).split(8)
        for index, rows in enumerate(order):
            step = (epoch - (1 if probing else 3)) * len(order) + index
            factor = 0.5 * (1 + math.cos(math.pi * step / (2 * len(order)))) if cosine else 1.0
            for group in optimizer.param_groups:
                group["lr"] = lrs[0 if probing else 1] * factor
            loss = nn.functional.cross_entropy(net(images[rows]), part.labels[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_two_phases_equal_the_plain_program(schedule, make_inputs, make_recipe):
    inputs = make_inputs()
    recipe = make_recipe(freeze=PROBE_THEN_TUNE, training__epochs=4, training__schedule=schedule)
    expected = plain_phases(inputs, lrs=(0.1, 0.05), cosine=schedule == "cosine")
    assert fine_tune(recipe, inputs).step_losses == pytest.approx(expected, abs=1e-6)


def frozen_after(inputs, recipe, folder, epochs):
    """The tensors after some epochs of a run that is pruned there."""
    fine_tune(
        recipe,
        inputs,
        prune=lambda ended: ended.epoch == epochs,
        checkpoints=CheckpointFolder(folder, keep_last=True),
    )
    return load_file(folder / "last.safetensors")


@pytest.mark.parametrize("optimizer", [{}, {"optimizer__name": "adamw", "optimizer__lr": 0.01}], ids=["sgd", "adamw"])
def test_what_is_frozen_in_mid_run_does_not_move_by_one_bit(optimizer, tmp_path, make_inputs, make_recipe):
    phases = [{"train": "all", "epochs": 2}, {"train": {"last": 1}, "epochs": 2}]
    decay = {"optimizer__weight_decay": 0.1, **optimizer}
    recipe = make_recipe(freeze={"phases": phases}, training__epochs=4, **decay)
    switch = frozen_after(make_inputs(), recipe, tmp_path / "switch", 2)
    end = frozen_after(make_inputs(), recipe, tmp_path / "end", 4)
    moved = {name for name in switch if switch[name].numpy().tobytes() != end[name].numpy().tobytes()}
    assert moved == {name for name in switch if name.startswith(("layer3.", "fc."))}


def test_the_epochs_say_what_trained_in_them(make_inputs, make_recipe):
    epochs: list[EpochEnded] = []
    recipe = make_recipe(freeze=PROBE_THEN_TUNE, training__epochs=4)
    result = fine_tune(
        recipe, make_inputs(), emit=lambda event: epochs.append(event) if isinstance(event, EpochEnded) else None
    )
    assert [ended.metrics["stages_trained"] for ended in epochs] == [0b10000, 0b10000, 0b11111, 0b11111]
    assert [ended.metrics["lr"] for ended in epochs] == [0.1, 0.1, 0.05, 0.05]
    assert "drift/stem" not in epochs[1].metrics
    assert epochs[2].metrics["drift/stem"] > 0
    assert result.trainable_parameters == result.parameters


def test_a_run_that_is_started_again_repeats_every_phase(make_inputs, make_recipe):
    recipe = make_recipe(freeze=PROBE_THEN_TUNE, training__epochs=4, training__schedule="cosine")
    first = fine_tune(recipe, make_inputs())
    with pytest.raises(KeyboardInterrupt):
        fine_tune(recipe, make_inputs(), prune=stop_in_epoch_3)
    assert fine_tune(recipe, make_inputs()).step_losses == first.step_losses


def stop_in_epoch_3(ended):
    if ended.epoch == 3:
        raise KeyboardInterrupt
    return False


def test_until_plateau_needs_a_validation_split(make_inputs, make_recipe):
    phases = [{"unfrozen_stages": 0, "until_plateau": {}}, {"train": "all", "epochs": 1}]
    with pytest.raises(BadInput, match="until_plateau needs a validation split"):
        fine_tune(make_recipe(freeze={"phases": phases}, training__epochs=4), make_inputs(val=None))


def test_layer_decay_and_head_multiplier_equal_torchs_parameter_groups(make_inputs, make_recipe):
    inputs = make_inputs()
    recipe = make_recipe(freeze={"train": "all", "layer_decay": 0.5, "head": {"lr_mult": 2.0}}, training__epochs=1)
    net = small_net(seed=0)
    rates = {"conv1": 1 / 16, "bn1": 1 / 16, "layer1": 1 / 8, "layer2": 1 / 4, "layer3": 1 / 2, "fc": 2.0}
    groups = [{"params": getattr(net, name).parameters(), "lr": 0.05 * rate} for name, rate in rates.items()]
    optimizer = torch.optim.SGD(groups, momentum=0.9)
    part = inputs.data.train
    images = tensors(part)
    expected = []
    for rows in torch.randperm(len(images), generator=torch.Generator().manual_seed(1)).split(8):
        loss = nn.functional.cross_entropy(net.train()(images[rows]), part.labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        expected.append(loss.item())
    assert fine_tune(recipe, inputs).step_losses == pytest.approx(expected, abs=1e-6)


def test_l2_sp_adds_half_alpha_times_the_squared_distance_from_the_start(make_inputs, make_recipe):
    inputs = make_inputs()
    fields = {"training__epochs": 1, "training__batch_size": 11, "optimizer__momentum": 0.0}
    plain = fine_tune(make_recipe(freeze={"train": "all"}, **fields), inputs)
    held = fine_tune(make_recipe(freeze={"train": "all", "penalty": {"l2_sp": 0.3}}, **fields), inputs)
    # In the first step the distance is zero; in the second it is what one step of plain SGD moved outside the head.
    assert held.step_losses[0] == plain.step_losses[0]
    net = small_net(seed=0)
    part = inputs.data.train
    images = tensors(part)
    rows = torch.randperm(len(images), generator=torch.Generator().manual_seed(1))[:11]
    nn.functional.cross_entropy(net.train()(images[rows]), part.labels[rows]).backward()
    steps = sum((0.05 * p.grad).square().sum() for name, p in net.named_parameters() if not name.startswith("fc."))
    assert held.step_losses[1] - plain.step_losses[1] == pytest.approx(0.15 * steps.item(), rel=1e-3)


def test_lora_trains_its_factors_alone_and_exports_the_models_own_names(tmp_path, make_inputs, make_recipe):
    torch.manual_seed(3)
    source = CifarResNet8(3).state_dict()
    inputs = make_inputs(weights=Weights(source, "file"))
    policy = {"train": {"last": 1}, "norm_stats": "all_frozen", "adapter": {"lora": {"rank": 2, "alpha": 4.0}}}
    result = fine_tune(make_recipe(freeze=policy), inputs, checkpoints=CheckpointFolder(tmp_path))
    written = load_file(tmp_path / "best.safetensors")
    assert written.keys() == source.keys()
    moved = {name for name in source if not torch.equal(written[name], source[name])}
    convs = {"layer3.conv1.weight", "layer3.conv2.weight", "layer3.downsample.0.weight"}
    assert moved == convs | {"fc.weight", "fc.bias"}
    ranks = 2 * (64 + 32 * 9) + 2 * (64 + 64 * 9) + 2 * (64 + 32)
    assert result.trainable_parameters == ranks + 64 * 3 + 3
    net = CifarResNet8(3)
    net.load_state_dict(written)  # evaluates as the run did: the checkpoint is the adapted model
    val = inputs.data.val
    logits = net.eval()(tensors(val))
    best = result.epochs[result.best_epoch - 1].metrics["val/loss"]
    assert nn.functional.cross_entropy(logits, val.labels).item() == pytest.approx(best, abs=1e-5)


def test_head_init_resets_or_keeps_the_weights_own_head(make_inputs, make_recipe):
    torch.manual_seed(3)
    weights = Weights(CifarResNet8(3).state_dict(), "file")

    def first_loss(init):
        recipe = make_recipe(freeze={"unfrozen_stages": 0, "head": {"init": init}}, training__epochs=1)
        return fine_tune(recipe, make_inputs(weights=weights)).step_losses[0]

    assert first_loss("keep") == first_loss("auto")
    assert first_loss("reset") != first_loss("keep")
    with pytest.raises(BadInput, match=r"freeze\.head\.init: keep needs weights with a head for the same classes"):
        fine_tune(make_recipe(freeze={"head": {"init": "keep"}}), make_inputs())


@pytest.mark.parametrize("auto", ["rgn", "snr", "autofreeze"])
def test_a_gradient_driven_policy_trains_and_repeats_itself(auto, make_inputs, make_recipe):
    recipe = make_recipe(freeze={"auto": auto}, training__epochs=6)
    first, again = (fine_tune(recipe, make_inputs()) for _ in range(2))
    plain = fine_tune(make_recipe(freeze={"train": "all"}, training__epochs=6), make_inputs())
    assert first.step_losses == again.step_losses
    steps = len(plain.step_losses) // 6
    assert first.step_losses[:steps] == plain.step_losses[:steps], "the first epoch trains everything"
    assert first.step_losses != plain.step_losses
    masks = [int(ended.metrics["stages_trained"]) for ended in first.epochs]
    if auto == "autofreeze":
        assert masks == sorted(masks, reverse=True)
        assert masks[0] == 0b11111 > masks[-1]


def test_auxiliary_heads_train_with_their_stage_at_their_weight_and_rest_while_it_is_frozen(make_inputs, make_recipe):
    inputs = make_inputs(train=(0, 1, 2, 0), val=(0, 1), side=32)
    fields = {
        "backbone": {"name": "googlenet", "weights": "none"},
        "data__image_size": 32,
        "data__resize": 32,
        "training__epochs": 1,
        "training__batch_size": 4,
    }
    frozen = fine_tune(make_recipe(freeze={"unfrozen_stages": 0}, **fields), inputs)
    full = fine_tune(make_recipe(freeze={"train": "all"}, **fields), inputs)
    assert full.step_losses[0] > 1.3 * frozen.step_losses[0], "1 + 0.3 + 0.3 times a loss near log 3"
    assert frozen.step_losses[0] == pytest.approx(math.log(3), rel=0.2)
