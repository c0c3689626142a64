"""MLflow as a place to write events to. The only module that imports mlflow; blocking, used by one thread."""

import copy
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from filelock import FileLock
from mlflow.entities import LifecycleStage, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, RESOURCE_DOES_NOT_EXIST, ErrorCode
from mlflow.tracking import MlflowClient

from fttune.config.experiment import as_param
from fttune.config.urls import is_database
from fttune.files import private_folder
from fttune.tracking.artifacts import Refused, local_folder, refuse_moved, save_file
from fttune.tracking.models import Models
from fttune.tracking.removal import may_lose_checkpoint, remove_checkpoint
from fttune.tracking.schema import prepare_database
from fttune.training.events import (
    REMOVED,
    STUDY_ID,
    CheckpointExpired,
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
    "out_of_memory": "FAILED",
    "failed": "FAILED",
}
MAX_BATCH = 100  # params or tags of one request
MAX_METRICS = 800
MAX_FOUND = 1000  # runs of one look


@dataclass
class _Known:
    """What a run has: points by metric and step, but for metrics that are `unread`; and files as they were saved."""

    unread: set[str] = field(default_factory=set)
    points: dict[str, dict[int, Metric]] = field(default_factory=dict)
    files: set[tuple[FileSaved, int]] = field(default_factory=set)


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
        private_folder(locks)
        with FileLock(locks / "mlflow-schema.lock"):
            prepare_database(uri)
            self.client = MlflowClient(uri)
            refuse_moved(self.client, self.uri, self.artifacts)
        self._models = Models(self.client)
        self._experiments: dict[str, str] = {}
        self._runs: dict[str, Run] = {}
        self._opened: dict[str, RunOpened] = {}
        self._known: dict[str, _Known] = {}

    def apart(self) -> "MlflowStore":
        """Return the same store for events of another process, whose runs may have the keys of this one's."""
        other = copy.copy(self)
        other._runs, other._opened, other._known = {}, {}, {}
        return other

    def close(self) -> None:
        """Drop what is kept for another attempt."""
        self._models.drop()

    def answers(self) -> None:
        """Ask the store for next to nothing. Raises what its client raises."""
        self.client.search_experiments(max_results=1)

    def write(self, run: str, *events: Event, again: bool = False) -> None:
        """Store events of one run, in order; those that are for people only are passed over.

        After an error the same call, with `again`, goes on: what a failed request may have stored is looked for first.
        `again` is also for events of another process.

        Raises:
            Refused: something of it can never be stored.
        """
        pending = _Pending(stored=_tags_of(events))
        for event in events:
            if isinstance(event, RunOpened):
                self._open(run, event, pending, again=again)
            elif isinstance(event, Described):
                pending.tags |= event.tags
            elif isinstance(event, EpochEnded):
                pending.metrics += self._points(run, event)
            elif isinstance(event, FileSaved):
                self._save_file(run, event)
            elif isinstance(event, ModelSaved):
                self._log_model(run, event)
            elif isinstance(event, RunClosed) and run in self._runs:  # not interrupted before it was opened
                if again and self._ended_after(self._runs[run], event):
                    pending = _Pending()
                    continue
                self._log(run, self._closing(run, pending, event))
                self.client.set_terminated(self._id(run), STATUS[event.state], event.unix_ms)
                self._known.pop(run, None)
                pending = _Pending()
            elif isinstance(event, CheckpointExpired):
                self._expire(run, event)
        self._log(run, pending)

    def attach(self, run: str, opened: RunOpened) -> bool:
        """Take up a run that was opened before, as it is; return whether it is there."""
        if run not in self._runs and (found := self._opened_before(run, opened)) is not None:
            self._runs[run] = found
        return run in self._runs

    def find_run(self, experiment: str, tags: Mapping[str, str], *, status: str | None = None) -> Run | None:
        """Return the newest run of an experiment that carries all the tags."""
        return next(iter(self.find_runs(experiment, tags, status=status, limit=1)), None)

    def find_runs(
        self, experiment: str, tags: Mapping[str, str], *, status: str | None = None, limit: int = MAX_FOUND
    ) -> list[Run]:
        """Return the runs of an experiment that carry all the tags, the newest first."""
        if experiment not in self._experiments and self.client.get_experiment_by_name(experiment) is None:
            return []
        wanted = [f"tags.`{key}` = '{value}'" for key, value in tags.items()]
        wanted += [f"attributes.status = '{status}'"] if status else []
        return list(self.client.search_runs([self._experiment(experiment)], " and ".join(wanted), max_results=limit))

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
        if (kept := local_folder(run)) is not None:
            file = kept / path
            return file if file.is_file() else None
        if path not in {one.path for one in self.client.list_artifacts(run.info.run_id, path.rpartition("/")[0])}:
            return None
        (folder := self.downloads(run)).mkdir(parents=True, exist_ok=True)
        return Path(self.client.download_artifacts(run.info.run_id, path, str(folder)))

    def downloads(self, run: Run) -> Path:
        """Return where files of a run lie that were fetched."""
        return self.artifacts.parent / "cache" / "checkpoints" / str(run.info.run_id)

    def comparison(self, experiment: str, keys: list[str], tags: Mapping[str, str]) -> str | None:
        """Return the path of MLflow's page that compares the runs of these keys and tags, None when there are none."""
        found = self.client.get_experiment_by_name(experiment)
        runs = [self.find_run(experiment, {RUN: key, **tags}) for key in keys]
        ids = [run.info.run_id for run in runs if run is not None]
        if found is None or not ids:
            return None
        return f"/#/compare-runs?runs={quote(json.dumps(ids))}&experiments={quote(json.dumps([found.experiment_id]))}"

    def _open(self, key: str, event: RunOpened, pending: _Pending, *, again: bool) -> None:
        """Create the run, or take up the one that an earlier process left; what that one logged stays as it is."""
        if again and self._opened.get(key) is event:
            run = self._runs[key]
            pending.stored.clear()  # it may have been taken up, and have none of them
        else:
            found = self._opened_before(key, event) if event.reopen or again else None
            if found is not None:
                run = found
                if not (again and self._ended_after(run, event)):
                    self._take_up(run)
                pending.stored.clear()
            else:
                parent = {"mlflow.parentRunId": self._id(event.parent)} if event.parent in self._runs else {}
                # All tags at once: a run that is cut off from here on must be found again by them.
                tags = {**event.tags, **pending.stored, RUN: key, **parent}
                run = self.client.create_run(self._experiment(event.experiment), event.unix_ms, tags, event.name)
            self._runs[key], self._opened[key] = run, event
            self._known[key] = _Known(set(run.data.metrics))
        pending.tags |= {name: value for name, value in event.tags.items() if run.data.tags.get(name) != value}
        pending.params += [Param(n, as_param(value)) for n, value in event.params.items() if n not in run.data.params]

    def _ended_after(self, run: Run, event: RunOpened | RunClosed) -> bool:
        """Return whether a run has ended since an event: another machine went on with it, and its word counts."""
        ended = self.client.get_run(run.info.run_id).info.end_time
        return ended is not None and ended > event.unix_ms

    def _take_up(self, run: Run) -> None:
        """Let a run that was closed run again."""
        if run.info.status != "RUNNING":
            self.client.update_run(run.info.run_id, status="RUNNING")
        for stale in {"fttune.state", "fttune.cause"} & run.data.tags.keys():
            self.client.delete_tag(run.info.run_id, stale)

    def _opened_before(self, key: str, event: RunOpened) -> Run | None:
        """Return the run that this opening made or took up: to be reopened the newest one, else that of its time."""
        tags = {RUN: key, **{name: event.tags[name] for name in (STUDY_ID,) if name in event.tags}}
        found = self.find_runs(event.experiment, tags)
        return next((run for run in found if event.reopen or run.info.start_time == event.unix_ms), None)

    def _there(self, key: str, metric: str) -> dict[int, Metric]:
        """Return the points that a run has of a metric, by step; MLflow is asked for what this process did not log."""
        if key not in self._known:
            self._known[key] = _Known(set(self.client.get_run(self._id(key)).data.metrics))
        known = self._known[key]
        if metric in known.unread:
            history = self.client.get_metric_history(self._id(key), metric)
            known.points[metric] = {point.step: point for point in history}
            known.unread.discard(metric)
        return known.points.get(metric, {})

    def _points(self, key: str, event: EpochEnded) -> list[Metric]:
        """Return the points of an epoch, but those that are there: MLflow would keep both."""
        return [
            Metric(name, value, event.unix_ms, event.epoch)
            for name, value in event.metrics.items()
            if event.epoch not in self._there(key, name)
        ]

    def _closing(self, key: str, pending: _Pending, event: RunClosed) -> _Pending:
        """Return what is pending with what the run's end adds; a value that an earlier end gave otherwise is a step."""
        last = []
        for name, value in event.metrics.items():
            before = self._there(key, name)
            newest = before[max(before)] if before else None
            if newest is None or (newest.value != value and newest.timestamp != event.unix_ms):
                last.append(Metric(name, value, event.unix_ms, 0 if newest is None else newest.step + 1))
        tags = {**pending.tags, "fttune.state": event.state, **event.tags}
        return _Pending([*pending.metrics, *last], pending.params, tags, pending.stored)

    def _log(self, key: str, pending: _Pending) -> None:
        """Log in as few requests as MLflow's limits allow: one, but for very long runs or recipes."""
        metrics, params = pending.metrics, pending.params
        tags = [RunTag(name, value) for name, value in pending.tags.items() if pending.stored.get(name) != value]
        while metrics or params or tags:
            now = metrics[:MAX_METRICS]
            known = self._known.pop(key, None)  # unless the request succeeds, nobody knows what it did
            self.client.log_batch(self._id(key), now, params[:MAX_BATCH], tags[:MAX_BATCH])
            if known is not None:
                self._known[key] = known
                for point in now:
                    known.points.setdefault(point.key, {})[point.step] = point
            metrics, params, tags = metrics[MAX_METRICS:], params[MAX_BATCH:], tags[MAX_BATCH:]

    def _save_file(self, key: str, event: FileSaved) -> None:
        known = self._known.get(key) or _Known()
        state = event, event.path.stat().st_mtime_ns if event.path.exists() else 0
        if state not in known.files:  # uploading a large one again for what comes after it takes longer than that
            save_file(self.client, self._run(key), event.path, event.folder)
            known.files.add(state)

    def _expire(self, key: str, event: CheckpointExpired) -> None:
        """Delete the checkpoint of a trial's run, unless it is pinned or gone; all else of the run stays."""
        run = self.find_run(event.experiment, {RUN: key, STUDY_ID: event.study_id})
        if run is None or not may_lose_checkpoint(run):
            return
        if said := remove_checkpoint(run, uri=self.uri, downloads=self.downloads(run), why=event.why):
            self.client.set_tag(run.info.run_id, REMOVED, said)

    def _log_model(self, key: str, event: ModelSaved) -> None:
        self._models.log(self._run(key), event)

    def _run(self, key: str) -> Run:
        if key not in self._runs:
            raise Refused(f"run {key} is not in MLflow")
        return self._runs[key]

    def _id(self, key: str) -> str:
        return str(self._run(key).info.run_id)

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
        try:
            return str(self.client.create_experiment(name, artifact_location=location, tags=tags))
        except MlflowException as error:
            made = self.client.get_experiment_by_name(name)  # by another process, or by a request that seemed to fail
            if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS) or made is None:
                raise
            return str(made.experiment_id)

    def _artifact_location(self, name: str) -> str | None:
        """Return where an experiment's artifacts go; a tracking server decides that itself."""
        return (self.artifacts / name).as_uri() if is_database(self.uri) else None


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
