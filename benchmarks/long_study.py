"""What a further trial costs in the stores of a long study, and whether that grows with what they hold already.

Work: a TPE study over four parameters, without a pruner, whose stores hold 100, 1,000 and 10,000 trials of five epochs
with 16 metrics each; further trials run without any training: they emit what a training emits. Baseline: the first of
these sizes. Once with all events of a trial waiting together, as those of short trials do, and once with a write
after each epoch, as for epochs of more than five seconds.

All times are CPU milliseconds per trial, so that other load on the machine counts little: of all that the search does
in the main thread (Optuna's calls, our reads of the history, recipes; proposing aside) and of MLflow's writes in their
thread. `start_s` are the seconds until the first trial begins: the study is read, a block asked. Targets: 80 ms
for both stores at the first size, 1.2 times that at the last; 25 ms for proposing there.

The stores are filled once, through the calls that a search makes, and kept (about 15 minutes and 400 MB for
10,000 trials; a later call goes on where the last one ended). Measuring takes about 4 minutes and works on copies;
the figures are medians over rounds.
"""

import argparse
import dataclasses
import gc
import json
import shutil
import statistics
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import TPESampler
from optuna.trial import create_trial

from fttune.app.session import target_of
from fttune.config import Experiment, Study
from fttune.config.recipe import trial_digest
from fttune.config.workspace import Workspace
from fttune.searching import Asked, Inline, Outcome, open_storage, open_study, search
from fttune.searching.store import FACTS, TrialFacts
from fttune.tracking import Uploader
from fttune.tracking.store import MlflowStore
from fttune.training.events import STUDY_ID, Described, Entry, EpochEnded, Event, FileSaved, RunClosed, RunOpened

EPOCHS = 5
METRICS = (
    *("train/loss", "train/accuracy", "lr", "step_seconds", "val/loss", "val/accuracy", "val/balanced_accuracy"),
    *("val/macro_f1", "stages_trained", "epoch_seconds"),
    *(f"{kind}/{stage}" for kind in ("relative_grad_norm", "drift") for stage in ("layer3", "layer4", "head")),
)
RESULT = ("value", "best_epoch", "trainable_parameters", "trainable_fraction", "log10_lr", "elr", "mean_step_seconds")
SPACE = {
    "optimizer.lr": {"type": "float", "low": 1e-5, "high": 1e-1, "log": True},
    "optimizer.momentum": {"type": "float", "low": 0.0, "high": 0.99},
    "optimizer.weight_decay": {"type": "float", "low": 1e-6, "high": 1e-2, "log": True},
    "freeze.unfrozen_stages": {"type": "int", "low": 0, "high": 4},
}
PROPOSING = ("before_trial", "infer_relative_search_space", "sample_relative", "sample_independent", "after_trial")


def study_of(trials: int) -> Study:
    """Return the study of the work."""
    experiment = Experiment.model_validate(
        {
            "data": {"source": "digits", "image_size": 8, "resize": 8},
            "backbone": {"name": "cifar_resnet8", "weights": "none"},
            "optimizer": {"lr": 0.01},
            "training": {"epochs": EPOCHS},
        }
    )
    fields = {"experiment": experiment, "budget": {"n_trials": trials}, "sampler": {"type": "tpe"}, "space": SPACE}
    return Study.model_validate({**fields, "pruner": {"type": "none"}, "name": "long"})


def opened(study: Study, workspace: Workspace) -> optuna.Study:
    """Return the study from the workspace's store."""
    return open_study(study, open_storage(workspace.optuna_uri, locks=workspace.locks), {"long": 1})


def value_at(values: Any) -> float:
    """A smooth objective with a maximum of 1 inside the space."""
    lr, depth = values["optimizer.lr"], values["freeze.unfrozen_stages"]
    return 1 - abs(lr - 0.01) - 0.05 * abs(depth - 3) - 0.1 * values["optimizer.momentum"]


def events_of(study: Study, number: int, values: Any, checkpoint: Path | None = None) -> list[Event]:
    """Return what the training of a trial emits."""
    tags = {"fttune.kind": "trial", "fttune.study": "long", "fttune.trial": str(number), STUDY_ID: "0" * 32}
    params = study.experiment.replace(values).params()
    about = {f"fttune.{name}": "as in a training" for name in ("device", "trains", "parameters", "versions")}
    ends = (".safetensors", ".json") if checkpoint else ()
    files = [FileSaved(checkpoint.with_suffix(end), "checkpoint") for end in ends]
    return [
        RunOpened(f"trial-{number:04d}", "long", parent="long", params=params, tags=tags),
        Described(about),
        *(EpochEnded(e, {name: value_at(values) + 0.01 * e for name in METRICS}) for e in range(1, EPOCHS + 1)),
        *files,
        RunClosed("complete", metrics=dict.fromkeys(RESULT, 0.5)),
    ]


def mlflow_of(workspace: Workspace) -> MlflowStore:
    """Return the workspace's MLflow, the study's run open in it."""
    store = MlflowStore(workspace.mlflow_uri, artifacts=workspace.artifacts, locks=workspace.locks)
    store.write("long", RunOpened("long", "long", tags={"fttune.kind": "study"}, reopen=True))
    return store


def fill(workspace: Workspace, size: int) -> None:
    """Add trials to both stores until they hold `size`: what a random search would have stored."""
    study = study_of(size)
    stored = opened(study, workspace)
    for number in range(len(stored.get_trials(deepcopy=False)), size):
        stored.add_trial(random_trial(study, number))
    done = workspace.mlruns / "filled.json"
    store = mlflow_of(workspace)
    for number in range(json.loads(done.read_text()) if done.exists() else 0, size):
        store.write(f"long/{number}", *events_of(study, number, random_trial(study, number).params))
        done.write_text(str(number + 1))


def random_trial(study: Study, number: int) -> optuna.trial.FrozenTrial:
    """Return a complete trial with random parameters and with what a search stores of it."""
    drawn = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=number)).ask()
    study.suggest(drawn)
    facts = TrialFacts("complete", 1.0, 1000, 1, recipe=trial_digest(study, drawn.params))
    return create_trial(
        value=value_at(drawn.params),
        params=drawn.params,
        distributions=drawn.distributions,
        user_attrs={FACTS: json.dumps(dataclasses.asdict(facts))},
    )


class Clock:
    """Adds up the CPU seconds that threads spend inside wrapped calls, the outermost of an account only."""

    def __init__(self) -> None:
        self.cpu: dict[str, float] = defaultdict(float)
        self._inside = threading.local()

    def wrap(self, owner: type, name: str, account: str) -> None:
        """Count the time of a method towards an account."""
        original: Callable[..., Any] = getattr(owner, name)

        def timed(*arguments: Any, **keywords: Any) -> Any:
            if getattr(self._inside, account, False):
                return original(*arguments, **keywords)
            setattr(self._inside, account, True)
            started = time.thread_time()
            try:
                return original(*arguments, **keywords)
            finally:
                self.cpu[account] += time.thread_time() - started
                setattr(self._inside, account, False)

        setattr(owner, name, timed)


@dataclass
class FurtherTrials:
    """The objective of the work; notes the accounts whenever a block begins, so that whole blocks are compared."""

    study: Study
    uploader: Uploader
    clock: Clock
    checkpoint: Path
    together: bool
    outside: float = 0.0
    marks: list[dict[str, float]] = field(default_factory=list)

    def __call__(self, asked: Asked) -> Outcome:
        if asked.number % self.study.batch == 0 or not self.marks:
            self.marks.append({"main": time.thread_time() - self.outside, "trials": asked.number, **self.clock.cpu})
        before = time.thread_time()
        self.checkpoint.write_bytes(b"\0" * 300_000)
        self.checkpoint.with_suffix(".json").write_text("{}")
        for event in events_of(self.study, asked.number, dict(asked.values), self.checkpoint):
            self.uploader(Entry(f"long/{asked.number}", event))
            if not self.together and isinstance(event, EpochEnded):
                self.uploader.flush()
        self.uploader.flush()
        self.outside += time.thread_time() - before
        return Outcome("complete", value_at(dict(asked.values)), 1000, 1)


def measure(kept: Workspace, size: int, trials: int, clock: Clock, *, together: bool) -> dict[str, float]:
    """Return CPU milliseconds per further trial by account, and the CPU seconds until the first one begins."""
    with tempfile.TemporaryDirectory(dir=kept.mlruns) as temporary:
        workspace = Workspace.at(Path(temporary))
        workspace.mlruns.mkdir()
        for file in (f"{size}-optuna.db", f"{size}-mlflow.db"):
            shutil.copy(kept.mlruns / file, workspace.mlruns / file.partition("-")[2])
        study = study_of(size + trials + 8)
        uploader = Uploader(replace(target_of(workspace, workspace.mlflow_uri), artifacts=kept.artifacts))
        uploader.ask(lambda store: store.write("long", RunOpened("long", "long", reopen=True)))
        clock.cpu.update(proposing=0.0, mlflow=0.0)
        work = FurtherTrials(study, uploader, clock, workspace.mlruns / "best.safetensors", together)
        gc.collect()
        gc.freeze()  # a walk over all that was imported would fall to whomever it interrupts
        started = time.thread_time()
        search(study, opened(study, workspace), Inline(work))
        uploader.close()
        gc.unfreeze()
    shutil.rmtree(kept.artifacts, ignore_errors=True)
    first, last = (work.marks[0] if size % study.batch == 0 else work.marks[1]), work.marks[-1]
    ms = {name: 1000 * (last[name] - first[name]) / (last["trials"] - first["trials"]) for name in first}
    row = {"optuna": ms["main"] - ms["proposing"], "mlflow": ms["mlflow"]}
    return {**row, "both": sum(row.values()), "proposing": ms["proposing"], "start_s": work.marks[0]["main"] - started}


def medians(rounds: list[dict[int, dict[str, float]]]) -> dict[int, dict[str, float]]:
    """Return the median of each figure over rounds in which the sizes took turns."""
    return {
        size: {name: statistics.median(found[size][name] for found in rounds) for name in row}
        for size, row in rounds[0].items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 1_000, 10_000])
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("mlruns/benchmarks/long_study"))
    options = parser.parse_args()
    kept = Workspace.at(options.folder.parent, options.folder.absolute())
    for size in sorted(options.sizes):
        if not (kept.mlruns / f"{size}-mlflow.db").exists():
            fill(kept, size)
            for name in ("optuna.db", "mlflow.db"):
                shutil.copy(kept.mlruns / name, kept.mlruns / f"{size}-{name}")
    clock = Clock()
    for name in PROPOSING:
        clock.wrap(TPESampler, name, "proposing")
    clock.wrap(MlflowStore, "write", "mlflow")
    for together in (True, False):
        print(f"\nCPU milliseconds per trial, {'a trial' if together else 'an epoch'} written at once")
        rows = medians(
            [
                {n: measure(kept, n, options.trials, clock, together=together) for n in sorted(options.sizes)}
                for _ in range(options.rounds)
            ]
        )
        print(f"{'trials':>7} " + " ".join(f"{name:>10}" for name in next(iter(rows.values()))))
        for size, row in rows.items():
            print(f"{size:7d} " + " ".join(f"{value:10.1f}" for value in row.values()), flush=True)
        low, high = rows[min(rows)], rows[max(rows)]
        print(f"both stores at {min(rows)}: {low['both']:.1f} ms (target 80)")
        print(f"ratio {max(rows)} / {min(rows)}: {high['both'] / low['both']:.2f} (target 1.2)")
        print(f"proposing at {max(rows)}: {high['proposing']:.1f} ms (target 25)")


if __name__ == "__main__":
    main()
