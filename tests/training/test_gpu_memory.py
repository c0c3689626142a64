"""A card that is really full: most of its memory is held by somebody else. Skipped without one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch

from fttune.errors import OutOfMemory
from fttune.training import FineTuneResult, fine_tune, step
from fttune.training.events import EpochEnded, Event, Notice

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
LABELS = tuple(i % 3 for i in range(60))
MIB = 2**20
SHARES = (0.6, 0.5, 0.4, 0.3, 0.2)


@contextmanager
def filled(*, leaving: int) -> Iterator[None]:
    """Hold all memory of the card but so many bytes."""
    torch.cuda.empty_cache()
    held = torch.empty(torch.cuda.mem_get_info()[0] - leaving, dtype=torch.uint8, device="cuda")
    try:
        yield
    finally:
        del held
        torch.cuda.empty_cache()


@pytest.fixture(autouse=True)
def exact(monkeypatch):
    """Convolutions in full single precision, and steps one by one unless a test says otherwise."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(step, "MIN_REPLAYS", 10**9)


@pytest.fixture
def make_gpu_recipe(make_recipe):
    def make(**fields):
        base = {"data__image_size": 128, "data__resize": 128, "training__device": "cuda"}
        base |= {"training__precision": "fp32", "optimizer__lr": 0.001, "training__batch_size": 48}
        return make_recipe(**{**base, "backbone__name": "convnext_tiny", **fields})

    return make


@pytest.fixture
def still(make_gpu_recipe):
    """Return a recipe whose norms stand still; ConvNeXt drops whole blocks by chance, so ResNet without its norms."""
    return make_gpu_recipe(backbone__name="resnet18", freeze__norm_stats="all_frozen")


def peak_of(recipe, inputs) -> int:
    """Return how many bytes torch reserves for a run at most, beyond what is reserved before."""
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    torch.cuda.reset_peak_memory_stats()
    fine_tune(recipe, inputs)
    return torch.cuda.max_memory_reserved() - before


def short_of(peak: int, work: Callable[[list[Event]], FineTuneResult], told: str) -> FineTuneResult:
    """Return what work returns on a card that is just so full that a notice holds `told`.

    Where memory is short cuDNN does with less than the peak that it takes of plenty, so a share of it may be enough.
    """
    for share in SHARES:
        events: list[Event] = []
        with filled(leaving=int(share * peak)):
            found = work(events)
        if any(told in text for text in notices_of(events)):
            return found
    pytest.fail(f"all of it fits into {SHARES[-1]:.0%} of {peak / MIB:.0f} MiB")


def notices_of(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Notice)]


def test_micro_batches_on_a_full_card_train_as_whole_batches_do(make_inputs, still):
    peak = peak_of(still, make_inputs(LABELS, LABELS, side=128))
    whole = fine_tune(still, make_inputs(LABELS, LABELS, side=128))

    def work(events):
        return fine_tune(still, make_inputs(LABELS, LABELS, side=128), emit=events.append)

    small = short_of(peak, work, "micro-batches from now on")
    assert small.epochs[-1].micro_batches > 1
    assert small.step_losses == pytest.approx(whole.step_losses, abs=2e-3)
    assert small.value == pytest.approx(whole.value, abs=2e-3)


def test_trained_norms_on_a_full_card_are_refused_and_the_card_is_free_again(make_inputs, make_gpu_recipe):
    recipe = make_gpu_recipe(backbone__name="resnet18")
    peak = peak_of(recipe, make_inputs(LABELS, side=128))
    allocated = torch.cuda.memory_allocated()
    with filled(leaving=int(0.5 * peak)):
        inputs = make_inputs(LABELS, side=128)
        with pytest.raises(OutOfMemory, match=r"tried to allocate .* because bn1 and 19 more take statistics"):
            fine_tune(recipe, inputs)
        del inputs
    assert torch.cuda.memory_allocated() <= allocated + MIB
    assert fine_tune(recipe, make_inputs(LABELS, side=128)).epochs


def test_a_model_that_is_larger_than_the_card_has_left_is_refused(make_inputs, make_gpu_recipe):
    with filled(leaving=64 * MIB), pytest.raises(OutOfMemory, match="unfreeze fewer stages"):
        fine_tune(make_gpu_recipe(), make_inputs(LABELS, side=128))


def test_evaluation_on_a_full_card_takes_fewer_images_at_once(make_inputs, make_gpu_recipe):
    """Of head-only training, evaluation from images is what takes most: 240 of them, against batches of 4."""
    recipe = make_gpu_recipe(
        backbone__name="resnet18", training__batch_size=4, freeze__unfrozen_stages=1, freeze__norm_stats="all_frozen"
    )
    val = LABELS * 4
    peak = peak_of(recipe, make_inputs(LABELS, val, side=128).plain())
    whole = fine_tune(recipe, make_inputs(LABELS, val, side=128).plain())

    def work(events):
        return fine_tune(recipe, make_inputs(LABELS, val, side=128).plain(), emit=events.append)

    small = short_of(peak, work, "memory ran out: evaluation takes at most")
    assert small.value == pytest.approx(whole.value, abs=2e-3)


def test_frozen_stages_on_a_full_card_take_fewer_images_at_once(make_inputs, make_gpu_recipe):
    recipe = make_gpu_recipe(backbone__name="resnet18", freeze__unfrozen_stages=0, training__batch_size=4)
    peak = peak_of(recipe, make_inputs(LABELS * 4, LABELS, side=128))
    whole = fine_tune(recipe, make_inputs(LABELS * 4, LABELS, side=128))
    with filled(leaving=int(0.6 * peak)):
        small = fine_tune(recipe, make_inputs(LABELS * 4, LABELS, side=128))
    assert small.step_losses == pytest.approx(whole.step_losses, abs=2e-3)


def test_the_memory_of_a_recorded_step_is_given_up_first(make_inputs, make_gpu_recipe, monkeypatch):
    """60 images in batches of 48 and 12. Steps of 48 are replayed; then the card fills up, and the next batch of 12,
    which is not, needs the memory that the recorded step keeps. Norms train: their statistics must not move twice."""
    monkeypatch.setattr(step, "MIN_REPLAYS", 1)
    recipe = make_gpu_recipe(backbone__name="resnet18", training__epochs=4)
    whole = fine_tune(recipe, make_inputs(LABELS, LABELS, side=128))
    events: list[Event] = []
    held: list[torch.Tensor] = []

    def fill_up(event: Event) -> None:
        events.append(event)
        if isinstance(event, EpochEnded) and event.epoch == 2:
            torch.cuda.empty_cache()
            held.append(torch.empty(torch.cuda.mem_get_info()[0] - 32 * MIB, dtype=torch.uint8, device="cuda"))

    small = fine_tune(recipe, make_inputs(LABELS, LABELS, side=128), emit=fill_up)
    held.clear()
    torch.cuda.empty_cache()
    assert [text for text in notices_of(events) if "not replayed as a CUDA graph any more" in text]
    assert small.epochs[-1].micro_batches == 1
    assert small.step_losses == pytest.approx(whole.step_losses, abs=2e-3)
    assert small.value == pytest.approx(whole.value, abs=5e-3)


def test_a_failed_try_leaves_the_devices_generator_where_it_was(make_inputs, make_gpu_recipe):
    """Dropout of EfficientNet: with the same masks per piece, two full cards give the same losses."""
    recipe = make_gpu_recipe(backbone__name="efficientnet_b0", freeze__norm_stats="all_frozen")
    peak = peak_of(recipe, make_inputs(LABELS, side=128))
    losses = []
    for share in (0.6, 0.65):
        with filled(leaving=int(share * peak)):
            found = fine_tune(recipe, make_inputs(LABELS, side=128))
        losses.append((found.epochs[-1].micro_batches, found.step_losses))
    assert losses[0][0] == losses[1][0] > 1
    assert losses[0][1] == pytest.approx(losses[1][1], abs=2e-3)
