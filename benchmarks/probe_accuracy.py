"""How near is the plan of `fttune validate --probe` to what the study then takes?

Work: `studies/digits.yaml` (24 trials, median pruning, its source experiment trained first), and a ResNet-18 with
random weights on generated JPEG images at 64 px (0 to 5 unfrozen stages, no pruning). Each is probed and then searched,
in processes of their own, imports included, in the same fresh folder. Baseline: the search's wall seconds.

Two ratios of estimate over real: of the whole plan, which knows neither depths nor pruning beforehand, and of the
plan's seconds for the depths that the complete trials really had, over the seconds of those trials.

    python -m benchmarks.probe_accuracy                            about 3 minutes on 2 cores
    python -m benchmarks.probe_accuracy --trials 4 --epochs 1 --images 60 --tasks resnet18
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.pictures import picture_folder
from fttune.app.estimate import START_SECONDS, TRIAL_SECONDS

ROOT = Path(__file__).parent.parent
DEPTH = "freeze.unfrozen_stages"


@dataclass(frozen=True)
class Compared:
    """Seconds of a study: as planned and as taken, and the same of its complete trials alone."""

    planned: float
    low: float
    high: float
    taken: float
    trials_planned: float
    trials_taken: float

    def line(self, name: str) -> str:
        """Return a line of the table."""
        span = f"{self.planned:.0f} ({self.low:.0f} .. {self.high:.0f})"
        ratios = f"{self.planned / self.taken:>8.2f}{self.trials_planned / self.trials_taken:>15.2f}"
        return f"{name:<10}{span:>22}{self.taken:>9.0f}{ratios}"


def compare(root: Path, study: str) -> Compared:
    """Probe and search `studies/<study>.yaml` below a folder."""
    plan, _ = run_fttune(root, "validate", f"studies/{study}.yaml", "--probe", "--json")
    found, seconds = run_fttune(root, "search", f"studies/{study}.yaml", "--json")
    complete = [trial for trial in found["trials"] if trial["state"] == "complete" and trial["seconds"]]
    before = plan["first"]["seconds"]["even"] - START_SECONDS if plan["first"] else 0.0
    low, even, high = (plan["seconds"][name] + before for name in ("low", "even", "high"))
    return Compared(
        planned=even,
        low=low,
        high=high,
        taken=seconds,
        trials_planned=trials_seconds(plan, [trial[DEPTH] for trial in complete]) + plan["pass_seconds"],
        trials_taken=sum(trial["seconds"] for trial in complete),
    )


def trials_seconds(plan: Mapping[str, Any], depths: Sequence[int]) -> float:
    """Return what a plan says of trials of these depths, trained to their last epoch."""
    each = {line["unfrozen_stages"]: line["epoch_seconds"] for line in plan["stages"]}
    return sum(plan["epochs"] * each[depth] + TRIAL_SECONDS for depth in depths)


def run_fttune(root: Path, *arguments: str) -> tuple[Any, float]:
    """Run `fttune ARGUMENTS` in a folder; return the JSON that it prints, and its wall seconds."""
    command = [sys.executable, "-c", "from fttune.cli import main; main()", *arguments]
    started = time.perf_counter()
    done = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
    return json.loads(done.stdout), time.perf_counter() - started


def digits_folder(root: Path) -> None:
    """Link the repository's experiments and studies."""
    for name in ("experiments", "studies"):
        (root / name).symlink_to(ROOT / name)


def resnet_folder(root: Path, *, trials: int, epochs: int, images: int) -> None:
    """Write images, an experiment and a study."""
    picture_folder(root / "pictures", {"train": images, "val": images // 4}, classes=range(5), width=90)
    experiment = {
        "data": {"source": "folder", "path": "pictures", "image_size": 64},
        "backbone": {"name": "resnet18", "weights": "none"},
        "optimizer": {"lr": 0.01},
        "training": {"epochs": epochs},
    }
    space: dict[str, Any] = {
        "optimizer.lr": {"type": "float", "low": 1.0e-4, "high": 1.0e-2, "log": True},
        DEPTH: {"type": "int", "low": 0, "high": 5},
    }
    study = {
        "experiment": "../experiments/resnet18.yaml",
        "budget": {"n_trials": trials},
        "sampler": {"type": "random"},
        "pruner": {"type": "none"},
        "space": space,
    }
    for folder, content in (("experiments", experiment), ("studies", study)):
        (root / folder).mkdir()
        (root / folder / "resnet18.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=["digits", "resnet18"], default=["digits", "resnet18"])
    parser.add_argument("--trials", type=int, default=12, help="of resnet18")
    parser.add_argument("--epochs", type=int, default=3, help="of resnet18")
    parser.add_argument("--images", type=int, default=320, help="of resnet18, to train on")
    asked = parser.parse_args()
    print(f"{'study':<10}{'planned s (range)':>22}{'taken s':>9}{'ratio':>8}{'of its trials':>15}")
    for task in asked.tasks:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            if task == "digits":
                digits_folder(root)
            else:
                resnet_folder(root, trials=asked.trials, epochs=asked.epochs, images=asked.images)
            print(compare(root, task).line(task), flush=True)


if __name__ == "__main__":
    main()
