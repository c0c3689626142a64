"""Where MLflow keeps artifacts, and files of runs on their way there; a symlink, or what it leads to, never goes."""

from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from mlflow.entities import Run, ViewType
from mlflow.tracking import MlflowClient

from fttune.errors import StoreError
from fttune.files import linked


class Refused(Exception):
    """What was to be stored can never be: the same attempt would fail again."""


def local_folder(run: Run) -> Path | None:
    """Return the folder of a run's artifacts when it lies on this file system."""
    uri = urlsplit(run.info.artifact_uri)
    return Path(url2pathname(uri.path)) if uri.scheme == "file" and not uri.netloc else None


def save_file(client: MlflowClient, run: Run, source: Path, folder: str) -> None:
    """Keep a file among the run's artifacts: where they lie on this file system, as a second name of the same file.

    A copy of a large checkpoint takes longer than all else that is written of a trial. The file is not to be
    changed in place afterwards. One that is gone was stored by an earlier attempt, if it is there.

    Raises:
        Refused: it is a symlink or a folder that holds one, or it is gone without being stored.
    """
    refuse_links(source)
    kept = local_folder(run)
    target = None if kept is None else kept / folder / source.name
    if not source.exists():
        if (target is not None and target.exists()) or (
            target is None and _has(client, run, f"{folder}/{source.name}")
        ):
            return
        raise Refused(f"{source} is gone")
    if target is not None and linked(source, target):
        return
    client.log_artifact(run.info.run_id, str(source), folder)


def refuse_links(source: Path) -> None:
    """Raise Refused for a symlink, or a folder with one in it: they may lead to files that are nobody's business."""
    for path in (source, *(source.rglob("*") if source.is_dir() and not source.is_symlink() else ())):
        if path.is_symlink():
            raise Refused(f"{path} is a symlink, and what it leads to is not uploaded; save the file itself")


def _has(client: MlflowClient, run: Run, path: str) -> bool:
    return path in {one.path for one in client.list_artifacts(run.info.run_id, path.rpartition("/")[0])}


def refuse_moved(client: MlflowClient, uri: str, artifacts: Path) -> None:
    """Refuse a generated folder that was moved: its store names the old place of each experiment. Raises StoreError."""
    if uri != f"sqlite:///{artifacts.parent / 'mlflow.db'}":
        return  # a store outside the generated folder does not move with it
    for experiment in client.search_experiments(view_type=ViewType.ALL):
        if experiment.tags.get("fttune") != "experiment":
            continue
        stored = Path(url2pathname(urlsplit(experiment.artifact_location).path))
        if stored.resolve() != (artifacts / experiment.name).resolve():
            old = stored.parent.parent
            raise StoreError(
                f"{artifacts.parent}: was moved: MLflow stored its artifacts under {old}. Move it back, "
                f"link the old place to the new one (ln -s {artifacts.parent} {old}), "
                "or start a new folder with --mlruns DIR"
            )
