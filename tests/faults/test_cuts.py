"""Trainings cut at random moments, by a signal that ends the process at once or by one that ends it in order: gone on
with, they come to what an uninterrupted one comes to, bit for bit.

One process has imported everything and started no threads; each attempt is forked from it. What the alarm of the
operating system hits is up to chance: amid a step, an evaluation, the writing of a state, its rename.
"""

import hashlib
import json
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.processes import CONTEXT

CUTS = 100  # in CI
MOST_CUTS = 3  # of one training
RECIPES: list[dict[str, Any]] = [
    {"optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.9}, "data.augment": "flip"},
    {
        "optimizer": {"name": "adamw", "lr": 0.01},
        "freeze": {"phases": [{"unfrozen_stages": 0, "epochs": 1}, {"unfrozen_stages": 2, "epochs": 3}]},
    },
    {"freeze": {"preset": "lora"}, "training.schedule": "plateau"},
]


def test_resumed_equals_uninterrupted_wherever_it_was_cut(tmp_path):
    report = tmp_path / "report.json"
    process = CONTEXT.Process(target=_cut_all, args=(str(tmp_path), str(report)))
    process.start()
    process.join(300)
    assert process.exitcode == 0
    found = json.loads(report.read_text())
    assert found["different"] == []
    assert sum(found["cuts"].values()) >= CUTS
    assert min(found["cuts"].values()) >= CUTS / 4, "both kinds"
    assert found["resumed"] >= CUTS / 2, "most cuts leave a state"


def _cut_all(folder: str, report: str) -> None:
    import torch

    from fttune.config.workspace import Workspace
    from fttune.training import prepare
    from tests.recipes import tiny_experiment

    torch.set_num_threads(1)
    root = Path(folder)
    base = tiny_experiment(root, training__epochs=4)
    inputs = prepare(base, Workspace.at(root))
    found: dict[str, Any] = {"cuts": Counter(), "trainings": 0, "resumed": 0, "different": []}
    recipes = [base.replace(fields) for fields in RECIPES]
    wholes, durations = [], []
    for index, recipe in enumerate(recipes):
        started = time.monotonic()
        _attempt(recipe, inputs, root / f"whole-{index}", cut_after=None)
        durations.append(time.monotonic() - started)
        wholes.append((root / f"whole-{index}" / "told.json").read_text())
    while sum(found["cuts"].values()) < CUTS:
        number = found["trainings"]
        chance = random.Random(number)
        index = number % len(recipes)
        place = root / f"cut-{number}"
        for attempt in range(MOST_CUTS + 1):
            moment = chance.uniform(0.05, 0.9) * durations[index] if attempt < MOST_CUTS else None
            ended = _attempt(recipes[index], inputs, place, cut_after=moment, in_order=chance.random() < 0.5)
            if ended == "whole":
                break
            found["cuts"][ended] += 1
            found["resumed"] += bool(list(place.glob("resume-*.json")))
        found["trainings"] += 1
        if (place / "told.json").read_text() != wholes[index]:
            found["different"].append(number)
    Path(report).write_text(json.dumps(found))


def _attempt(recipe: Any, inputs: Any, folder: Path, *, cut_after: float | None, in_order: bool = False) -> str:
    """Train in a forked process; return how that ended: whole, killed or interrupted."""
    folder.mkdir(exist_ok=True)
    if (pid := os.fork()) == 0:
        code = 99
        try:
            code = _train(recipe, inputs, folder, cut_after, in_order)
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return "killed"
    return {0: "whole", 143: "interrupted"}[os.WEXITSTATUS(status)]


def _train(recipe: Any, inputs: Any, folder: Path, cut_after: float | None, in_order: bool) -> int:
    import safetensors.torch

    from fttune import interruption
    from fttune.errors import Interrupted
    from fttune.training import CheckpointFolder, finish, resume
    from fttune.training.training import Solo

    resume.EVERY_SECONDS = 0.0
    signal.signal(signal.SIGALRM, (lambda *_: interruption.interrupt(signal.SIGTERM)) if in_order else signal.SIG_DFL)
    if cut_after is not None:
        signal.setitimer(signal.ITIMER_REAL, cut_after)
    try:
        result = finish(Solo(recipe, inputs), checkpoints=CheckpointFolder(folder, states=folder))
        signal.setitimer(signal.ITIMER_REAL, 0)
    except Interrupted:
        return 143
    epochs = [{n: v for n, v in ended.metrics.items() if not n.endswith("_seconds")} for ended in result.epochs]
    tensors = safetensors.torch.load_file(folder / "best.safetensors")
    hashes = {name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest() for name, tensor in sorted(tensors.items())}
    told = [result.best_epoch, result.value, epochs, result.step_losses, hashes]
    (folder / "told.json").write_text(json.dumps(told))
    return 0
