"""`fine_tune` against the same training written out in plain PyTorch, and what it promises about epochs."""

import math
import random
import sys
from collections.abc import Callable

import numpy as np
import pytest
import sklearn.utils.class_weight
import torch
import torchvision
from torch import nn
from torch.optim import lr_scheduler

from fttune.errors import BadInput, Diverged
from fttune.models import Weights
from fttune.models.cifar_resnet import CifarResNet8
from fttune.training import Inputs, fine_tune
from fttune.training.events import Described, EpochEnded
from fttune.training.run import balanced_weights
from tests.training.plain import small_net, tensors

UNBALANCED = tuple([0] * 12 + [1] * 7 + [2] * 3)


def plain_losses(
    inputs: Inputs,
    net: nn.Module,
    make_optimizer: Callable,
    *,
    make_scheduler: Callable | None = None,
    criterion: nn.Module | None = None,
    clip: float | None = None,
    epochs: int = 2,
    batch_size: int = 8,
    seed: int = 0,
) -> list[float]:
    """The training loop of any tutorial; only the order of samples is a formula of ours."""
    images, labels = tensors(inputs.data.train), inputs.data.train.labels
    criterion = criterion or nn.CrossEntropyLoss()
    optimizer = make_optimizer(net.parameters())
    scheduler = make_scheduler(optimizer) if make_scheduler else None
    losses = []
    for epoch in range(1, epochs + 1):
        net.train()
        generator = torch.Generator().manual_seed((seed * 2654435761 + epoch) % 2**32)
        order = torch.randperm(len(labels), generator=generator)
        for start in range(0, len(labels), batch_size):
            rows = order[start : start + batch_size]
            loss = criterion(net(images[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(net.parameters(), clip)
            optimizer.step()
            if scheduler:
                scheduler.step()
            losses.append(loss.item())
    return losses


def sgd(**options) -> Callable:
    options = {"lr": 0.05, "momentum": 0.9, **options}
    return lambda parameters: torch.optim.SGD(parameters, foreach=False, fused=False, **options)


def warm_up_and_cosine(optimizer):
    """Two of the three steps of an epoch to warm up, cosine over the other 7 of 9."""
    warm = lr_scheduler.LinearLR(optimizer, start_factor=1 / 2, total_iters=1)
    return lr_scheduler.SequentialLR(optimizer, [warm, lr_scheduler.CosineAnnealingLR(optimizer, T_max=7)], [2])


def class_weights(labels: tuple[int, ...]) -> torch.Tensor:
    weights = sklearn.utils.class_weight.compute_class_weight("balanced", classes=np.arange(3), y=np.array(labels))
    return torch.tensor(weights, dtype=torch.float32)


RECIPES = {
    "sgd": ({}, {"make_optimizer": sgd()}),
    "no momentum": ({"optimizer__momentum": 0.0}, {"make_optimizer": sgd(momentum=0.0)}),
    "nesterov": ({"optimizer__nesterov": True}, {"make_optimizer": sgd(nesterov=True)}),
    "weight decay": ({"optimizer__weight_decay": 0.05}, {"make_optimizer": sgd(weight_decay=0.05)}),
    "adamw": (
        {"optimizer__name": "adamw", "optimizer__lr": 0.003, "optimizer__weight_decay": 0.1},
        {"make_optimizer": lambda p: torch.optim.AdamW(p, lr=0.003, weight_decay=0.1, foreach=False, fused=False)},
    ),
    "clipping": ({"optimizer__clip_grad_norm": 0.3}, {"make_optimizer": sgd(), "clip": 0.3}),
    "label smoothing": (
        {"training__label_smoothing": 0.2},
        {"make_optimizer": sgd(), "criterion": nn.CrossEntropyLoss(label_smoothing=0.2)},
    ),
    "balanced classes": (
        {"training__class_weights": "balanced"},
        {"make_optimizer": sgd(), "criterion": nn.CrossEntropyLoss(weight=class_weights(UNBALANCED))},
    ),
    "cosine with warm-up": (
        {"training__schedule": "cosine", "training__warmup_epochs": 0.6, "training__epochs": 3},
        {"make_optimizer": sgd(), "make_scheduler": warm_up_and_cosine, "epochs": 3},
    ),
    "step": (
        {"training__schedule": "step", "training__step_epochs": 1, "training__step_factor": 0.1},
        {"make_optimizer": sgd(), "make_scheduler": lambda o: lr_scheduler.StepLR(o, 3, 0.1)},
    ),
    "another seed": ({"seed": 7}, {"make_optimizer": sgd(), "seed": 7}),
    "one batch": ({"training__batch_size": 100}, {"make_optimizer": sgd(), "batch_size": 100}),
}


@pytest.fixture
def scripted(monkeypatch) -> Callable[..., None]:
    """Replace the evaluation by metrics that are known beforehand, one value per epoch."""

    def script(name: str, values: list[float]) -> None:
        remaining = iter(values)
        module = sys.modules["fttune.training.training"]
        monkeypatch.setattr(module, "evaluate", lambda _: {"val/loss": 0.5, name: next(remaining)})

    return script


@pytest.mark.filterwarnings("ignore:The epoch parameter in:UserWarning")  # torch's own, inside SequentialLR
@pytest.mark.parametrize("name", RECIPES)
def test_step_losses_are_those_of_a_plain_pytorch_loop(name, make_inputs, make_recipe):
    fields, plain = RECIPES[name]
    inputs = make_inputs(UNBALANCED)
    expected = plain_losses(inputs, small_net(plain.get("seed", 0)), **plain)
    result = fine_tune(make_recipe(**fields), inputs)
    assert len(expected) == 3 * plain.get("epochs", 2) or name == "one batch"
    assert result.step_losses == pytest.approx(expected, abs=1e-5)


def test_balanced_weights_are_scikit_learns():
    weights = balanced_weights(torch.tensor(UNBALANCED), 3)
    assert weights.tolist() == pytest.approx(class_weights(UNBALANCED).tolist())


def test_step_losses_of_a_frozen_resnet18_are_those_of_a_plain_loop_over_an_eval_prefix(make_inputs, make_recipe):
    torch.manual_seed(11)
    net = torchvision.models.resnet18()
    inputs = make_inputs(side=64, weights=Weights({k: t.clone() for k, t in net.state_dict().items()}, "file"))
    torch.manual_seed(0)
    net.fc = nn.Linear(512, 3)
    frozen = [net.conv1, net.bn1, net.layer1, net.layer2, net.layer3]
    for module in frozen:
        module.requires_grad_(False)
        module.train = lambda _=True, module=module: module  # never leaves evaluation mode
        module.training = False
        for child in module.modules():
            child.training = False
    expected = plain_losses(inputs, net, sgd(lr=0.002))
    recipe = make_recipe(
        backbone__name="resnet18",
        data__image_size=64,
        data__resize=64,
        freeze__unfrozen_stages=1,
        optimizer__lr=0.002,
    )
    assert fine_tune(recipe, inputs).step_losses == pytest.approx(expected, abs=1e-5)


def test_metrics_of_an_epoch_are_means_over_samples_and_those_of_the_validation_split(make_inputs, make_recipe):
    inputs = make_inputs(UNBALANCED)
    net = small_net(0)
    losses = plain_losses(inputs, net, sgd(), epochs=1)
    sizes = [8, 8, 6]
    (ended,) = fine_tune(make_recipe(training__epochs=1), inputs).epochs
    net.eval()
    with torch.no_grad():
        logits = net(tensors(inputs.data.val))
    labels = inputs.data.val.labels
    assert ended.metrics["train/loss"] == pytest.approx(np.average(losses, weights=sizes), abs=1e-5)
    assert ended.metrics["val/loss"] == pytest.approx(nn.functional.cross_entropy(logits, labels).item(), abs=1e-4)
    assert ended.metrics["val/accuracy"] == pytest.approx((logits.argmax(1) == labels).float().mean().item())
    assert (
        0
        <= ended.metrics["train/accuracy"] * len(UNBALANCED)
        == pytest.approx(round(ended.metrics["train/accuracy"] * len(UNBALANCED)))
    )
    assert ended.metrics["lr"] == 0.05
    assert ended.metrics["epoch_seconds"] > 0


def test_the_small_net_learns(make_inputs, make_recipe):
    labels = tuple(i % 3 for i in range(120))
    result = fine_tune(make_recipe(training__epochs=8), make_inputs(labels, labels))
    assert result.epochs[result.best_epoch - 1].metrics["val/accuracy"] > 0.8


def test_the_same_seed_gives_the_same_bits(make_inputs, make_recipe, tmp_path):
    from fttune.training import CheckpointFolder

    def run(folder: str, seed: int):
        recipe = make_recipe(data__augment="flip", seed=seed)
        result = fine_tune(recipe, make_inputs(), checkpoints=CheckpointFolder(tmp_path / folder, keep_last=True))
        metrics = [{k: v for k, v in e.metrics.items() if not k.endswith("_seconds")} for e in result.epochs]
        files = [(tmp_path / folder / name).read_bytes() for name in ("best.safetensors", "last.safetensors")]
        return metrics, result.step_losses, files

    assert run("a", 3) == run("b", 3)
    first, other = run("a", 3), run("c", 4)
    assert first[1] != other[1]
    assert first[2] != other[2]


@pytest.mark.parametrize("augment", ["none", "flip", "standard"])
def test_trials_with_another_lr_see_the_same_batches(augment, make_inputs, make_recipe, monkeypatch):
    seen: list[bytes] = []
    normalise = Inputs.normalise
    monkeypatch.setattr(
        Inputs,
        "normalise",
        lambda self, images, *a: (seen.append(images.numpy().tobytes()), normalise(self, images, *a))[1],
    )
    batches = []
    for lr, depth in ((0.001, 0), (0.2, "all")):
        recipe = make_recipe(optimizer__lr=lr, freeze__unfrozen_stages=depth, data__augment=augment)
        fine_tune(recipe, make_inputs(val=None).plain())
        batches.append(list(seen))
        seen.clear()
    assert batches[0] == batches[1]
    assert len(set(batches[0])) == len(batches[0]) == 6, "each epoch has its own order and views"


def test_augmentation_changes_what_is_seen_and_not_the_order(make_inputs, make_recipe):
    plain, flipped = (fine_tune(make_recipe(data__augment=a), make_inputs()).step_losses for a in ("none", "flip"))
    assert plain != flipped


def test_global_generators_are_left_alone(make_inputs, make_recipe):
    torch.manual_seed(5)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tobytes()
    fine_tune(make_recipe(data__augment="standard"), make_inputs())
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tobytes()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


def test_another_state_of_the_global_generator_changes_nothing(make_inputs, make_recipe):
    torch.manual_seed(1)
    first = fine_tune(make_recipe(), make_inputs()).step_losses
    torch.manual_seed(2)
    assert fine_tune(make_recipe(), make_inputs()).step_losses == first


def test_the_best_epoch_has_the_lowest_validation_loss_by_default(make_inputs, make_recipe, scripted):
    scripted("val/loss", [0.9, 0.4, 0.6])
    result = fine_tune(make_recipe(training__epochs=3), make_inputs())
    assert (result.best_epoch, result.value, result.state) == (2, 0.4, "complete")
    assert [ended.epoch for ended in result.epochs] == [1, 2, 3]


@pytest.mark.parametrize(
    ("metric", "values", "best"),
    [
        ("val/loss", [0.5, 0.3, 0.3, 0.3], 2),
        ("val/accuracy", [0.5, 0.7, 0.7, 0.6], 2),
        ("val/balanced_accuracy", [0.9, 0.7, 0.9, 0.9], 1),
        ("val/macro_f1", [0.1, 0.2, 0.3, 0.4], 4),
    ],
)
def test_the_best_epoch_is_the_first_on_ties_in_the_metrics_own_direction(
    metric, values, best, make_inputs, make_recipe, scripted
):
    scripted(metric, values)
    result = fine_tune(make_recipe(training__epochs=4), make_inputs(), monitor=metric)
    assert (result.best_epoch, result.value) == (best, values[best - 1])


def test_the_recipes_own_monitor_counts_unless_another_is_passed(make_inputs, make_recipe, scripted):
    recipe = make_recipe(training__epochs=2, training__monitor="val/accuracy")
    scripted("val/accuracy", [0.9, 0.1])
    assert fine_tune(recipe, make_inputs()).best_epoch == 1
    scripted("val/accuracy", [0.9, 0.1])
    assert fine_tune(recipe, make_inputs(), monitor="val/loss").value == 0.5


def test_top_5_accuracy_can_be_monitored_with_more_than_five_classes(make_inputs, make_recipe):
    inputs = make_inputs(tuple(range(6)) * 2, tuple(range(6)), classes=6)
    result = fine_tune(make_recipe(), inputs, monitor="val/top5_accuracy")
    assert result.value == max(ended.metrics["val/top5_accuracy"] for ended in result.epochs)


@pytest.mark.parametrize("val", [None, (0, 1, 2)])
def test_top_5_accuracy_cannot_be_monitored_with_five_classes(val, make_inputs, make_recipe):
    with pytest.raises(BadInput, match="val/top5_accuracy needs more than 5 classes, but there are 5; use val/acc"):
        fine_tune(make_recipe(training__monitor="val/top5_accuracy"), make_inputs(val=val, classes=5))


@pytest.mark.parametrize(("patience", "epochs", "best"), [(1, 3, 2), (2, 4, 2), (3, 5, 2), (4, 6, 6)])
def test_early_stopping_ends_when_patience_is_over(patience, epochs, best, make_inputs, make_recipe, scripted):
    scripted("val/loss", [0.9, 0.5, 0.6, 0.5, 0.7, 0.1])
    recipe = make_recipe(training__epochs=6, training__early_stop_epochs=patience)
    result = fine_tune(recipe, make_inputs())
    assert (len(result.epochs), result.best_epoch) == (epochs, best)
    assert result.state == "complete"


def test_early_stopping_needs_a_validation_split(make_inputs, make_recipe):
    with pytest.raises(BadInput, match=r"training\.early_stop_epochs needs a validation split, but data\.split\.val "):
        fine_tune(make_recipe(training__early_stop_epochs=2), make_inputs(val=None))


def test_without_a_validation_split_the_last_epoch_counts(make_inputs, make_recipe):
    result = fine_tune(make_recipe(training__epochs=3), make_inputs(val=None))
    assert (result.best_epoch, result.value) == (3, None)
    assert not any(name.startswith("val/") for ended in result.epochs for name in ended.metrics)


def test_prune_is_asked_after_every_epoch_and_ends_the_run(make_inputs, make_recipe):
    asked: list[EpochEnded] = []

    def prune(ended: EpochEnded) -> bool:
        asked.append(ended)
        return ended.epoch == 2

    result = fine_tune(make_recipe(training__epochs=5), make_inputs(), prune=prune)
    assert result.state == "pruned"
    assert result.epochs == tuple(asked)
    assert len(asked) == 2
    assert len(result.step_losses) == 6


def test_events_tell_the_run_from_its_description_to_its_last_epoch(make_inputs, make_recipe):
    events = []
    result = fine_tune(make_recipe(freeze__unfrozen_stages=1), make_inputs(), emit=events.append)
    described, *ended = events
    assert isinstance(described, Described)
    layer3 = 9 * (32 * 64 + 64 * 64) + 32 * 64 + 3 * 2 * 64
    assert result.trainable_parameters == layer3 + 64 * 3 + 3
    assert described.tags["fttune.trainable"] == "trainable 57.9k of 77.6k parameters: layer3, head"
    assert described.tags["fttune.head"] == "new, 3 classes"
    assert described.tags["fttune.device"] == f"cpu ({torch.get_num_threads()} threads), fp32"
    assert described.tags["fttune.seed"] == "0"
    assert tuple(ended) == result.epochs
    assert result.checkpoint is None


def test_a_kept_head_is_said_to_be_kept(make_inputs, make_recipe):
    events = []
    weights = Weights(small_net(1).state_dict(), "file")
    fine_tune(make_recipe(), make_inputs(weights=weights), emit=events.append)
    assert events[0].tags["fttune.head"] == "kept from the weights, 3 classes"


@pytest.mark.parametrize("lr", [1e20, 1e38])
def test_a_loss_that_is_not_finite_ends_the_run_as_diverged(lr, make_inputs, make_recipe):
    events = []
    with pytest.raises(Diverged, match=r"^train/loss became (nan|inf) in epoch 1; a smaller optimizer\.lr may help$"):
        fine_tune(make_recipe(optimizer__lr=lr), make_inputs(), emit=events.append)
    assert [type(event) for event in events] == [Described], "no metric that is not finite is emitted"


def test_a_validation_metric_that_is_not_finite_ends_the_run_as_diverged(make_inputs, make_recipe, scripted):
    scripted("val/loss", [0.5, math.inf])
    with pytest.raises(Diverged, match=r"^val/loss became inf in epoch 2;"):
        fine_tune(make_recipe(), make_inputs())


def test_a_last_batch_of_one_image_over_which_norms_cannot_average_is_bad_input(make_inputs, make_recipe):
    recipe = make_recipe(backbone__name="resnet18", data__image_size=32, data__resize=32)
    with pytest.raises(BadInput, match=r"training\.batch_size is 8, which leaves one image for the last batch of an"):
        fine_tune(recipe, make_inputs(tuple(i % 3 for i in range(9)), val=None, side=32))


def test_a_last_batch_of_one_image_trains_where_norms_can_average_over_its_pixels(make_inputs, make_recipe):
    result = fine_tune(make_recipe(), make_inputs(tuple(i % 3 for i in range(9)), val=None))
    assert len(result.step_losses) == 4


def test_an_error_of_the_model_itself_is_not_dressed_up(make_inputs, make_recipe, monkeypatch):
    def fail(*_):
        raise ValueError("a bug")

    monkeypatch.setattr(CifarResNet8, "forward", fail)
    with pytest.raises(ValueError, match=r"^a bug$"):
        fine_tune(make_recipe(), make_inputs())


def test_the_result_counts_the_time_of_the_whole_run(make_inputs, make_recipe):
    result = fine_tune(make_recipe(), make_inputs())
    assert result.seconds >= sum(ended.metrics["epoch_seconds"] for ended in result.epochs)
