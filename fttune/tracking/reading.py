"""What lies in MLflow of a study, read back by those who come after a search, and what they add to its run.

Runs are found by their key and tags one by one: a search for all of a long study's runs would load every param, tag and
metric of each, which takes many times as long as the curves of those that are shown.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import url2pathname

if TYPE_CHECKING:
    from mlflow.entities import Run

    from fttune.tracking.store import MlflowStore

Points = tuple[tuple[int, float], ...]


def curves(
    store: "MlflowStore", experiment: str, keys: Iterable[str], tags: Mapping[str, str], *, metric: str
) -> dict[str, Points]:
    """Return a metric of each run as (epoch, value) by its key; runs that are not there are left out."""
    found = {}
    for key in keys:
        run = store.find_run(experiment, {**tags, "fttune.run": key})
        if run is not None and metric in run.data.metrics:
            history = store.client.get_metric_history(run.info.run_id, metric)
            found[key] = tuple(sorted({point.step: point.value for point in history}.items()))
    return found


def artifacts(store: "MlflowStore", run: "Run", folder: str, *, into: Path) -> Path | None:
    """Return a folder of a run's artifacts as a local one, downloaded into `into` where they lie elsewhere.

    None when the run has no such folder.
    """
    uri = urlsplit(run.info.artifact_uri)
    if uri.scheme == "file" and not uri.netloc:
        kept = Path(url2pathname(uri.path)) / folder
        return kept if kept.is_dir() else None
    if not store.client.list_artifacts(run.info.run_id, folder):
        return None
    into.mkdir(parents=True, exist_ok=True)
    return Path(store.client.download_artifacts(run.info.run_id, folder, str(into)))


def attach(store: "MlflowStore", run: "Run", files: Mapping[Path, str]) -> None:
    """Copy files to folders of a run's artifacts, whatever its status, which stays as it is."""
    for file, folder in files.items():
        store.client.log_artifact(run.info.run_id, str(file), folder)
