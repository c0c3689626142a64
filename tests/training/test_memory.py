"""When memory runs out: the same numbers from fewer samples at once, or an error that says why not.

A layer that refuses more than a number of samples, as an allocator would, stands in for a full card.
"""

import dataclasses
import gc
import weakref
from collections.abc import Callable
from contextlib import suppress

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from fttune.errors import OutOfMemory
from fttune.freezing import apply_phase
from fttune.models import architecture_of
from fttune.models.weights import weights_of_module
from fttune.training import Inputs, fine_tune
from fttune.training.cohort import plan
from fttune.training.events import Described, EpochEnded, Event, Notice
from fttune.training.fine_tune import FineTuneResult, finish
from fttune.training.loop import train_mode
from fttune.training.memory import missing_memory, tied_to_batch
from fttune.training.run import prepare_run
from fttune.training.step import _gradients
from fttune.training.training import Solo

MANY = 10**6
CLOCKED = ("step_seconds", "epoch_seconds")
CUDA = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 4 GiB")
CPU = RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 4096 bytes.")
HOST = MemoryError("Unable to allocate 7.11 PiB for an array")


class _Refusing(torch.autograd.Function):
    """The identity, whose backward pass finds no memory."""

    @staticmethod
    def forward(_ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(_ctx, _gradient):
        raise torch.OutOfMemoryError(*CUDA.args)


class Room(nn.Module):
    """Passes on at most so many samples in training, and in evaluation; `where` says when more are too many."""

    def __init__(self, training: int = MANY, evaluation: int = MANY, where: str = "forward", error=CUDA) -> None:
        super().__init__()
        self.rooms, self.where, self.error, self.seen = (evaluation, training), where, error, []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(len(x))
        if len(x) <= self.rooms[self.training]:
            return x
        if self.where == "backward" and torch.is_grad_enabled():
            return _Refusing.apply(x)
        raise type(self.error)(*self.error.args)  # an error keeps what its frames held


class Net(nn.Module):
    """Convolutions that are normalised per sample, with room behind each stage."""

    head = "last"

    def __init__(self, first: Room | None = None, second: Room | None = None, *, norm=None, dropout: float = 0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.room = nn.Conv2d(3, 6, 3), first or Room()
        self.norm = norm or nn.GroupNorm(2, 6)
        self.block = nn.Sequential(nn.ReLU(), nn.Dropout(dropout), nn.Conv2d(6, 8, 3), nn.ReLU())
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.late, self.last = second or Room(), nn.Linear(8, 3)
        self.stages = {"stem": ["conv", "room"], "body": ["norm", "block", "pool", "late"]}

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.late(self.pool(self.block(self.norm(self.room(self.conv(x)))))))


@pytest.fixture
def inputs_of(make_inputs) -> Callable[..., Inputs]:
    """Return the inputs of a module, which train it from the weights that it has."""

    def make(module: nn.Module) -> Inputs:
        own = {"architecture": architecture_of(module), "weights": weights_of_module(module)}
        return dataclasses.replace(make_inputs(), **own)

    return make


@pytest.fixture
def recipe_of(make_recipe):
    def make(**fields):
        return make_recipe(**{"training__precision": "float64", "optimizer__lr": 0.3, **fields})

    return make


@dataclasses.dataclass(frozen=True)
class Trained:
    result: FineTuneResult
    weights: dict[str, Tensor]
    events: list[Event]

    @property
    def notices(self) -> list[str]:
        return [event.text for event in self.events if isinstance(event, Notice) and "memory" in event.text]

    @property
    def tags(self) -> dict[str, str]:
        return {n: v for event in self.events if isinstance(event, Described) for n, v in event.tags.items()}


def trained(recipe, inputs: Inputs, begin=Solo) -> Trained:
    """Train a recipe to its end, with its last weights and what was said."""
    events: list[Event] = []
    training = begin(recipe, inputs)
    result = finish(training, emit=events.append)
    weights = {n: t.detach().clone() for n, t in training.run.backbone.module.state_dict().items()}
    return Trained(result, weights, events)


def numbers(epochs: tuple[EpochEnded, ...]) -> list[dict[str, float]]:
    return [{n: v for n, v in ended.metrics.items() if n not in CLOCKED} for ended in epochs]


def assert_same(found: FineTuneResult, whole: FineTuneResult) -> None:
    assert found.step_losses == pytest.approx(whole.step_losses, rel=1e-9, abs=1e-9)
    for own, expected in zip(numbers(found.epochs), numbers(whole.epochs), strict=True):
        assert own == pytest.approx(expected, rel=1e-9, abs=1e-9)


def assert_same_training(found: Trained, whole: Trained) -> None:
    assert_same(found.result, whole.result)
    assert found.weights.keys() == whole.weights.keys()
    for name, tensor in whole.weights.items():
        torch.testing.assert_close(found.weights[name], tensor, rtol=1e-9, atol=1e-9)


RECIPES = {
    "momentum and weight decay": {"optimizer__momentum": 0.9, "optimizer__weight_decay": 0.1},
    "nesterov": {"optimizer__momentum": 0.9, "optimizer__nesterov": True},
    "clipping": {"optimizer__clip_grad_norm": 0.05},
    "class weights": {"training__class_weights": "balanced"},
    "smoothing": {"training__label_smoothing": 0.2},
    "class weights and smoothing": {"training__class_weights": "balanced", "training__label_smoothing": 0.2},
    "distance to the start": {"freeze__penalty": {"l2_sp": 0.5}},
    "adamw": {"optimizer__name": "adamw", "optimizer__lr": 0.01, "optimizer__weight_decay": 0.1},
    "the last stage": {"freeze__unfrozen_stages": 1},
    "gradient statistics": {"freeze": {"auto": "snr"}},
    "phases": {"freeze": {"phases": [{"epochs": 1, "unfrozen_stages": 0}, {"epochs": 1, "unfrozen_stages": "all"}]}},
}


@pytest.mark.parametrize("where", ["forward", "backward"])
@pytest.mark.parametrize("fields", RECIPES.values(), ids=RECIPES)
def test_micro_batches_train_as_whole_batches_do(fields, where, inputs_of, recipe_of):
    recipe = recipe_of(**fields)
    whole = trained(recipe, inputs_of(Net()))
    small = trained(recipe, inputs_of(Net(second=Room(3, where=where))))
    assert small.result.epochs[-1].micro_batches == 4
    assert_same_training(small, whole)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    batch_size=st.integers(1, 23),
    rooms=st.tuples(st.integers(1, 23), st.integers(2, 23)),  # two images show whether the stages run in order
    where=st.sampled_from(["forward", "backward"]),
    fields=st.sampled_from(list(RECIPES.values())),
)
def test_any_batch_size_and_any_room_give_the_same_training(batch_size, rooms, where, fields, inputs_of, recipe_of):
    recipe = recipe_of(**fields, training__batch_size=batch_size)
    first, second = Room(rooms[1], rooms[1]), Room(rooms[0], rooms[1], where=where)
    assert_same_training(trained(recipe, inputs_of(Net(first, second))), trained(recipe, inputs_of(Net())))


def test_the_pieces_stay_as_small_and_are_told_once(inputs_of, recipe_of):
    small = trained(recipe_of(training__epochs=3), inputs_of(Net(Room(3))))
    assert [ended.micro_batches for ended in small.result.epochs] == [4, 4, 4]
    text = "a batch of 8 is made of 4 micro-batches from now on, with the same effective batch"
    assert small.notices == [f"memory ran out: {text}"]
    assert small.tags["fttune.micro_batches"] == "4"
    plain = trained(recipe_of(), inputs_of(Net()))
    assert plain.notices == []
    assert "fttune.micro_batches" not in plain.tags


def test_a_batch_is_tried_whole_once(inputs_of, recipe_of):
    """22 samples in batches of 8, two epochs: 8, then 4 at a time, of the last 6 too."""
    room = Room(5)
    inputs = inputs_of(Net(room))
    training = Solo(recipe_of(), inputs)
    finish(training)
    seen = training.run.backbone.module.room.seen
    batches = [8, 4, 4, 4, 4, 4, 2], [4, 4, 4, 4, 4, 2]
    # Between them: the validation split of 12, and what tries the stages out at the beginning (2 images, twice).
    assert [n for n in seen if n != 12][-13:] == [*batches[0], *batches[1]]


def test_a_failed_try_leaves_the_generator_and_the_gradients_as_they_were(inputs_of, recipe_of):
    """Whether it fails before or after dropout drew its masks, in the forward or the backward pass."""
    runs = [
        trained(recipe_of(), inputs_of(Net(*rooms, dropout=0.5)))
        for rooms in ((Room(3), None), (None, Room(3)), (None, Room(3, where="backward")))
    ]
    for other in runs[1:]:
        assert other.result.step_losses == runs[0].result.step_losses
        assert all(torch.equal(other.weights[name], tensor) for name, tensor in runs[0].weights.items())


@pytest.mark.parametrize("error", [CUDA, CPU, HOST], ids=["card", "torch on the host", "numpy"])
def test_memory_of_the_host_counts_as_that_of_a_card(error, inputs_of, recipe_of):
    assert_same_training(
        trained(recipe_of(), inputs_of(Net(Room(3, error=error)))), trained(recipe_of(), inputs_of(Net()))
    )


class Drifting(nn.Module):
    """Keeps a mean over its batches by itself, as torch's own norms would not."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(6))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                self.mean.lerp_(x.mean((0, 2, 3)), 0.1)
        return x - self.mean[:, None, None]


TIED = {
    "BatchNorm": (lambda: nn.BatchNorm2d(6), "norm takes"),
    "two of them": (lambda: nn.Sequential(nn.BatchNorm2d(6), nn.BatchNorm2d(6)), "norm.0 and 1 more take"),
    "InstanceNorm with statistics": (lambda: nn.InstanceNorm2d(6, track_running_stats=True), "norm takes"),
    "one of one's own": (Drifting, "norm.mean takes"),
}


@pytest.mark.parametrize(("norm", "layers"), TIED.values(), ids=TIED)
def test_norms_that_see_the_whole_batch_forbid_micro_batches(norm, layers, inputs_of, recipe_of):
    with pytest.raises(OutOfMemory, match=r"training\.batch_size is 8: ") as caught:
        trained(recipe_of(), inputs_of(Net(Room(5), norm=norm())))
    assert f"cannot be made of smaller ones, because {layers} statistics from the whole batch" in str(caught.value)
    assert "choose a smaller batch size, or freeze.norm_stats: all_frozen" in str(caught.value)


def test_the_refusal_says_how_much_was_asked(inputs_of, recipe_of):
    with pytest.raises(OutOfMemory, match=r"8 samples at once do not fit \(tried to allocate 2\.00 GiB\)"):
        trained(recipe_of(), inputs_of(Net(Room(5), norm=nn.BatchNorm2d(6))))


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(6), nn.InstanceNorm2d(6), nn.LayerNorm((6, 6, 6))])
def test_norms_that_stand_still_allow_micro_batches(norm, inputs_of, recipe_of):
    recipe = recipe_of(freeze__norm_stats="all_frozen")
    small, whole = (trained(recipe, inputs_of(Net(room, norm=norm))) for room in (Room(3), Room()))
    assert small.result.epochs[-1].micro_batches == 4
    assert_same_training(small, whole)


def test_a_norm_without_running_statistics_sees_the_whole_batch_in_every_mode():
    for training in (True, False):
        assert tied_to_batch(nn.BatchNorm2d(6, track_running_stats=False).train(training)) == ("",)
    assert tied_to_batch(nn.BatchNorm2d(6).eval()) == ()


def test_one_sample_that_does_not_fit_ends_the_run_with_the_remedy(inputs_of, recipe_of):
    text = (
        r"training\.batch_size is 8: not even one sample at a time fits \(tried to allocate 2\.00 GiB\); "
        r"unfreeze fewer stages, or choose a smaller data\.image_size or backbone"
    )
    with pytest.raises(OutOfMemory, match=text):
        trained(recipe_of(), inputs_of(Net(Room(0))))


def test_an_optimizer_that_finds_no_memory_ends_the_run(inputs_of, recipe_of):
    def refuse(*_: object) -> None:
        raise torch.OutOfMemoryError(*CUDA.args)

    hook = register_optimizer_step_pre_hook(refuse)
    try:
        with pytest.raises(OutOfMemory, match=r"training\.batch_size is 8: memory ran out \(tried to allocate 2"):
            trained(recipe_of(), inputs_of(Net()))
    finally:
        hook.remove()


def test_another_error_of_the_model_stays_what_it_is(inputs_of, recipe_of):
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        trained(recipe_of(), inputs_of(Net(Room(3, error=RuntimeError("mat1 and mat2 shapes")))))


class Watching(Room):
    """Notes at each call whether what it refused before has been freed."""

    def __init__(self, training: int) -> None:
        super().__init__(training)
        self.refused, self.freed = [], []

    def forward(self, x: Tensor) -> Tensor:
        self.freed += [refused() is None for refused in self.refused]
        self.refused = [weakref.ref(x)] if len(x) > self.rooms[self.training] else []
        return super().forward(x)


def test_what_a_failed_try_held_is_free_before_the_next(inputs_of, recipe_of):
    gc.disable()
    try:
        training = Solo(recipe_of(), inputs_of(Net(second=Watching(3))))
        finish(training)
    finally:
        gc.enable()
    assert training.run.backbone.module.late.freed == [True, True]


def test_a_run_that_failed_keeps_nothing(inputs_of, recipe_of):
    inputs, recipe = inputs_of(Net(Room(0))), recipe_of(optimizer__momentum=0.9)
    gc.collect()
    gc.disable()
    try:
        training = Solo(recipe, inputs)
        optimizer = weakref.ref(training.run.optimizer)
        with suppress(OutOfMemory):
            finish(training)
        assert all(p.grad is None for p in training.run.backbone.module.parameters())
        del training
        assert optimizer() is None
    finally:
        gc.enable()


def test_evaluation_takes_fewer_samples_at_once(inputs_of, recipe_of):
    recipe, inputs = recipe_of(freeze__unfrozen_stages=1), inputs_of(Net(second=Room(evaluation=5)))
    small = trained(recipe, inputs)
    assert_same_training(small, trained(recipe, inputs_of(Net())))
    assert small.notices == ["memory ran out: evaluation takes at most 3 samples at once from now on"]
    assert small.result.epochs[-1].micro_batches == 1
    assert trained(recipe.replace({"seed": 1}), inputs).notices == [], "the next run knows"


def test_frozen_stages_take_fewer_images_at_once(inputs_of, recipe_of):
    recipe = recipe_of(freeze__unfrozen_stages=1)
    small = trained(recipe, inputs_of(Net(Room(evaluation=5))))
    assert_same_training(small, trained(recipe, inputs_of(Net())))
    assert small.notices == ["memory ran out: a pass through frozen stages takes at most 3 samples at once from now on"]


@pytest.mark.parametrize("place", ["room", "late"])
def test_stages_that_take_no_image_end_the_run_before_it_trains(place, inputs_of, recipe_of):
    rooms = {"room": (Room(evaluation=0), None), "late": (None, Room(evaluation=0))}[place]
    with pytest.raises(OutOfMemory, match=r"^memory ran out \(tried to allocate 2\.00 GiB\); unfreeze fewer stages"):
        trained(recipe_of(freeze__unfrozen_stages=1), inputs_of(Net(*rooms)))


def test_evaluation_that_depends_on_the_batch_is_not_cut(inputs_of, recipe_of):
    net = Net(second=Room(evaluation=5), norm=nn.BatchNorm2d(6, track_running_stats=False))
    with pytest.raises(OutOfMemory, match=r"evaluation: 12 samples do not fit .* because norm takes statistics"):
        trained(recipe_of(), inputs_of(net))


@pytest.mark.parametrize("kept", [True, False], ids=["activations", "images"])
@pytest.mark.parametrize("fields", [{}, RECIPES["class weights and smoothing"], RECIPES["clipping"]])
def test_a_cohort_takes_fewer_samples_at_once(kept, fields, inputs_of, recipe_of):
    recipes = [recipe_of(freeze__unfrozen_stages=0, optimizer__lr=lr, **fields) for lr in (0.1, 0.3)]
    found = {}
    for name, room in (("whole", Room()), ("small", Room(evaluation=5))):
        inputs = inputs_of(Net(second=room))
        inputs = inputs if kept else inputs.plain()
        found[name] = [finish(begin()) for begin in plan(recipes, inputs)]
    for small, whole in zip(found["small"], found["whole"], strict=True):
        assert_same(small, whole)
        assert small.epochs[-1].micro_batches == (1 if kept else 2)


def test_trainings_of_a_cohort_that_does_not_fit_say_so(inputs_of, recipe_of):
    recipes = [recipe_of(freeze__unfrozen_stages=0, optimizer__lr=lr) for lr in (0.1, 0.3)]
    begins = plan(recipes, inputs_of(Net(Room(evaluation=0))).plain())
    for begin in begins:
        with pytest.raises(OutOfMemory, match="memory ran out"):
            finish(begin())


def test_auxiliary_heads_have_their_share_once(make_inputs, make_recipe):
    fields = {"data__image_size": 64, "data__resize": 64, "freeze__norm_stats": "all_frozen"}
    recipe = make_recipe(backbone__name="googlenet", training__precision="float64", **fields)
    run = prepare_run(recipe, make_inputs(side=64))
    freezing = apply_phase(run.parts, run.policy, run.policy.phases[0])
    train_mode(run, freezing)
    for layer in run.backbone.module.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0  # its masks are drawn per piece
    torch.manual_seed(0)
    batch = torch.randn(3, 3, 64, 64, dtype=torch.float64), torch.tensor([0, 1, 2])
    found = []
    for at_once in (3, 2):
        loss, hits = _gradients(run, freezing, batch, after=0, at_once=at_once)
        found.append((loss, hits, [p.grad for p in run.backbone.module.parameters() if p.grad is not None]))
    torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("allocate", [lambda: torch.empty(10**15), lambda: np.empty(10**15)])
def test_what_allocators_raise_is_known_with_its_size(allocate):
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        allocate()
    assert missing_memory(caught.value) in (
        "tried to allocate 4000000000000000 bytes",
        "tried to allocate 7.11 PiB",
    )


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("CUDA error: out of memory\nmore", "CUDA error: out of memory"),
        ("MPS backend out of memory (MPS allocated: 1 GB). Tried to allocate 20 MB", "tried to allocate 20 MB"),
        ("cuDNN error: CUDNN_STATUS_ALLOC_FAILED", "cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        ("CUDA error: an illegal memory access was encountered", None),
        ("expected scalar type Float but found Double", None),
    ],
)
def test_errors_are_told_apart_by_their_text(text, missing):
    assert missing_memory(RuntimeError(text)) == missing


def test_an_empty_memory_error_has_a_name():
    assert missing_memory(MemoryError()) == "MemoryError"


def test_fine_tune_raises_it_too(inputs_of, recipe_of):
    with pytest.raises(OutOfMemory):
        fine_tune(recipe_of(), inputs_of(Net(Room(0))))
