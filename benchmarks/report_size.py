"""What the page of a long study costs: seconds to make it, and its bytes.

Work: `fttune report` of a study with 2,000 trials of five epochs, a tenth of them pruned and some diverged, in real
stores. Target: 15 seconds in all, of which importing the libraries is printed apart.

The stores are filled once, through the calls that a search makes, and kept (about 3 minutes and 80 MB).
"""

import argparse
import dataclasses
import json
import shutil
import time
from pathlib import Path

import optuna
from optuna.trial import TrialState

from benchmarks.long_study import events_of, random_trial, study_of
from fttune.app.report import report
from fttune.config import Study
from fttune.config.fingerprint import study_identity
from fttune.config.workspace import Workspace
from fttune.searching import ID, open_storage, open_study
from fttune.searching.store import FACTS, facts_of
from fttune.tracking.store import MlflowStore
from fttune.training.events import STUDY_ID, EpochEnded, Event, RunClosed, RunOpened

OWN_ID = "0" * 32  # that of the events


def long_study(trials: int) -> Study:
    """Return the study of the work, its runs in the MLflow experiment of its events."""
    study = study_of(trials)
    return study.model_copy(update={"experiment": study.experiment.model_copy(update={"name": "long"})})


def fill(study: Study, workspace: Workspace) -> None:
    """Add trials to both stores until they hold what the study's budget says."""
    storage = open_storage(workspace.optuna_uri, locks=workspace.locks)
    stored = open_study(study, storage, study_identity(study, data="none", weights="none"))
    stored.set_user_attr(ID, OWN_ID)
    store = MlflowStore(workspace.mlflow_uri, artifacts=workspace.artifacts, locks=workspace.locks)
    tags = {"fttune.kind": "study", STUDY_ID: OWN_ID, "fttune.data.val": "500"}
    store.write("long", RunOpened("long", "long", tags=tags, reopen=True))
    for number in range(len(stored.get_trials(deepcopy=False)), study.budget.n_trials):
        trial = ended(random_trial(study, number), number)
        store.write(f"long/{number}", *as_ended(events_of(study, number, trial.params), trial))
        stored.add_trial(trial)
    store.write("long", RunClosed("complete"))


def ended(trial: optuna.trial.FrozenTrial, number: int) -> optuna.trial.FrozenTrial:
    """Return a trial as it would have ended: every tenth pruned, those at the highest rates diverged."""
    facts = facts_of(trial)
    assert facts is not None, "it was made with facts"
    if trial.params["optimizer.lr"] > 0.05:
        facts, trial.state, trial.value = dataclasses.replace(facts, state="diverged"), TrialState.PRUNED, None
        facts = dataclasses.replace(facts, cause="the loss is not finite", best_epoch=None)
    elif number % 10 == 3:
        facts, trial.state = dataclasses.replace(facts, state="pruned"), TrialState.PRUNED
    trial.user_attrs = {FACTS: json.dumps(dataclasses.asdict(dataclasses.replace(facts, seconds=1 + number % 7)))}
    return trial


def as_ended(events: list[Event], trial: optuna.trial.FrozenTrial) -> list[Event]:
    """Return the events of a trial that trained to its end, cut where it was pruned or diverged."""
    facts = facts_of(trial)
    assert facts is not None, "it was made with facts"
    if facts.state == "complete":
        return events
    kept = [event for event in events[:-1] if not isinstance(event, EpochEnded) or event.epoch <= 2]
    return [*kept, RunClosed("pruned" if facts.state == "pruned" else "diverged")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("mlruns/benchmarks/report_size"))
    options = parser.parse_args()
    workspace = Workspace.at(options.folder.parent, options.folder.absolute())
    study = long_study(options.trials)
    fill(study, workspace)
    for _ in range(options.rounds):
        shutil.rmtree(workspace.mlruns / "reports", ignore_errors=True)
        started = time.monotonic()
        written = report(study, workspace=workspace)
        seconds = time.monotonic() - started
        files = [file for file in written.page.parent.rglob("*") if file.is_file()]
        whole = sum(file.stat().st_size for file in files)
        print(
            f"{options.trials} trials: {seconds:.1f} s (target 15); page {written.page.stat().st_size:,} bytes, ",
            end="",
        )
        print(f"all {len(files)} files {whole:,} bytes", flush=True)


if __name__ == "__main__":
    main()
