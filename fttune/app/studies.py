"""Studies as they lie in the stores, for those who come after a search: which there are, and what a trial left."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fttune import searching
from fttune.app.results import rows_of
from fttune.app.session import Session, settled
from fttune.app.train import prepare_in
from fttune.config import Study
from fttune.config.fingerprint import DATA, FOLDS, WEIGHTS, Identity, require_same, study_identity
from fttune.config.workspace import Workspace
from fttune.errors import BadInput
from fttune.report import summary
from fttune.training import Inputs
from fttune.training.events import REMOVED, STUDY_ID

if TYPE_CHECKING:
    import optuna

CLOSED = "fttune.closed"


@dataclass(frozen=True)
class StudyLine:
    """One generation of a study; `state` is finished or unfinished.

    `trials` says how many trials there are in each state; `best` is None without a complete one. `last` is when a trial
    began or ended last, in local time, as ISO 8601 to the second.
    """

    name: str
    state: str
    trials: str
    metric: str
    best: float | None
    best_trial: int | None
    last: str | None


def list_studies(workspace: Workspace) -> list[StudyLine]:
    """Return the studies of the workspace's own store by name; those with a `storage` of their own are not in it."""
    if not (workspace.mlruns / "optuna.db").is_file():
        return []
    storage = searching.open_storage(workspace.optuna_uri, locks=workspace.locks)
    return [_line(stored) for stored in searching.stored_studies(storage)]


def newest(study: Study, workspace: Workspace, *, lease: searching.Lease | None = None) -> "optuna.Study | None":
    """Return the newest generation of a study, None where none was begun: to be read, or written to under its `lease`.

    Raises:
        StoreError: the store cannot be used, or a newer fttune wrote the study.
    """
    if not study.storage and not (workspace.mlruns / "optuna.db").is_file():
        return None
    storage = searching.open_storage(study.storage or workspace.optuna_uri, locks=workspace.locks, lease=lease)
    return searching.newest_generation(study.name, storage)


@contextmanager
def held(study: Study, session: Session) -> Iterator[searching.Lease | None]:
    """Hold a study for this process alone, whose lease is handed out; all that was logged is delivered before it ends.

    Raises:
        StudyBusy: another process searches or confirms it.
        StoreError: Optuna's or MLflow's store cannot be used.
    """
    uri = study.storage or session.workspace.optuna_uri
    with searching.study_lock(study.name, locks=session.workspace.locks, storage=uri) as lease, settled(session):
        session.uploader.open()  # refuses a store that cannot be used, before any work
        if lease is not None:
            session.uploader.fence = lease.require
        yield lease


@contextmanager
def held_to_write(stored: "optuna.Study", study: Study, session: Session) -> Iterator["optuna.Study"]:
    """Hold a study that was read before, and hand it out to be written to. Raises as `held`."""
    with held(study, session) as lease:
        own = None if lease is None else newest(study, session.workspace, lease=lease)
        yield own or stored


def stored_study(study: Study, workspace: Workspace) -> "optuna.Study":
    """Return the newest generation of a study, to be read.

    Raises:
        BadInput: it was never searched here, or its file has changed since (StudyChanged); data are not looked at.
    """
    stored = newest(study, workspace)
    if stored is None:
        raise BadInput(f"study {study.name} has not been searched here; run `fttune search` on it first")
    old = stored.user_attrs[searching.IDENTITY]
    data, weights = old[f"experiment.{DATA}"], old[f"experiment.{WEIGHTS}"]
    same = study_identity(study, data=data, weights=weights, folds=old.get(FOLDS))
    require_same(stored.study_name, old, same)
    return stored


def identity_of(study: Study, inputs: Inputs) -> Identity:
    """Return what makes a study the same, by the data and weights that it was prepared with."""
    folds = inputs.folds.digest() if inputs.folds else None
    return study_identity(study, data=inputs.data.fingerprint, weights=inputs.weights.identity, folds=folds)


def inputs_of(session: Session, study: Study, stored: "optuna.Study") -> Inputs:
    """Return the inputs of a searched study. Raises StudyChanged when data or weights are other ones now."""
    inputs = prepare_in(session, study.experiment, evaluation=study.evaluation)
    searching.require_identity(stored, identity_of(study, inputs), inputs.data.manifest)
    return inputs


def is_finished(stored: "optuna.Study") -> bool:
    """Return whether a search of exactly these trials came to its end and delivered its winner."""
    closed = stored.user_attrs.get(CLOSED)
    return closed is not None and json.loads(closed)["trials"] == searching.counted(stored)


def checkpoint_of(session: Session, study: Study, stored: "optuna.Study", number: int) -> Path | None:
    """Return `best.safetensors` of a complete trial, from MLflow; None when it is gone."""
    tags = run_tags(stored, f"{stored.study_name}/{number}")
    return session.checkpoint(study.experiment.name, tags)


def lost_checkpoint(session: Session, study: Study, stored: "optuna.Study", number: int) -> str:
    """Return why a complete trial has no checkpoint in MLflow, and what to do about it."""
    tags = run_tags(stored, f"{stored.study_name}/{number}")
    run = session.uploader.ask(lambda store: store.find_run(study.experiment.name, tags))
    remedy = f"`fttune export STUDY --as experiment --trial {number}` writes its recipe, and `fttune train` trains it"
    if run is not None and REMOVED in run.data.tags:
        return f"the checkpoint of trial {number} was deleted, as the study asks: {run.data.tags[REMOVED]}; {remedy}"
    return f"the checkpoint of trial {number} is not in MLflow; restore its artifacts, or: {remedy}"


def trained_trial(stored: "optuna.Study", number: int | None = None) -> int:
    """Return the number of a complete trial (default: the best), or of the one whose value it took over: that trained.

    Raises:
        BadInput: the trial is not complete, or none is.
    """
    ranked = {trial.number: trial for trial in searching.ranked(stored)}
    if not ranked:
        raise BadInput(f"study {stored.study_name} has no complete trial yet")
    best = next(iter(ranked))
    if number is not None and number not in ranked:
        raise BadInput(f"trial {number} of study {stored.study_name} is not complete; the best one is {best}")
    chosen = best if number is None else number
    facts = searching.facts_of(ranked[chosen])
    return chosen if facts is None or facts.reused_from is None else facts.reused_from


def run_tags(stored: "optuna.Study", key: str) -> dict[str, str]:
    """Return the tags by which MLflow finds a run of a study: two studies of one name may share a server."""
    return {"fttune.run": key, STUDY_ID: str(stored.user_attrs[searching.ID])}


def _line(stored: "optuna.Study") -> StudyLine:
    rows = rows_of(stored)
    best = rows[0] if rows and rows[0].state == "complete" else None
    times = [t for trial in stored.get_trials(deepcopy=False) for t in (trial.datetime_start, trial.datetime_complete)]
    return StudyLine(
        stored.study_name,
        "finished" if is_finished(stored) else "unfinished",
        summary(rows) or "none",
        stored.user_attrs[searching.IDENTITY]["metric"],
        best.value if best else None,
        best.number if best else None,
        max((t.isoformat(" ", "seconds") for t in times if t is not None), default=None),
    )
