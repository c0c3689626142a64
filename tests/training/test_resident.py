"""Batches are the rows of the part, wherever its images live; a CPU device stands in for a GPU's memory."""

import dataclasses
import threading

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fttune.data import Part
from fttune.training import fine_tune, resident
from fttune.training.resident import DeviceImages, HostImages, ResidentImages, StreamedImages, free_device_bytes

CPU = torch.device("cpu")
PIXELS = np.random.default_rng(0).integers(0, 256, (10, 4, 5, 3), dtype=np.uint8)
PIXELS.flags.writeable = False
KINDS = [HostImages, ResidentImages, StreamedImages]
ORDER = [torch.tensor(rows) for rows in ([3, 1, 9, 0], [2, 2, 8, 7], [5])]


def part(key: str = "a", pixels: np.ndarray = PIXELS) -> Part:
    return Part(pixels, torch.zeros(len(pixels), dtype=torch.int64), ("x",) * len(pixels), key)


def plain(rows) -> torch.Tensor:
    return torch.from_numpy(PIXELS.transpose(0, 3, 1, 2)[list(rows)].copy())


@pytest.mark.parametrize("kind", KINDS)
@given(order=st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=6), max_size=5))
def test_any_order_of_batches_gives_the_rows_of_the_part(kind, order):
    images, rows = kind(PIXELS, CPU), [torch.tensor(batch) for batch in order]
    for found in (list(images.batches(rows)), [images.batch(batch) for batch in rows]):
        assert len(found) == len(order)
        assert all(torch.equal(batch, plain(wanted)) for batch, wanted in zip(found, order, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_batches_lie_in_memory_as_images_are_stored(kind):
    images = kind(PIXELS, CPU)
    for batch in (images.batch(ORDER[0]), next(iter(images.batches(ORDER)))):
        assert batch.dtype == torch.uint8
        assert batch.is_contiguous(memory_format=torch.channels_last) and not batch.is_contiguous()


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_the_callers_own_and_stays_as_it_is(kind):
    images = kind(PIXELS, CPU)
    batches = list(images.batches([*ORDER, *ORDER]))
    batches[0].zero_()
    images.batch(ORDER[1]).zero_()
    for batch, rows in zip(batches[1:], [*ORDER, *ORDER][1:], strict=True):
        assert torch.equal(batch, plain(rows.tolist()))


def test_a_resident_part_is_copied_in_pieces(monkeypatch):
    monkeypatch.setattr(resident, "_CHUNK_BYTES", 3 * PIXELS[0].nbytes)
    assert torch.equal(ResidentImages(PIXELS, CPU).batch(torch.arange(10)), plain(range(10)))


def test_a_part_that_was_first_read_in_an_evaluation_can_be_trained_with():
    with torch.inference_mode():
        images = ResidentImages(PIXELS, CPU)
    scale = torch.ones((), requires_grad=True)
    (images.batch(ORDER[0]).float() * scale).sum().backward()
    assert scale.grad == plain(ORDER[0].tolist()).sum()


def test_the_memory_of_the_host_holds_no_second_copy():
    assert free_device_bytes(CPU) is None
    images = DeviceImages().of(part(), CPU)
    assert type(images) is HostImages


@pytest.mark.parametrize(
    ("free", "kind"), [(2 * PIXELS.nbytes, ResidentImages), (2 * PIXELS.nbytes - 1, StreamedImages)]
)
def test_a_part_lives_on_the_device_when_it_takes_half_of_what_is_free_or_less(free, kind):
    assert type(DeviceImages(lambda _: free).of(part(), CPU)) is kind


def test_all_resident_parts_together_take_half_of_what_would_be_free_without_them():
    free = [4 * PIXELS.nbytes]
    images = DeviceImages(lambda _: free[0])
    kinds = []
    for key in ("a", "b", "c"):
        kinds.append(type(images.of(part(key), CPU)))
        free[0] -= PIXELS.nbytes * (kinds[-1] is ResidentImages)
    assert kinds == [ResidentImages, ResidentImages, StreamedImages]


def test_a_part_is_placed_once_whoever_asks_and_whatever_is_free_later():
    free = [PIXELS.nbytes, 10 * PIXELS.nbytes, 0]
    images = DeviceImages(lambda _: free.pop(0))
    first = images.of(part("a"), CPU)
    second = images.of(part("b"), CPU)
    assert type(first) is StreamedImages and type(second) is ResidentImages
    assert images.of(part("a"), CPU) is first and images.of(part("b"), CPU) is second
    assert images.of(dataclasses.replace(part("b"), labels=torch.ones(10)), CPU) is second, "labels are not in it"
    assert free == [0]


def test_a_device_that_is_full_after_all_is_streamed_to(monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(resident, "ResidentImages", type("Full", (ResidentImages,), {"__init__": full}))
    images = DeviceImages(lambda _: 10**12).of(part(), CPU)
    assert torch.equal(images.batch(ORDER[0]), plain(ORDER[0].tolist()))
    assert type(images) is StreamedImages


@pytest.fixture
def gathered(monkeypatch):
    """The sizes of the batches that were gathered so far, and an event for each of them."""
    begun: list[list[int]] = []
    done = [threading.Event() for _ in ORDER]
    gather = resident._Buffer.gather

    def recording(buffer, images, rows):
        begun.append(rows.tolist())
        pixels = gather(buffer, images, rows)
        done[len(begun) - 1].set()
        return pixels

    monkeypatch.setattr(resident._Buffer, "gather", recording)
    return begun, done


def test_exactly_one_batch_is_gathered_ahead(gathered):
    begun, done = gathered
    batches = StreamedImages(PIXELS, CPU).batches(ORDER)
    assert begun == []
    for index in range(len(ORDER)):
        next(batches)
        ahead = min(index + 1, len(ORDER) - 1)
        assert done[ahead].wait(60)
        assert begun == [rows.tolist() for rows in ORDER[: ahead + 1]]


def test_a_buffer_is_filled_again_only_when_its_last_batch_has_left():
    log = []
    buffer = resident._Buffer((4, *PIXELS.shape[1:]), CPU)
    buffer._sent = type("Event", (), {"synchronize": lambda _: log.append(buffer._pixels.clone())})()
    buffer._pixels.fill_(7)
    buffer.gather(PIXELS, ORDER[0])
    assert (log[0] == 7).all(), "it was waited for before anything was overwritten"


def test_batches_that_nobody_takes_end_their_thread(gathered):
    before = threading.active_count()
    batches = StreamedImages(PIXELS, CPU).batches(ORDER)
    next(batches)
    batches.close()
    assert threading.active_count() == before and len(gathered[0]) == 2


def test_an_error_of_the_disk_is_the_readers(monkeypatch):
    def broken(*_: object) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr(resident._Buffer, "gather", broken)
    with pytest.raises(OSError, match="the disk is gone"):
        next(StreamedImages(PIXELS, CPU).batches(ORDER))


def test_inputs_give_labels_with_the_images(make_inputs):
    inputs = make_inputs()
    data = inputs.data.train
    pairs = list(inputs.batches(data, ORDER, CPU))
    for (images, labels), rows in zip(pairs, ORDER, strict=True):
        assert torch.equal(images.permute(0, 2, 3, 1), torch.from_numpy(data.images[rows.numpy()]))
        assert labels.tolist() == [row % 3 for row in rows.tolist()]


@pytest.mark.parametrize("free", [0, 10**12])
def test_a_run_is_the_same_bit_for_bit_wherever_its_images_live(free, make_inputs, make_recipe):
    inputs = make_inputs()
    moved = dataclasses.replace(inputs, on_device=DeviceImages(lambda _: free))
    runs = [fine_tune(make_recipe(data__augment="flip"), each) for each in (inputs, moved, moved)]
    assert len({run.step_losses for run in runs}) == 1
    assert len({run.value for run in runs}) == 1


needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("kind", KINDS)
def test_batches_on_a_gpu_are_the_rows_of_the_part(kind):
    device = torch.device("cuda")
    order = [torch.randint(10, (size,)) for size in (4, 4, 4, 4, 4, 4, 1)] * 20
    images = kind(PIXELS, device)
    found = [batch.clone() for batch in images.batches(order)]
    for batch, rows in zip(found, order, strict=True):
        assert batch.device.type == "cuda" and batch.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(batch.cpu(), plain(rows.tolist()))
        assert torch.equal(images.batch(rows).cpu(), plain(rows.tolist()))


@pytest.mark.gpu
@needs_cuda
def test_a_slow_copy_is_not_overtaken_by_the_next_batch():
    device, wide = torch.device("cuda"), np.random.default_rng(1).integers(0, 256, (64, 224, 224, 3), dtype=np.uint8)
    order = list(torch.split(torch.arange(64).repeat(8), 32))
    work = torch.randn(4096, 4096, device=device)
    found = []
    for batch in StreamedImages(wide, device).batches(order):
        for _ in range(20):
            work = (work @ work).clamp(-1, 1)  # keeps the stream busy, so that copies queue up behind it
        found.append(batch)
    for batch, rows in zip(found, order, strict=True):
        assert torch.equal(batch.permute(0, 2, 3, 1).cpu(), torch.from_numpy(wide[rows.numpy()]))


@pytest.mark.gpu
@needs_cuda
def test_a_part_is_uploaded_once_for_all_runs(make_inputs, make_recipe):
    inputs = make_inputs()
    recipe = make_recipe(training__device="cuda")
    fine_tune(recipe, inputs)
    images = inputs.on_device.of(inputs.data.train, torch.device("cuda"))
    fine_tune(recipe, inputs)
    assert type(images) is ResidentImages
    assert inputs.on_device.of(inputs.data.train, torch.device("cuda")) is images


@pytest.mark.gpu
@needs_cuda
def test_a_resident_batch_waits_for_nothing():
    images = ResidentImages(PIXELS, torch.device("cuda"))
    images.batch(ORDER[0])
    torch.cuda.set_sync_debug_mode("error")
    try:
        images.batch(ORDER[1])
    finally:
        torch.cuda.set_sync_debug_mode("default")
