import os
import shutil
import socket
import sqlite3
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from fttune.config.workspace import Workspace
from fttune.tracking.store import MlflowStore
from fttune.training.events import KEEP, REMOVED, STUDY_ID, CheckpointExpired, FileSaved, RunClosed, RunOpened
from tests import processes

EXPIRED = CheckpointExpired("pets", "abc", "retention.keep: best_3")


@pytest.fixture
def store(workspace: Workspace) -> MlflowStore:
    return MlflowStore(workspace.mlflow_uri, artifacts=workspace.artifacts, locks=workspace.locks)


def logged(store: MlflowStore, tmp_path: Path, key: str = "pets/0", **tags: str) -> Run:
    """Log a trial with a checkpoint of two files and one file beside it; return its run."""
    about = {"fttune.kind": "trial", STUDY_ID: "abc", **tags}
    store.write(key, RunOpened(key.replace("/", "-"), "pets", tags=about, params={"optimizer.lr": 0.1}))
    for name in ("best.json", "best.safetensors", "curve.csv"):
        waiting = tmp_path / "waiting" / key / name
        waiting.parent.mkdir(parents=True, exist_ok=True)
        waiting.write_text("12345")
        store.write(key, FileSaved(waiting, "data" if name == "curve.csv" else "checkpoint"))
    store.write(key, RunClosed("complete", metrics={"value": 0.5}))
    return run_of(store, key)


def run_of(store: MlflowStore, key: str = "pets/0") -> Run:
    run = store.find_run("pets", {"fttune.run": key})
    assert run is not None
    return run


def checkpoint_of(workspace: Workspace, run: Run) -> Path:
    return workspace.artifacts / "pets" / run.info.run_id / "artifacts" / "checkpoint"


def test_the_checkpoint_goes_and_nothing_else_of_the_run(
    store: MlflowStore, workspace: Workspace, tmp_path: Path
) -> None:
    before = logged(store, tmp_path)
    store.write("pets/0", EXPIRED)
    after = run_of(store)
    folder = checkpoint_of(workspace, after)
    assert not folder.exists()
    assert (folder.parent / "data" / "curve.csv").read_text() == "12345"
    tag = after.data.tags.pop(REMOVED)
    assert tag.startswith("checkpoint/best.json, checkpoint/best.safetensors, 10 bytes (20")
    assert tag.endswith("; retention.keep: best_3)")
    assert (after.data.tags, after.data.params, after.data.metrics) == (
        before.data.tags,
        before.data.params,
        before.data.metrics,
    )
    assert after.info.status == "FINISHED"
    store.write("pets/0", EXPIRED)  # told twice, as after a crash
    assert run_of(store).data.tags[REMOVED] == tag


@pytest.mark.parametrize(
    "tags",
    [
        {KEEP: "yes"},
        {KEEP: ""},
        {STUDY_ID: "of another generation"},
        *({"fttune.kind": kind} for kind in ("study", "train", "final")),
    ],
)
def test_no_other_run_and_no_pinned_one_loses_its_checkpoint(
    store: MlflowStore, workspace: Workspace, tmp_path: Path, tags: dict[str, str]
) -> None:
    run = logged(store, tmp_path, **tags)
    store.write("pets/0", EXPIRED)
    assert len(list(checkpoint_of(workspace, run).iterdir())) == 2
    assert REMOVED not in run_of(store).data.tags


def test_a_run_of_a_confirmation_may_lose_its_checkpoint_as_well(
    store: MlflowStore, workspace: Workspace, tmp_path: Path
) -> None:
    run = logged(store, tmp_path, **{"fttune.kind": "confirm"})
    store.write("pets/0", EXPIRED)
    assert not checkpoint_of(workspace, run).exists()
    assert REMOVED in run_of(store).data.tags


def test_a_run_without_a_checkpoint_gets_no_tag(store: MlflowStore) -> None:
    store.write("pets/0", RunOpened("pets-0", "pets", tags={"fttune.kind": "trial", STUDY_ID: "abc"}))
    store.write("pets/0", RunClosed("failed"), EXPIRED)
    assert REMOVED not in run_of(store).data.tags
    store.write("pets/77", EXPIRED)  # never logged here


def test_what_was_downloaded_of_it_goes_too(store: MlflowStore, workspace: Workspace, tmp_path: Path) -> None:
    run = logged(store, tmp_path)
    downloaded = workspace.cache / "checkpoints" / run.info.run_id
    downloaded.mkdir(parents=True)
    store.write("pets/0", EXPIRED)
    assert not downloaded.exists()


@pytest.mark.parametrize("place", ["checkpoint", "artifacts", "run"])
def test_a_link_in_the_path_is_not_followed(
    store: MlflowStore, workspace: Workspace, tmp_path: Path, place: str
) -> None:
    checkpoint = checkpoint_of(workspace, logged(store, tmp_path))
    moved = {"checkpoint": checkpoint, "artifacts": checkpoint.parent, "run": checkpoint.parent.parent}[place]
    elsewhere = tmp_path / "elsewhere"
    moved.rename(elsewhere)
    moved.symlink_to(elsewhere)
    store.write("pets/0", EXPIRED)
    assert len([*elsewhere.rglob("best.*")]) == 2
    assert run_of(store).data.tags[REMOVED].startswith(f"nothing: {moved} is a symbolic link, which is not followed (")


def test_a_link_inside_the_checkpoint_goes_and_its_target_stays(
    store: MlflowStore, workspace: Workspace, tmp_path: Path
) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.tex").write_text("years")
    checkpoint = checkpoint_of(workspace, logged(store, tmp_path))
    (checkpoint / "folder").symlink_to(tmp_path / "precious")
    (checkpoint / "file").symlink_to(tmp_path / "precious" / "thesis.tex")
    store.write("pets/0", EXPIRED)
    assert not checkpoint.exists()
    assert (tmp_path / "precious" / "thesis.tex").read_text() == "years"


def test_a_folder_that_is_not_the_runs_own_stays(store: MlflowStore, workspace: Workspace, tmp_path: Path) -> None:
    """A tracking store is somebody's database: what it says of a place is not believed."""
    victim = checkpoint_of(workspace, logged(store, tmp_path, "pets/1"))
    run = logged(store, tmp_path)
    with sqlite3.connect(workspace.mlruns / "mlflow.db") as database:
        database.execute(
            "UPDATE runs SET artifact_uri = ? WHERE run_uuid = ?", (victim.parent.as_uri(), run.info.run_id)
        )
    store.write("pets/0", EXPIRED)
    assert len(list(victim.iterdir())) == 2
    assert run_of(store).data.tags[REMOVED].startswith(f"nothing: {victim.parent} is not this run's own folder (")


def test_a_folder_that_cannot_be_deleted_is_told(
    store: MlflowStore, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = checkpoint_of(workspace, logged(store, tmp_path))

    def refused(folder: Path, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr("shutil.rmtree", refused)  # the tests may run as root, whom no mode keeps out
    store.write("pets/0", EXPIRED)
    said = f"nothing, or not all: Permission denied: {checkpoint} ("
    assert run_of(store).data.tags[REMOVED].startswith(said)


def test_pins_are_set_with_plain_mlflow(store: MlflowStore, workspace: Workspace, tmp_path: Path) -> None:
    run = logged(store, tmp_path)
    MlflowClient(workspace.mlflow_uri).set_tag(run.info.run_id, "fttune.keep", "for the paper")
    store.write("pets/0", EXPIRED)
    assert checkpoint_of(workspace, run).is_dir()


def _serve(port: int, folder: str) -> None:
    """Serve a store and its artifacts: MLflow's own server, in a process of its own that has imported it."""
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    from mlflow import server

    os.environ[server.BACKEND_STORE_URI_ENV_VAR] = f"sqlite:///{folder}/mlflow.db"
    os.environ[server.ARTIFACT_ROOT_ENV_VAR] = "mlflow-artifacts:/"
    os.environ[server.ARTIFACTS_DESTINATION_ENV_VAR] = f"{folder}/served"
    os.environ[server.SERVE_ARTIFACTS_ENV_VAR] = "true"
    import uvicorn

    uvicorn.run("mlflow.server.fastapi_app:app", host="127.0.0.1", port=port, log_level="error")


@pytest.fixture
def served(tmp_path: Path, empty_stores: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a tracking server that serves artifacts from `tmp_path / "server" / "served"`."""
    folder = tmp_path / "server"
    folder.mkdir()
    shutil.copy(empty_stores / "mlflow.db", folder / "mlflow.db")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = processes.CONTEXT.Process(target=_serve, args=(port, str(folder)))
    process.start()
    try:
        end = time.monotonic() + 120
        while time.monotonic() < end:
            assert process.is_alive(), "the server has ended"
            with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.join(30)


def test_a_servers_artifacts_are_deleted_through_it_with_what_was_downloaded(
    served: str, workspace: Workspace, tmp_path: Path
) -> None:
    store = MlflowStore(served, artifacts=workspace.artifacts, locks=workspace.locks)
    run = logged(store, tmp_path)
    own = next((tmp_path / "server" / "served").rglob(f"{run.info.run_id}/artifacts"))
    other = logged(store, tmp_path, "pets/1")
    downloaded = store.file_of(run, "checkpoint/best.json")
    assert downloaded is not None
    assert downloaded.is_relative_to(workspace.cache)
    store.write("pets/0", EXPIRED)
    assert sorted(file.name for file in own.rglob("*") if file.is_file()) == ["curve.csv"]
    assert not downloaded.exists()
    assert store.file_of(run_of(store), "checkpoint/best.json") is None
    assert store.file_of(other, "checkpoint/best.json") is not None
    tag = run_of(store).data.tags[REMOVED]
    assert tag.startswith("checkpoint/best.json, checkpoint/best.safetensors, 10 bytes (20")
    store.write("pets/0", EXPIRED)
    assert run_of(store).data.tags[REMOVED] == tag
