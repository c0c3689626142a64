"""MLflow as a place to write events to. The only module that imports mlflow; blocking, used by one thread."""

import json
import logging
import os
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit
from urllib.request import url2pathname

# Set before mlflow is imported: it would report usage over the network, and wait minutes for a dead server.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

from filelock import FileLock
from mlflow.entities import LifecycleStage, Metric, Param, Run, RunTag, ViewType
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode
from mlflow.tracking import MlflowClient

from fttune.config.experiment import as_param
from fttune.errors import StoreError
from fttune.files import flush
from fttune.tracking.schema import prepare_database
from fttune.training.events import (
    STUDY_ID,
    Described,
    EpochEnded,
    Event,
    FileSaved,
    ModelSaved,
    RunClosed,
    RunOpened,
)

RUN = "fttune.run"
STATUS = {
    "complete": "FINISHED",
    "pruned": "KILLED",
    "interrupted": "KILLED",
    "diverged": "FAILED",
    "failed": "FAILED",
}
MAX_BATCH = 100  # params or tags of one request
MAX_METRICS = 800
MAX_FOUND = 1000  # runs of one look


@dataclass
class _Pending:
    """What the events of a run so far add to it, for one request; `stored` are tags that it was made with."""

    metrics: list[Metric] = field(default_factory=list)
    params: list[Param] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)
    stored: dict[str, str] = field(default_factory=dict)


class MlflowStore:
    """Writes events of runs that are named by keys; what the events of a run say together is one request."""

    def __init__(self, uri: str, *, artifacts: Path, locks: Path) -> None:
        """Open the store and make its tables, once, under a lock.

        Raises:
            StoreError: the generated folder was moved since its artifacts were written, or `prepare_database` says so.
        """
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        self.uri, self.artifacts = uri, artifacts
        locks.mkdir(parents=True, exist_ok=True)
        with FileLock(locks / "mlflow-schema.lock"):
            prepare_database(uri)
            self.client = MlflowClient(uri)
            self._refuse_moved_artifacts()
        self._runs: dict[str, Run] = {}
        self._experiments: dict[str, str] = {}
        self._logged: dict[str, int] = {}
        self._known: dict[str, Mapping[str, float]] = {}  # what reopened runs were ended with

    def write(self, run: str, *events: Event) -> None:
        """Store events of one run, in order; those that are for people only are passed over."""
        pending = _Pending(stored=_tags_of(events))
        for event in events:
            if isinstance(event, RunOpened):
                self._open(run, event, pending)
            elif isinstance(event, Described):
                pending.tags |= event.tags
            elif isinstance(event, EpochEnded):
                pending.metrics += self._points(run, event)
            elif isinstance(event, FileSaved):
                self._save_file(run, event)
            elif isinstance(event, ModelSaved):
                self._log_model(run, event)
            elif isinstance(event, RunClosed) and run in self._runs:  # not interrupted before it was opened
                self._log(run, _closing(pending, event, known=self._known.get(run, {})))
                self.client.set_terminated(self._id(run), STATUS[event.state])
                pending = _Pending()
        self._log(run, pending)

    def find_run(self, experiment: str, tags: Mapping[str, str], *, status: str | None = None) -> Run | None:
        """Return the newest run of an experiment that carries all the tags."""
        return next(iter(self.find_runs(experiment, tags, status=status, limit=1)), None)

    def find_runs(
        self, experiment: str, tags: Mapping[str, str], *, status: str | None = None, limit: int = MAX_FOUND
    ) -> list[Run]:
        """Return the runs of an experiment that carry all the tags, the newest first."""
        found = self.client.get_experiment_by_name(experiment)
        if found is None:
            return []
        wanted = [f"tags.`{key}` = '{value}'" for key, value in tags.items()]
        wanted += [f"attributes.status = '{status}'"] if status else []
        return list(self.client.search_runs([found.experiment_id], " and ".join(wanted), max_results=limit))

    def get_run(self, run_id: str) -> Run | None:
        """Return the run of an id, None when there is none, or it was deleted."""
        try:
            run = self.client.get_run(run_id)
        except MlflowException as error:
            if error.error_code != ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
                raise
            return None
        return run if run.info.lifecycle_stage == LifecycleStage.ACTIVE else None

    def find_checkpoint(self, experiment: str, tags: Mapping[str, str]) -> Path | None:
        """Return `best.safetensors` of the newest finished run with these tags, as a local file; None if it is gone."""
        run = self.find_run(experiment, tags, status="FINISHED")
        if run is None:
            return None
        about, file = (self.file_of(run, f"checkpoint/best{suffix}") for suffix in (".json", ".safetensors"))
        return file if about else None

    def file_of(self, run: Run, path: str) -> Path | None:
        """Return a file among a run's artifacts as a local one; None if it is gone."""
        uri = urlsplit(run.info.artifact_uri)
        if uri.scheme == "file":
            file = Path(url2pathname(uri.path)) / path
            return file if file.is_file() else None
        if path not in {one.path for one in self.client.list_artifacts(run.info.run_id, path.rpartition("/")[0])}:
            return None
        folder = self.artifacts.parent / "cache" / "checkpoints" / run.info.run_id
        folder.mkdir(parents=True, exist_ok=True)
        return Path(self.client.download_artifacts(run.info.run_id, path, str(folder)))

    def comparison(self, experiment: str, keys: list[str], tags: Mapping[str, str]) -> str | None:
        """Return the path of MLflow's page that compares the runs of these keys and tags, None when there are none."""
        found = self.client.get_experiment_by_name(experiment)
        runs = [self.find_run(experiment, {RUN: key, **tags}) for key in keys]
        ids = [run.info.run_id for run in runs if run is not None]
        if found is None or not ids:
            return None
        return f"/#/compare-runs?runs={quote(json.dumps(ids))}&experiments={quote(json.dumps([found.experiment_id]))}"

    def _open(self, key: str, event: RunOpened, pending: _Pending) -> None:
        """Create the run, or take up the one that an earlier process left; what that one logged stays as it is."""
        same = {RUN: key, **{name: event.tags[name] for name in (STUDY_ID,) if name in event.tags}}
        run = self.find_run(event.experiment, same) if event.reopen else None
        if run is not None:
            self.client.update_run(run.info.run_id, status="RUNNING")
            for stale in {"fttune.state", "fttune.cause"} & run.data.tags.keys():
                self.client.delete_tag(run.info.run_id, stale)
            self._known[key] = run.data.metrics
            history = self.client.get_metric_history(run.info.run_id, "train/loss")
            self._logged[key] = max((point.step for point in history), default=0)
            pending.tags |= event.tags
            pending.stored.clear()
        else:
            parent = {} if event.parent is None else {"mlflow.parentRunId": self._id(event.parent)}
            # All tags at once: a run that is cut off from here on must be found again by them.
            tags = {**event.tags, **pending.stored, RUN: key, **parent}
            run = self.client.create_run(self._experiment(event.experiment), run_name=event.name, tags=tags)
        self._runs[key] = run
        pending.params += [Param(n, as_param(value)) for n, value in event.params.items() if n not in run.data.params]

    def _points(self, key: str, event: EpochEnded) -> list[Metric]:
        """Return the points of an epoch, none when an earlier process logged them: MLflow would keep both."""
        if event.epoch <= self._logged.get(key, 0):
            return []
        return [Metric(name, value, event.unix_ms, event.epoch) for name, value in event.metrics.items()]

    def _log(self, key: str, pending: _Pending) -> None:
        """Log in as few requests as MLflow's limits allow: one, but for very long runs or recipes."""
        metrics, params = pending.metrics, pending.params
        tags = [RunTag(name, value) for name, value in pending.tags.items() if pending.stored.get(name) != value]
        while metrics or params or tags:
            self.client.log_batch(self._id(key), metrics[:MAX_METRICS], params[:MAX_BATCH], tags[:MAX_BATCH])
            metrics, params, tags = metrics[MAX_METRICS:], params[MAX_BATCH:], tags[MAX_BATCH:]

    def _save_file(self, key: str, event: FileSaved) -> None:
        """Keep a file among the run's artifacts: where they lie on this file system, as a second name of the same file.

        A copy of a large checkpoint takes longer than all else that is written of a trial. The file is not to be
        changed in place afterwards.
        """
        uri = urlsplit(self._runs[key].info.artifact_uri)
        if uri.scheme == "file" and not uri.netloc:
            kept = Path(url2pathname(uri.path)) / event.folder / event.path.name
            kept.parent.mkdir(parents=True, exist_ok=True)
            if _linked(event.path, kept):
                return
        self.client.log_artifact(self._id(key), str(event.path), event.folder)

    def _log_model(self, key: str, event: ModelSaved) -> None:
        """Log a checkpoint as an MLflow model (torch's pt2 format), with its signature."""
        import mlflow
        import mlflow.pytorch

        # Only the fluent API logs models, and its URI is the whole process's: it is given back afterwards.
        before: Any = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None  # type: ignore[no-untyped-call]
        mlflow.set_tracking_uri(self.uri)
        try:
            with warnings.catch_warnings(action="ignore"), mlflow.start_run(run_id=self._id(key)):
                mlflow.pytorch.log_model(
                    name="model",
                    validate_serving_input=False,  # else MLflow loads the model and runs it, which takes seconds
                    **_model(event),
                )
        finally:
            mlflow.set_tracking_uri(before)

    def _id(self, key: str) -> str:
        return str(self._runs[key].info.run_id)

    def _experiment(self, name: str) -> str:
        if name not in self._experiments:
            self._experiments[name] = self._experiment_id(name)
        return self._experiments[name]

    def _experiment_id(self, name: str) -> str:
        found = self.client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        location = self._artifact_location(name)
        tags = {"fttune": "experiment", "mlflow.experimentKind": "custom_model_development"}
        return str(self.client.create_experiment(name, artifact_location=location, tags=tags))

    def _artifact_location(self, name: str) -> str | None:
        """Return where an experiment's artifacts go; a tracking server decides that itself."""
        return (self.artifacts / name).as_uri() if self.uri.startswith("sqlite:") else None

    def _refuse_moved_artifacts(self) -> None:
        if self.uri != f"sqlite:///{self.artifacts.parent / 'mlflow.db'}":
            return  # a store outside the generated folder does not move with it
        for experiment in self.client.search_experiments(view_type=ViewType.ALL):
            if experiment.tags.get("fttune") != "experiment":
                continue
            stored = Path(url2pathname(urlsplit(experiment.artifact_location).path))
            if stored.resolve() != (self.artifacts / experiment.name).resolve():
                old = stored.parent.parent
                raise StoreError(
                    f"{self.artifacts.parent}: was moved: MLflow stored its artifacts under {old}. Move it back, "
                    f"link the old place to the new one (ln -s {self.artifacts.parent} {old}), "
                    "or start a new folder with --mlruns DIR"
                )


def _closing(pending: _Pending, event: RunClosed, *, known: Mapping[str, float]) -> _Pending:
    """Return what is pending with what the run's end adds, but for values that are there: MLflow keeps both."""
    now = time.time_ns() // 1_000_000
    last = [Metric(name, value, now, 0) for name, value in event.metrics.items() if known.get(name) != value]
    tags = {**pending.tags, "fttune.state": event.state, **event.tags}
    return _Pending([*pending.metrics, *last], pending.params, tags, pending.stored)


def _tags_of(events: Sequence[Event]) -> dict[str, str]:
    """Return the tags that a run gets by these events if they make it: one request fewer than to set them later."""
    if not any(isinstance(event, RunOpened) for event in events):
        return {}
    found: dict[str, str] = {}
    for event in events:
        if isinstance(event, Described):
            found |= event.tags
        elif isinstance(event, RunClosed):
            found |= {"fttune.state": event.state, **event.tags}
    return found


def _linked(source: Path, target: Path) -> bool:
    """Give a file a second name, in place of what had it; False where the file system cannot."""
    try:
        target.unlink(missing_ok=True)
        target.hardlink_to(source)
        flush(target.parent)
    except OSError:  # another file system, or one without links
        return False
    return True


def save_model(folder: Path, checkpoint: Path, *, image_size: int, plugins: Sequence[Path] = ()) -> None:
    """Write a checkpoint as an MLflow model (torch's pt2 format), with its signature, into a new folder."""
    import mlflow.pytorch

    with warnings.catch_warnings(action="ignore"):
        mlflow.pytorch.save_model(path=str(folder), **_model(ModelSaved(checkpoint, image_size, tuple(plugins))))


def _model(event: ModelSaved) -> dict[str, Any]:
    """Return what MLflow is to be told of a model."""
    import torch

    from fttune.models import load_model

    return {
        "pytorch_model": load_model(event.checkpoint, plugins=event.plugins),
        # Two images: a batch of one would fix the exported batch dimension to one.
        "input_example": torch.zeros(2, 3, event.image_size, event.image_size).numpy(),
        "pip_requirements": [f"torch=={torch.__version__.split('+')[0]}"],
    }
