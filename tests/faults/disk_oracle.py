"""What lies in a generated folder after a study, as plain SQLite, Optuna, MLflow and safetensors read it.

Knows nothing of fttune but the names of its tags. Times differ from run to run and are not looked at.
"""

import hashlib
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.tracking import MlflowClient
from safetensors import safe_open

MEASURED = ("train/loss", "val/accuracy", "value", "best_value")
Points = dict[str, list[tuple[int, float]]]


@dataclass(frozen=True)
class Trial:
    """A trial in Optuna's store."""

    state: str
    params: dict[str, Any]
    values: list[float] | None


@dataclass(frozen=True)
class Run:
    """A run in MLflow's store; `points` are (step, value) in the order in which they were stored."""

    status: str
    params: dict[str, str]
    points: Points


@dataclass(frozen=True)
class Stores:
    """Both stores: trials by number, and runs by the key that fttune gives them, each key once."""

    trials: dict[int, Trial]
    runs: dict[str, Run]


def read(mlruns: Path, *, study: str, experiment: str) -> Stores:
    """Read both stores; fail when a database is not sound, or two runs have one key."""
    for name in ("optuna.db", "mlflow.db"):
        with closing(sqlite3.connect(mlruns / name)) as database:
            assert database.execute("pragma integrity_check").fetchall() == [("ok",)], name
    return Stores(_trials(mlruns / "optuna.db", study), _runs(mlruns / "mlflow.db", experiment))


def _trials(file: Path, study: str) -> dict[int, Trial]:
    storage = optuna.storages.RDBStorage(f"sqlite:///{file}", skip_table_creation=True)
    try:
        if study not in optuna.get_all_study_names(storage):
            return {}
        trials = optuna.load_study(study_name=study, storage=storage).trials
        return {t.number: Trial(t.state.name, t.params, t.values) for t in trials}
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _runs(file: Path, experiment: str) -> dict[str, Run]:
    with _client(f"sqlite:///{file}") as client:
        if (found := client.get_experiment_by_name(experiment)) is None:
            return {}
        runs: dict[str, Run] = {}
        for run in client.search_runs([found.experiment_id]):
            key = run.data.tags["fttune.run"]
            assert key not in runs, f"two runs of {key}"
            history = {
                name: [(p.step, p.value) for p in client.get_metric_history(run.info.run_id, name)]
                for name in run.data.metrics
                if name in MEASURED
            }
            runs[key] = Run(run.info.status, run.data.params, history)
        return runs


@contextmanager
def _client(uri: str) -> Iterator[MlflowClient]:
    yield MlflowClient(uri)
    SqlAlchemyStore._engine_map[uri].dispose()  # the next case has another file under this name


def require_old_or_new(now: Stores, whole: Stores) -> None:
    """Fail when anything is stored that an undisturbed study does not store."""
    assert sorted(now.trials) == list(range(len(now.trials))), "numbers follow each other"
    for number, trial in now.trials.items():
        wanted = whole.trials[number]
        assert trial.state in ("RUNNING", wanted.state), f"trial {number} is {trial.state}"
        assert trial.params == wanted.params, f"trial {number}"
        assert trial.values == (wanted.values if trial.state == wanted.state else None), f"trial {number}"
    for key, run in now.runs.items():
        wanted_run = whole.runs[key]
        assert run.params.items() <= wanted_run.params.items(), key
        for name, points in run.points.items():
            assert len(set(points)) == len(points), f"{key}: {name} has points twice"
            assert set(points) <= set(wanted_run.points[name]), f"{key}: {name}"


def require_sound_checkpoints(folder: Path) -> int:
    """Fail when a checkpoint is visible under its name and is not what was written; return how many are whole."""
    whole = 0
    for file in folder.rglob("[!.]*.safetensors"):
        with safe_open(file, "pt") as tensors:
            assert list(tensors.keys()), file
        if (about := file.with_suffix(".json")).exists():
            assert json.loads(about.read_text())["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest(), file
            whole += 1
    return whole
