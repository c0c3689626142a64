"""Read what was stored with plain MLflow; stores to begin with."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
from mlflow.tracking import MlflowClient

from fttune.config.workspace import Workspace


def empty_stores(root: Path) -> Path:
    """Make the tables of both stores in a folder; return the generated folder in it."""
    from fttune.searching import open_storage
    from fttune.tracking.store import MlflowStore

    workspace = Workspace.at(root)
    open_storage(workspace.optuna_uri, locks=workspace.locks)
    MlflowStore(workspace.mlflow_uri, artifacts=workspace.artifacts, locks=workspace.locks)
    return workspace.mlruns


@contextmanager
def plain_mlflow(uri: str) -> Iterator[None]:
    """Point MLflow's fluent functions at a store for a moment; they are the whole process's."""
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(None)


def runs_of(uri: str, experiment: str = "tiny") -> Any:
    """Return the runs of an experiment as `mlflow.search_runs` gives them, a line per run."""
    with plain_mlflow(uri):
        return mlflow.search_runs(experiment_names=[experiment])


def history_of(uri: str, run_id: str, metric: str) -> list[Any]:
    """Return the points of a metric."""
    return list(MlflowClient(uri).get_metric_history(run_id, metric))
