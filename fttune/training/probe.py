"""A short measured run of a recipe: real updates and evaluations on some of its images. Leaves nothing behind.

What it measures is what a training does: the same functions on the same kinds of batches, from images and, where frozen
stages run once, from what they make of them. Estimates nothing; knows neither studies nor files that stay.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from fttune.config import Experiment
from fttune.data import Part
from fttune.files import temporary_folder
from fttune.training.activations import Activations, Kept
from fttune.training.checkpoints import Snapshot
from fttune.training.device import choose_device, seconds_of
from fttune.training.events import EpochEnded
from fttune.training.feeds import Feed
from fttune.training.inputs import Inputs
from fttune.training.loop import Regime, evaluate, set_rates, train_mode
from fttune.training.randomness import augmentation_generator, own_random_state
from fttune.training.regime import next_regime
from fttune.training.run import Run, prepare_run
from fttune.training.step import Step
from fttune.training.training import about, counts

SAMPLE = 128  # images of each split that are passed through, at least a few batches
GROUP_SECONDS, GROUP_STEPS = 0.2, 8
LEAST, MOST, ENOUGH_SECONDS = 3, 8, 1.0  # measurements, of which the quickest counts: others use the machine too
PROBE_BYTES = 2**32  # of activations that may be held while measuring


@dataclass(frozen=True)
class Pace:
    """Seconds of an update on a batch, and of the evaluation of one image."""

    step: float
    evaluation: float


@dataclass(frozen=True)
class Measured:
    """What a recipe costs. `plain` is its pace from images, `shared` that from kept activations, None without any.

    `boundary` is the number of stages that can run once. `epoch_seconds` is what an epoch takes beside updates and
    evaluation; `checkpoint_bytes` and `checkpoint_seconds` are of its best state, as written to disk. `unrest` is how
    many times as long as the quickest equal updates the slowest took: far above 1 where others use the machine too.
    """

    plain: Pace
    shared: Pace | None
    boundary: int
    epoch_seconds: float
    checkpoint_bytes: int
    checkpoint_seconds: float
    parameters: int
    unrest: float


@dataclass(frozen=True)
class FrozenPass:
    """One pass through frozen stages: seconds per image, and by boundary the bytes that an image's activations take.

    `stage_seconds` are of each stage by itself, per image, from the input on; empty where stages do not run one by one.
    """

    seconds: float
    row_bytes: Mapping[int, int]
    stage_seconds: tuple[float, ...]


def measure(experiment: Experiment, inputs: Inputs, *, folder: Path) -> Measured:
    """Train a few batches of a recipe's first phase and evaluate some images, after a warm-up; return what it took.

    A checkpoint is written below `folder` and deleted. Torch's global generators are as before afterwards.

    Raises:
        BadInput, WeightsError: the recipe cannot be trained here, as `fine_tune` says.
    """
    with own_random_state(choose_device(experiment.training).device):
        run = prepare_run(experiment, inputs)
        regime = _first_regime(run)
        train, val = some(inputs.data.train, _sample(run)), inputs.data.val and some(inputs.data.val, SAMPLE)
        feed = Feed(run, train)
        update = Step(run, regime.freezing, after=0)
        step, unrest = _step(run, regime, feed, update)
        plain = Pace(step, _evaluation(run, Feed(run, val)) if val else 0.0)
        shared = _shared_pace(run, regime, (train, val)) if regime.boundary else None
        rest = _quickest(run, lambda: (update.record.result(run.start, steps=1), _snapshot(run)))
        size, seconds = _written(_snapshot(run), about(experiment, inputs), folder)
        run.close()
        return Measured(plain, shared, regime.boundary, rest, size, seconds, counts(run)[1], unrest)


def measure_pass(experiment: Experiment, inputs: Inputs, boundaries: Sequence[int]) -> FrozenPass:
    """Pass some images of a recipe through its stages once, keeping what they are at some boundaries.

    `experiment` must leave all stages up to the last of the boundaries frozen.
    """
    with own_random_state(choose_device(experiment.training).device):
        run = prepare_run(experiment, inputs)
        part = some(inputs.data.train, SAMPLE)
        stages = _stage_seconds(run, part) if run.runs_by_stages else ()
        reached = [number for number in boundaries if 0 < number <= _first_regime(run).boundary]
        kept = _kept(run, part, reached)
        seconds = _quickest(run, lambda: _kept(run, part, reached)) if kept else 0.0
        run.close()
        sizes = {one.boundary: one.values[:1].nbytes for one in kept}
        return FrozenPass(seconds / len(part.images), sizes, stages)


def some(part: Part, count: int) -> Part:
    """Return at most `count` images of a part, evenly spread, with the labels that belong to them."""
    chosen = np.linspace(0, len(part) - 1, min(count, len(part))).round().astype(np.int64)
    rows = part.samples[chosen].numpy()
    names = tuple(part.names[row] for row in rows)
    return Part(part.images[rows], part.labels[rows], names, key=f"{part.key}-{count}")


def _sample(run: Run) -> int:
    return max(SAMPLE, 2 * run.experiment.training.batch_size)


def _first_regime(run: Run) -> Regime:
    regime = next_regime(run, [], None)
    assert regime is not None, "a run has an epoch"
    return regime


def _shared_pace(run: Run, regime: Regime, parts: tuple[Part, Part | None]) -> Pace:
    """Return the pace from activations; under fresh augmentation training begins at the images all the same."""
    train, val = parts
    fresh = run.experiment.data.fresh_augment != "none"
    of_train = None if fresh else _last(_kept(run, train, [regime.boundary]))
    feed = Feed(run, train, of_train)
    step, _ = _step(run, regime, feed, Step(run, regime.freezing, after=feed.after))
    of_val = _last(_kept(run, val, [regime.boundary])) if val else None
    return Pace(step, _evaluation(run, Feed(run, val, of_val)) if val else 0.0)


def _step(run: Run, regime: Regime, feed: Feed, update: Step) -> tuple[float, float]:
    """Return the mean seconds of an update in the quickest of some groups, and by how much the slowest took longer.

    The first updates only warm up.
    """
    train_mode(run, regime.freezing)
    set_rates(run, regime.rates, factor=1.0)
    rows = torch.randperm(len(feed.split), generator=torch.Generator().manual_seed(0))
    batches = torch.split(rows, run.experiment.training.batch_size)
    whole = [batch for batch in batches if len(batch) == len(batches[0])]
    draws = augmentation_generator(seed=0, epoch=1)

    def steps(count: int) -> None:
        order = [whole[index % len(whole)] for index in range(count)]
        for batch in feed.batches(order, draws):
            update(*batch)

    steps(2)
    once = seconds_of(lambda: steps(1), run.device.device)
    count = min(max(math.ceil(GROUP_SECONDS / once), 1), GROUP_STEPS)
    found = _repeated(run, lambda: steps(count))
    return min(found) / count, max(found) / min(found)


def _evaluation(run: Run, feed: Feed) -> float:
    """Return the seconds of evaluating one image."""
    evaluate({"val": feed})
    return _quickest(run, lambda: evaluate({"val": feed})) / len(feed.split)


def _kept(run: Run, part: Part, boundaries: Sequence[int]) -> list[Kept]:
    """Return the activations of a part at some boundaries, computed now, in memory, in one pass."""
    activations = Activations(memory_bytes=PROBE_BYTES)
    activations.wanted = frozenset(boundaries)
    with run.device.autocast():
        found = [activations.deepest(run.prefix, part, number) for number in sorted(boundaries, reverse=True)]
    return [kept for kept in found if kept is not None]


def _last(kept: Sequence[Kept]) -> Kept | None:
    return kept[0] if kept else None


def _stage_seconds(run: Run, part: Part) -> tuple[float, ...]:
    """Return the seconds of each stage per image, in evaluation mode."""
    found: list[float] = []
    run.backbone.module.eval()
    rows = torch.arange(min(64, len(part.images)))
    with torch.no_grad(), run.device.autocast():
        x, _labels = Feed(run, part).batch(rows)
        for stage in run.backbone.cut.stages:
            work = partial(run.backbone.run_stage, stage.name, x)
            x = work()
            found.append(_quickest(run, work) / len(rows))
    return tuple(found)


def _snapshot(run: Run) -> Snapshot:
    ended = EpochEnded(1, {})
    return Snapshot.of(ended, run.backbone.module, start=run.start, changing=run.changing)


def _written(snapshot: Snapshot, content: Mapping[str, object], folder: Path) -> tuple[int, float]:
    """Return the size of a checkpoint on disk, and the seconds of writing it."""
    with temporary_folder(folder, "probe") as place:
        started = time.perf_counter()
        files = snapshot.write(place / "best.safetensors", content)
        return sum(file.stat().st_size for file in files), time.perf_counter() - started


def _quickest(run: Run, work: Callable[[], object]) -> float:
    """Return the least seconds that some work took."""
    return min(_repeated(run, work))


def _repeated(run: Run, work: Callable[[], object]) -> list[float]:
    """Return the seconds that some work took each time; long work is done fewer times."""
    found: list[float] = []
    while len(found) < LEAST or (len(found) < MOST and sum(found) < ENOUGH_SECONDS):
        found.append(seconds_of(work, run.device.device))
    return found
