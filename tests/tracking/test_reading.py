"""What is read back of a run is what was written, and adding files changes nothing else."""

from pathlib import Path

import pytest

from fttune.config.workspace import Workspace
from fttune.tracking import reading
from fttune.tracking.store import MlflowStore
from fttune.training.events import STUDY_ID, EpochEnded, FileSaved, RunClosed, RunOpened

TAGS = {STUDY_ID: "a" * 32}


@pytest.fixture
def store(workspace: Workspace) -> MlflowStore:
    opened = MlflowStore(workspace.mlflow_uri, artifacts=workspace.artifacts, locks=workspace.locks)
    opened.write("s", RunOpened("s", "tiny", tags={"fttune.kind": "study", **TAGS}))
    for number in range(2):
        points = [EpochEnded(epoch, {"val/loss": number + epoch / 10}) for epoch in (1, 2, 3)]
        opened.write(f"s/{number}", RunOpened(f"trial-{number}", "tiny", parent="s", tags=TAGS), *points)
    return opened


def test_curves_are_read_by_key_and_missing_runs_or_metrics_are_left_out(store: MlflowStore) -> None:
    read = reading.curves(store, "tiny", ["s/1", "s/7", "s"], TAGS, metric="val/loss")
    assert read == {"s/1": ((1, 1.1), (2, 1.2), (3, 1.3))}
    assert reading.curves(store, "tiny", ["s/1"], {STUDY_ID: "b" * 32}, metric="val/loss") == {}
    assert reading.curves(store, "none", ["s/1"], TAGS, metric="val/loss") == {}


def test_a_folder_of_artifacts_is_found_where_it_lies(store: MlflowStore, tmp_path: Path) -> None:
    run = store.find_run("tiny", {"fttune.kind": "study"})
    assert run is not None
    assert reading.artifacts(store, run, "confirm", into=tmp_path / "into") is None
    (tmp_path / "x.csv").write_text("1")
    store.write("s", FileSaved(tmp_path / "x.csv", "confirm"))
    folder = reading.artifacts(store, run, "confirm", into=tmp_path / "into")
    assert folder is not None
    assert (folder / "x.csv").read_text() == "1"


def test_files_are_attached_to_a_run_that_stays_as_it_is(store: MlflowStore, tmp_path: Path) -> None:
    store.write("s", RunClosed("interrupted"))
    before = store.find_run("tiny", {"fttune.kind": "study"})
    assert before is not None
    (tmp_path / "a.svg").write_text("<svg/>")
    reading.attach(store, before, {tmp_path / "a.svg": "report/figures"})
    after = store.find_run("tiny", {"fttune.kind": "study"})
    assert after is not None
    assert (after.info.status, after.data.tags) == ("KILLED", before.data.tags)
    assert [f.path for f in store.client.list_artifacts(after.info.run_id, "report/figures")] == [
        "report/figures/a.svg"
    ]
