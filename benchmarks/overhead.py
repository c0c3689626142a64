"""What fttune costs beyond training, Optuna and MLflow, per trial and per epoch.

Work: one study of trials of a 78 k parameter net on 32 digits of 8 x 8 pixels, once with 2 epochs and once with 22.
Baseline, in the same process and after each trial: the same training as a bare PyTorch loop (build, steps, validation,
one `torch.save` of the best). All times are CPU milliseconds, so that other load on the machine does not count: those
of the main thread, of the bare loop, of Optuna's calls, and of MLflow in its thread. MLflow's writes are held
back until the search waits for them, or the two threads would slow each other down and none could tell whose the time
is. What is left of the main thread's is fttune's own; the difference between the two lengths gives the share of an
epoch. Targets: 30 ms per trial, 3 ms per epoch.
"""

import argparse
import gc
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import torch
from torch import nn

import fttune
from fttune.config import Experiment, Study
from fttune.config.workspace import Workspace
from fttune.models import build_backbone
from fttune.tracking import Uploader
from fttune.tracking.store import MlflowStore
from fttune.training import Inputs, prepare
from fttune.training.events import Entry, StudyProgress

SHORT, LONG = 2, 22
OPTUNA_CALLS = (
    (optuna.Study, ("ask", "tell", "enqueue_trial", "get_trials", "set_user_attr")),
    (optuna.storages.RDBStorage, ("create_new_trial", "get_trial_id_from_study_id_trial_number")),
    (optuna.Trial, ("suggest_float", "suggest_int", "report", "should_prune", "set_user_attr")),
)


class Clock:
    """Adds up the CPU seconds that threads spend inside wrapped calls, the outermost one only."""

    def __init__(self) -> None:
        self.cpu: dict[str, float] = defaultdict(float)
        self._inside: set[str] = set()

    def wrap(self, owner: type, name: str, account: str) -> None:
        """Count the time of a method towards an account."""
        original: Callable[..., Any] = getattr(owner, name)

        def timed(*arguments: Any, **keywords: Any) -> Any:
            if account in self._inside:
                return original(*arguments, **keywords)
            self._inside.add(account)
            started = time.thread_time()
            try:
                return original(*arguments, **keywords)
            finally:
                self.cpu[account] += time.thread_time() - started
                self._inside.discard(account)

        setattr(owner, name, timed)


def hold_back_writes() -> None:
    """Let MLflow's thread write only while the search waits for it: when it asks, and at its end."""
    gate = threading.Lock()
    gate.acquire()
    write = MlflowStore.write

    def gated_write(*arguments: Any, **keywords: Any) -> None:
        with gate:
            write(*arguments, **keywords)

    def opening(wait: Callable[..., Any]) -> Callable[..., Any]:
        def open_gate(*arguments: Any, **keywords: Any) -> Any:
            gate.release()
            try:
                return wait(*arguments, **keywords)
            finally:
                gate.acquire()

        return open_gate

    MlflowStore.write = gated_write  # type: ignore[method-assign]
    Uploader.flush, Uploader.ask = opening(Uploader.flush), opening(Uploader.ask)  # type: ignore[method-assign]


def study_of(epochs: int, trials: int) -> Study:
    """Return the study of the work."""
    experiment = Experiment.model_validate(
        {
            "data": {
                "source": "digits",
                "classes": [0, 1, 2, 3],
                "limit_per_class": 8,
                "image_size": 8,
                "resize": 8,
                "split": {"val": 0.02, "test": 0.5},
            },
            "backbone": {"name": "cifar_resnet8", "weights": "none"},
            "freeze": {"unfrozen_stages": "all"},
            "optimizer": {"lr": 0.01},
            "training": {"epochs": epochs, "batch_size": 16},
        }
    )
    return Study.model_validate(
        {
            "experiment": experiment,
            "budget": {"n_trials": trials},
            "sampler": {"type": "random"},
            "pruner": {"type": "none"},
            "space": {"optimizer.lr": {"type": "float", "low": 0.001, "high": 0.02, "log": True}},
            "name": f"overhead{epochs}",
        }
    )


def bare_trial(study: Study, inputs: Inputs, folder: Path) -> None:
    """Train as long as one trial does, without fttune."""
    experiment, data = study.experiment, inputs.data
    assert data.val is not None
    model = build_backbone(experiment.backbone.name, inputs.weights, classes=data.classes, seed=0).module
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, fused=True)
    best, state = -1.0, model.state_dict()
    for _ in range(experiment.training.epochs):
        model.train()
        for rows in torch.randperm(len(data.train.labels)).split(experiment.training.batch_size):
            images, labels = inputs.batch(data.train, rows, torch.device("cpu"))
            loss = nn.functional.cross_entropy(model(inputs.normalise(images).contiguous()), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.inference_mode():
            hits = 0
            for rows in torch.arange(len(data.val.labels)).split(64):
                images, labels = inputs.batch(data.val, rows, torch.device("cpu"))
                hits += int((model(inputs.normalise(images).contiguous()).argmax(1) == labels).sum())
        if hits > best:
            best, state = hits, {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.save(state, folder / "best.pth")


def measure(epochs: int, trials: int, clock: Clock) -> dict[str, float]:
    """Return milliseconds per trial of CPU time by account; a bare trial runs after each of the search's."""
    with tempfile.TemporaryDirectory() as temporary:
        workspace = Workspace.at(Path(temporary))
        study = study_of(epochs, 1 + trials)
        fttune.search(study_of(epochs, 1), workspace=workspace)  # makes the stores, decodes the images
        inputs = prepare(study.experiment, workspace)
        marks, bare = [], []

        def interleave(entry: Entry) -> None:
            if not isinstance(entry.event, StudyProgress):
                return
            marks.append(time.thread_time())
            bare_trial(study, inputs, workspace.mlruns)
            bare.append(time.thread_time() - marks[-1])

        gc.collect()
        gc.freeze()  # a walk over all that was imported takes 300 ms, and would fall to whomever it interrupts
        clock.cpu.clear()
        fttune.search(study, workspace=workspace, display=interleave)
        gc.unfreeze()
    # The first mark stands before the first trial, the last one after the last.
    training = sum(bare[:-1])
    main = marks[-1] - marks[0] - training
    accounts = {"main": main, "training": training, "optuna": clock.cpu["optuna"], "mlflow": clock.cpu["mlflow"]}
    accounts["own"] = main - training - clock.cpu["optuna"]
    return {name: 1000 * seconds / trials for name, seconds in accounts.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=30)
    trials = parser.parse_args().trials
    torch.set_num_threads(1)
    clock = Clock()
    for owner, names in OPTUNA_CALLS:
        for name in names:
            clock.wrap(owner, name, "optuna")
    clock.wrap(MlflowStore, "write", "mlflow")
    hold_back_writes()
    found = {epochs: measure(epochs, trials, clock) for epochs in (SHORT, LONG)}
    print(f"CPU milliseconds per trial, {trials} trials")
    print(f"{'epochs':>6} " + " ".join(f"{name:>10}" for name in found[SHORT]))
    for epochs, row in found.items():
        print(f"{epochs:6d} " + " ".join(f"{value:10.1f}" for value in row.values()))
    per_epoch = (found[LONG]["own"] - found[SHORT]["own"]) / (LONG - SHORT)
    per_trial = found[SHORT]["own"] - SHORT * per_epoch
    print(f"own overhead: {per_trial:.1f} ms per trial (target 30), {per_epoch:.2f} ms per epoch (target 3)")
    ratio = found[LONG]["main"] / found[LONG]["training"]
    print(f"ratio of the search's main thread to bare training, {LONG} epochs: {ratio:.2f}")


if __name__ == "__main__":
    main()
