"""Delete the checkpoint of a run: a folder on this machine, or one of a remote artifact repository.

Deleting follows no link, and reaches nothing but `checkpoint/` below the folder that MLflow made for the very run.
"""

import os
import shutil
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import url2pathname

from mlflow.entities import Run, ViewType
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from fttune.training.events import KEEP, REMOVED

if TYPE_CHECKING:
    from fttune.tracking.store import MlflowStore

FOLDER = "checkpoint"
MAX_DELETED = 1000  # runs of one look


def may_lose_checkpoint(run: Run) -> bool:
    """Return whether a run is of a trial, or its confirmation, and has a checkpoint as far as tags say, not pinned."""
    tags = run.data.tags
    return tags.get("fttune.kind") in ("trial", "confirm") and KEEP not in tags and REMOVED not in tags


def remove_deleted(store: "MlflowStore", experiment: str, *, study: str, why: str) -> int:
    """Delete the checkpoints of runs of a study that people have deleted in MLflow, but for pinned ones.

    Return of how many runs. The runs stay as they are, and can be restored without it, until `mlflow gc`; MLflow takes
    no tags for them.
    """
    found = store.client.get_experiment_by_name(experiment)
    if found is None:
        return 0
    runs = store.client.search_runs([found.experiment_id], run_view_type=ViewType.DELETED_ONLY, max_results=MAX_DELETED)
    own = [run for run in runs if run.data.tags.get("fttune.study", "").partition("@")[0] == study]
    removed = [
        remove_checkpoint(run, uri=store.uri, downloads=store.downloads(run), why=why)
        for run in own
        if may_lose_checkpoint(run)
    ]
    return sum(told is not None for told in removed)


def remove_checkpoint(run: Run, *, uri: str, downloads: Path, why: str) -> str | None:
    """Delete a run's checkpoint; return what became of it, for a tag, or None when there was nothing.

    `uri` is the tracking store's; `downloads` is where files of this run lie that were fetched, and goes too.
    """
    address = urlsplit(run.info.artifact_uri)
    local = address.scheme in ("", "file") and not address.netloc
    if local:
        found = _remove_folder(Path(url2pathname(address.path)), run.info.run_id)
    else:
        found = _remove_remote(run.info.artifact_uri, uri)
    if found is None:
        return None
    shutil.rmtree(downloads, ignore_errors=True)  # which does not follow a link either
    return f"{found} ({datetime.now(UTC).isoformat(' ', 'seconds')}; {why})"


def _remove_folder(artifacts: Path, run_id: str) -> str | None:
    """Delete `checkpoint/` below a run's artifact folder, `<experiment>/<run id>/artifacts`."""
    folder = artifacts / FOLDER
    if not folder.is_symlink() and not folder.exists():
        return None
    if (artifacts.parent.name, artifacts.name) != (run_id, "artifacts"):
        return f"nothing: {artifacts} is not this run's own folder"
    if link := next((place for place in (folder, artifacts, artifacts.parent) if place.is_symlink()), None):
        return f"nothing: {link} is a symbolic link, which is not followed"
    files = [Path(place, name) for place, _, names in os.walk(folder) for name in names]
    told = _told([(file.relative_to(artifacts).as_posix(), file.lstat().st_size) for file in files])
    try:
        shutil.rmtree(folder)
    except OSError as error:
        return f"nothing, or not all: {error.strerror}: {error.filename}"
    return told


def _remove_remote(artifact_uri: str, tracking_uri: str) -> str | None:
    repository = get_artifact_repository(artifact_uri, tracking_uri=tracking_uri)
    files = [file for file in repository.list_artifacts(FOLDER) if PurePosixPath(file.path).parts[0] == FOLDER]
    if not files:
        return None
    try:
        repository.delete_artifacts(FOLDER)  # type: ignore[no-untyped-call]
    except NotImplementedError:
        return f"nothing: {type(repository).__name__} cannot delete"
    if repository.list_artifacts(FOLDER):
        return f"nothing, or not all: {type(repository).__name__} left files behind"
    return _told([(file.path, file.file_size or 0) for file in files])


def _told(files: list[tuple[str, int]]) -> str:
    return f"{', '.join(sorted(name for name, _ in files))}, {sum(size for _, size in files)} bytes"
