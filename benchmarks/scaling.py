"""How many trials per minute several workers run, against one process.

Work: a study of trials of a fixed length, whose net sleeps in each training step, so that two cores suffice and nothing
but scheduling is measured. Baseline, in alternating pairs: the same study in one process, which is one worker without a
connection. The time is that from the first trial's opening to the last one's end, without what starting takes (stated
beside it); the overhead per trial is what its worker spends beyond the fixed length. Asked: at least 1.9 times as many
with two workers, 3.6 with four in a Ray cluster of two machines (`--workers 4 --cluster HOST:PORT`).
"""

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median

import yaml

import fttune
from fttune.config.workspace import Workspace
from fttune.training.events import Entry, RunClosed, RunOpened

STEPS = 4  # in each of two epochs, of 8 images; the limit is that of the training images
SLEEPER = """
import time
from torch import nn

class Net(nn.Module):
    stages = {{"stem": ["stem"]}}
    head = "last"

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.last = nn.Linear(4, 10)

    def forward(self, x):
        if self.training:
            time.sleep({seconds})
        return self.last(self.stem(x))

BACKBONES = {{"sleeper": Net}}
"""
EXPERIMENT = {
    "task": "classification",
    "data": {
        "source": "digits",
        "classes": [0, 1],
        "limit_per_class": 16,
        "image_size": 8,
        "resize": 8,
        "split": {"val": 0.2, "test": 0.4, "seed": 0},
    },
    "backbone": {"name": "plugin:sleeper", "weights": "none"},
    "freeze": {"unfrozen_stages": "all"},
    "optimizer": {"lr": 0.01},
    "training": {"epochs": 2, "batch_size": 8, "device": "cpu"},
}


def write(root: Path, *, seconds: float, trials: int, workers: int, cluster: str | None = None) -> Path:
    """Write the study, whose trials sleep for so long in all; return its file. Its workers are those of `cluster`."""
    (root / "sleeper.py").write_text(SLEEPER.format(seconds=seconds / (2 * STEPS)), encoding="utf-8")
    study = {
        "experiment": "../experiments/sleeper.yaml",
        "budget": {"n_trials": trials},
        "batch": trials,
        "sampler": {"type": "random"},
        "pruner": {"type": "none"},
        "space": {"optimizer.lr": {"type": "float", "low": 1.0e-3, "high": 0.1, "log": True}},
        "workers": {"type": "ray", "address": cluster, "count": workers} if cluster else workers,
    }
    for folder, content in (("experiments", EXPERIMENT), ("studies", study)):
        (root / folder).mkdir()
        (root / folder / "sleeper.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return root / "studies" / "sleeper.yaml"


def measured(*, seconds: float, trials: int, workers: int, cluster: str | None = None) -> tuple[float, float]:
    """Run the study; return the seconds of all its trials, and those before the first."""
    times: list[float] = []

    def note(entry: Entry) -> None:
        if "/" in entry.run and isinstance(entry.event, RunOpened | RunClosed):
            times.append(time.monotonic())

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        study = fttune.load_study(write(root, seconds=seconds, trials=trials, workers=workers, cluster=cluster))
        workspace = Workspace.at(root, mlruns=root / "mlruns", plugins=[root / "sleeper.py"])
        from fttune.app.search import search

        started = time.monotonic()
        search(study, workspace=workspace, display=note)
    assert len(times) == 2 * trials, f"{len(times)} openings and ends of {trials} trials"
    return times[-1] - times[0], times[0] - started


def main() -> None:
    """Print trials per minute with 1 and with several workers, their ratio, and the overhead per trial."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--seconds", type=float, default=2.0, help="of a trial (default: 2)")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--cluster", help="local or HOST:PORT: the workers are Ray's there")
    parser.add_argument("--rounds", type=int, default=2, help="alternating pairs (default: 2)")
    options = parser.parse_args()
    ratios = []
    for _ in range(options.rounds):
        rates = {}
        for workers in (1, options.workers):
            cluster = None if workers == 1 else options.cluster
            took, before = measured(seconds=options.seconds, trials=options.trials, workers=workers, cluster=cluster)
            rates[workers] = 60 * options.trials / took
            overhead = 1000 * (took * workers / options.trials - options.seconds)
            print(
                f"{workers} workers: {rates[workers]:.1f} trials per minute, {overhead:.0f} ms per trial beyond its "
                f"{options.seconds:g} s; {before:.1f} s before the first"
            )
        ratios.append(rates[options.workers] / rates[1])
    print(
        f"{options.workers} workers run {median(ratios):.2f} times the trials of one "
        f"({min(ratios):.2f} to {max(ratios):.2f})"
    )


if __name__ == "__main__":
    main()
