"""How near does fttune's training come to what a GPU can do, and what does sharing work between trials gain there?

Work: a ResNet-50 at 224 pixels on 4,000 generated JPEG images (500 x 375 pixels, quality 90, 10 classes), bfloat16. The
weights are random, with norm statistics of the images; nothing is downloaded. Needs torch, torchvision, numpy and
pydantic with what they bring, and of fttune's other requirements pyyaml and safetensors, but no optuna or mlflow.

epoch   One epoch of full fine-tuning on all images by `fttune.training.fine_tune`: from the end of one epoch to the end
        of the next, its metrics, records of gradients and the copy of the best weights included. Baseline: the
        steps alone (`resident_loop.py`) at each batch size, eager, as CUDA graphs, and compiled by torch.compile.
        Both against the card's ceiling: the product of two square bfloat16 matrices. Target: 60 % of the baseline.
waits   Whether PyTorch's own check (`torch.cuda.set_sync_debug_mode`) sees a step wait for the device. It does not see
        what waits inside the driver, such as large copies from memory that is not pinned.
streams Whether several short suffixes gain by running side by side: steps of a last stage and head, recorded as CUDA
        graphs, replayed on as many streams as there are. Baseline: the same graphs one after another. On CUDA alone.
C, A    24 trials with 0 to 5 unfrozen stages, and 128 that train the head alone, 5 epochs each, 3,200 images to train
        and 800 to validate; fttune from JPEG files, with nothing kept from before. Baseline: a loop that shares nothing
        (`plain_training.py`: every epoch from the JPEG files with as many processes as are fastest, the net built
        once, bfloat16, channels_last, pinned), one trial of each depth, scaled to all. The bound is its time
        over that of the unavoidable work (`bare.py`). Target: 85 % of the bound for C. Validation losses are compared
        by depth. This net is untrained and amplifies rounding: at 5 unfrozen stages in the tiny size, a change of
        the first layer by one part in a million moved the plain loop's own loss by 0.1.

    python -m benchmarks.gpu                        all; without a GPU it says so and ends
    python -m benchmarks.gpu --sections epoch waits
    python -m benchmarks.gpu --tiny                 the same code in a minute, ResNet-18 at 32 pixels, on any machine

Each finished piece goes to a file (`--results`), and a later call of the same code on the same device continues there.
"""

import argparse
import dataclasses
import gc
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import gpu_lists, gpu_streams, results
from benchmarks.pictures import picture_folder
from benchmarks.plain_training import Task
from benchmarks.resident_loop import WAYS, Loop, Resident, matmul_tflops, training_flops
from benchmarks.trial_lists import DEEPEST, make_weights, recipes_of
from fttune.config.workspace import Workspace
from fttune.data import Part
from fttune.training import Inputs, fine_tune, prepare
from fttune.training.events import EpochEnded, Event
from fttune.training.feeds import Feed, feeds_of
from fttune.training.loop import train_epoch
from fttune.training.regime import next_regime
from fttune.training.run import prepare_run
from fttune.training.step import Step

VAL_SHARE = 0.2
EPOCHS = 3  # of which the first one is not counted
WATCHED: dict[str, dict[str, Any]] = {
    "all trained": {},
    "last stage trained": {"freeze.unfrozen_stages": 1},
    "flip": {"data.augment": "flip"},
    "standard augmentation": {"data.augment": "standard"},
    "clipped": {"optimizer.clip_grad_norm": 1.0, "training.class_weights": "balanced", "training.label_smoothing": 0.1},
}


@dataclass(frozen=True)
class Sizes:
    """How large the work is; lengths in pixels."""

    net: str = "resnet50"
    image_size: int = 224
    width: int = 500
    images: int = 4000
    classes: int = 10
    batch_sizes: tuple[int, ...] = (64, 128, 256, 512)
    batch_size: int = 64
    epochs: int = 5
    trials: int = 24
    heads: int = 128
    matmul: int = 8192


TINY = Sizes("resnet18", 32, 50, 40, 4, (8, 16), 8, epochs=1, trials=6, heads=4, matmul=64)


@dataclass(frozen=True)
class Bench:
    """The task, and the file that finished pieces are in, under a key that says what they are of."""

    task: Task
    sizes: Sizes
    file: Path
    key: Mapping[str, Any]
    device: torch.device

    def piece(self, name: str, work: Callable[[], results.Record]) -> results.Record:
        """Return a piece of the file; do its work when it is missing."""
        key = {**self.key, "piece": name}
        if not (found := results.matching(self.file, key)):
            gc.collect()
            gpu_lists.release()
            started = time.perf_counter()
            found = [{**key, **work()}]
            results.append(self.file, found[0])
            print(f"  {name}: done in {time.perf_counter() - started:.1f} s", flush=True)
        return found[-1]

    @property
    def workspace(self) -> Workspace:
        """Where decoded images are kept for the pieces that do not measure decoding."""
        return Workspace.at(self.file.parent, mlruns=self.task.data.with_name(f"{self.task.data.name}-mlruns"))


def epoch_section(bench: Bench) -> list[str]:
    """Return the lines that compare epochs."""
    build = bench.task.build
    ceiling = bench.piece("ceiling", lambda: {"tflops": matmul_tflops(bench.device, bench.sizes.matmul)})["tflops"]
    flops = bench.piece("flops", lambda: {"per_image": training_flops(build, bench.sizes.image_size)})["per_image"]
    lines = [f"ceiling {ceiling:.4g} TFLOP/s; the net {flops / 1e9:.4g} GFLOP per image and step"]
    rates = dict.fromkeys(WAYS, 0.0)
    best, own = bench.sizes.batch_sizes[0], dict[int, float]()
    for way in WAYS if bench.device.type == "cuda" else WAYS[:1]:
        for size in bench.sizes.batch_sizes if way == "eager" else (best,):
            found = bench.piece(f"bare {way} {size}", partial(bare_epochs, bench, size, way))
            rate = found.get("images_per_second", 0.0)
            best, rates[way] = (size, rate) if rate > rates[way] else (best, rates[way])
            after = f"after {found['ready_seconds']:.1f} s" if rate else found["failed"]
            lines.append(f"bare {way:<9}{size:>4}: {_speed(rate, flops, ceiling)}, {after}")
        for size in dict.fromkeys((bench.sizes.batch_size, best)) if way == "eager" else ():  # compiling takes a minute
            own[size] = bench.piece(f"fttune {size}", partial(fttune_epochs, bench, size))["images_per_second"]
    for size, rate in own.items():
        shares = ", ".join(f"{rate / other:.0%} of bare {way}" for way, other in rates.items() if other)
        lines.append(f"fttune        {size:>5}: {_speed(rate, flops, ceiling)}, {shares} at its best batch size")
    return lines


def _speed(rate: float, flops: float, ceiling: float) -> str:
    return f"{rate:>7.0f} images/s, {rate * flops / 1e12 / ceiling:>6.1%} of the ceiling"


def bare_epochs(bench: Bench, batch_size: int, way: str) -> results.Record:
    """Return the images per second of the bare loop, and how long it took to get ready; or why it cannot run."""
    part = all_images(prepare(gpu_lists.experiment_of(bench.task), bench.workspace)).data.train
    data = Resident(torch.from_numpy(np.array(part.images)).to(bench.device), part.labels.to(bench.device))
    started, before = time.perf_counter(), torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        loop = Loop(bench.task.build, data, batch_size=batch_size, way=way)
        ready = time.perf_counter() - started
        epochs = [loop.epoch() for _ in range(EPOCHS)]
    except RuntimeError as error:  # no memory, no compiler, what cannot be captured
        return {"failed": f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"}
    finally:
        torch.backends.cudnn.benchmark = before
    return {"images_per_second": median(count / seconds for count, seconds in epochs[1:]), "ready_seconds": ready}


def fttune_epochs(bench: Bench, batch_size: int) -> results.Record:
    """Return the images per second of fttune's epochs, and of their steps alone."""
    recipe = gpu_lists.experiment_of(bench.task, training__epochs=EPOCHS, training__batch_size=batch_size)
    inputs = all_images(prepare(recipe, bench.workspace))
    ends: list[float] = []

    def emit(event: Event) -> None:
        if isinstance(event, EpochEnded):
            ends.append(time.perf_counter())

    found = fine_tune(recipe, inputs, emit=emit)
    count = len(inputs.data.train.labels)
    steps = -(-count // batch_size)
    in_steps = median(epoch.metrics["step_seconds"] for epoch in found.epochs[1:]) * steps
    whole = median(after - before for before, after in pairwise(ends))
    return {"images_per_second": count / whole, "images_per_second_in_steps": count / in_steps}


def all_images(inputs: Inputs) -> Inputs:
    """Return inputs that train on the validation images too, and validate on none."""
    train, val = inputs.data.train, inputs.data.val
    assert val is not None, "the pictures are laid out with a validation split"
    images, labels = np.concatenate([train.images, val.images]), torch.cat([train.labels, val.labels])
    part = Part(images, labels, train.names + val.names, f"{train.key}+{val.key}")
    return dataclasses.replace(inputs, data=dataclasses.replace(inputs.data, train=part, val=None))


def waits_section(bench: Bench) -> list[str]:
    """Return the lines that say which steps wait for the device."""
    lines = []
    for name, values in WATCHED.items():
        found = bench.piece(f"waits {name}", partial(first_wait, bench, values))
        verdict = found["waits"] or ("no step waits" if bench.device.type == "cuda" else "ran; only CUDA tells")
        lines.append(f"{name}: {verdict}")
    return lines


class WatchedFeed(Feed):
    """A feed under which PyTorch raises where the host waits for a CUDA device, from the first batch to the last."""

    def batches(self, order: Sequence[Tensor], draws: torch.Generator | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield what a feed does."""
        watch(self.run.device.device, "error")
        try:
            yield from super().batches(order, draws)
        finally:
            watch(self.run.device.device, "default")


def watch(device: torch.device, mode: str) -> None:
    """Set what PyTorch does where the host waits for a CUDA device; nothing for other devices."""
    if device.type == "cuda":
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Synchronization debug mode is a prototype")
            torch.cuda.set_sync_debug_mode(mode)


def first_wait(bench: Bench, values: Mapping[str, Any]) -> results.Record:
    """Train two epochs on some images and watch the second; return where that waits first, None where it does not."""
    recipe = gpu_lists.experiment_of(bench.task).replace({"data.limit_per_class": 4 * bench.sizes.batch_size, **values})
    run = prepare_run(recipe, prepare(recipe, bench.workspace))
    regime = next_regime(run, [], None)
    assert regime is not None, "a run has an epoch"
    feed = feeds_of(run, regime.boundary).train
    step = Step(run, regime.freezing, after=feed.after)
    train_epoch(run, regime, feed, 1, step=step)
    try:
        train_epoch(run, regime, WatchedFeed(feed.run, feed.split, feed.kept), 2, step=step)
    except RuntimeError as error:
        own = [frame for frame in traceback.extract_tb(error.__traceback__) if "/fttune/" in frame.filename]
        return {"waits": f"{error} ({Path(own[-1].filename).name}:{own[-1].lineno})" if own else str(error)}
    finally:  # before the feed is closed, which the traceback keeps alive
        watch(bench.device, "default")
    return {"waits": None}


def streams_section(bench: Bench) -> list[str]:
    """Return the lines that compare short suffixes one after another with the same side by side."""
    if bench.device.type != "cuda":
        return ["not measured: only CUDA has streams"]
    lines = []
    for name, suffix in gpu_streams.SUFFIXES.items():
        found = bench.piece(f"streams {name}", partial(gpu_streams.side_by_side, suffix, bench.device))
        gains = ", ".join(f"{count} at once {gain:.2f}x" for count, gain in found["gains"].items())
        lines.append(f"{name}: {found['milliseconds']:.2f} ms a step one after another; {gains}")
    return lines


def list_section(bench: Bench, name: str) -> list[str]:
    """Return the line of a list of trials."""
    task = bench.task
    recipes = recipes_of(DEEPEST[name], bench.sizes.heads if name == "A" else bench.sizes.trials)
    ours = bench.piece(f"list {name} fttune", partial(gpu_lists.fttune_trials, task, recipes))
    bare = bench.piece(f"list {name} bare", partial(gpu_lists.unavoidable, task, recipes))["seconds"]["total"]
    workers = 0
    if bench.sizes != TINY:
        workers = bench.piece("decoding processes", partial(gpu_lists.decoding_processes, task))["workers"]
    plain = {}
    for depth, numbers in gpu_lists.chosen_by_depth(recipes).items():
        some = [recipes[number] for number in numbers]
        work = partial(gpu_lists.plain_trials, task, some, workers=workers)
        plain[depth] = bench.piece(f"list {name} plain {depth}", work)
    return [f"list {name}, {len(recipes)} trials: {gpu_lists.in_words(recipes, plain, ours, bare)}"]


SECTIONS: dict[str, Callable[[Bench], list[str]]] = {
    "epoch": epoch_section,
    "waits": waits_section,
    "streams": streams_section,
    "C": lambda bench: list_section(bench, "C"),
    "A": lambda bench: list_section(bench, "A"),
}


def make_bench(sizes: Sizes, folder: Path, file: Path) -> Bench:
    """Return the benchmark of some size, its pictures and weights made in `folder` when they are missing."""
    val = round(VAL_SHARE * sizes.images)
    counts = {"train": sizes.images - val, "val": val}
    task = gpu_lists.make_task(folder, counts, net=sizes.net, image_size=sizes.image_size, width=sizes.width)
    task = dataclasses.replace(task, epochs=sizes.epochs, batch_size=sizes.batch_size)
    picture_folder(task.data, counts, classes=range(sizes.classes), width=sizes.width)
    make_weights(task, batches=4)
    key = {"sizes": f"{sizes}", **results.surroundings()}
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return Bench(task, sizes, file, key, device)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", nargs="+", choices=list(SECTIONS), default=list(SECTIONS))
    parser.add_argument("--tiny", action="store_true", help="the same code on little work, on any machine")
    parser.add_argument("--folder", type=Path, default=results.DEFAULT_FOLDER / "gpu")
    parser.add_argument("--results", type=Path, default=results.DEFAULT_FOLDER / "gpu.jsonl")
    asked = parser.parse_args(arguments)
    if not (asked.tiny or torch.cuda.is_available()):
        print("no GPU here, so nothing is measured; --tiny runs the same code on little work")
        return
    asked.folder.mkdir(parents=True, exist_ok=True)
    bench = make_bench(TINY if asked.tiny else Sizes(), asked.folder, asked.results)
    print(f"{bench.sizes.net} at {bench.sizes.image_size} pixels on {bench.key['device']}", flush=True)
    for section in asked.sections:
        print("\n".join([section, *(f"    {line}" for line in SECTIONS[section](bench))]), flush=True)


if __name__ == "__main__":
    main()
