from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from fttune.config.workspace import Workspace
from fttune.errors import StoreError
from fttune.tracking.store import MlflowStore
from fttune.training.events import STUDY_ID, Described, EpochEnded, FileSaved, Notice, RunClosed, RunOpened


def store_of(workspace: Workspace) -> MlflowStore:
    return MlflowStore(workspace.mlflow_uri, artifacts=workspace.artifacts, locks=workspace.locks)


@pytest.fixture
def store(workspace: Workspace) -> MlflowStore:
    return store_of(workspace)


@pytest.fixture
def plain(workspace: Workspace) -> MlflowClient:
    return MlflowClient(workspace.mlflow_uri)


def runs(plain: MlflowClient, name: str = "pets") -> dict[str, object]:
    experiment = plain.get_experiment_by_name(name)
    assert experiment is not None
    return {run.info.run_name: run for run in plain.search_runs([experiment.experiment_id])}


def test_children_hang_under_their_parent_with_params_metrics_and_tags(store: MlflowStore, plain: MlflowClient) -> None:
    store.write("pets", RunOpened("pets", "pets", tags={"fttune.kind": "study"}))
    opened = RunOpened("trial-0007", "pets", parent="pets", params={"optimizer.lr": 0.1, "data.classes": ("a", "b")})
    store.write("pets/7", opened)
    store.write("pets/7", Described({"fttune.device": "cpu"}))
    store.write("pets/7", EpochEnded(1, {"val/loss": 0.5}, unix_ms=1000))
    store.write("pets/7", EpochEnded(2, {"val/loss": 0.25}, unix_ms=2000))
    store.write("pets/7", Notice("for people only"))
    store.write("pets/7", RunClosed("complete", {"x": "y"}, {"value": 0.25}))
    parent, child = runs(plain)["pets"], runs(plain)["trial-0007"]
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert child.data.tags["fttune.run"] == "pets/7"
    assert child.data.tags["fttune.device"] == "cpu"
    assert child.data.params == {"optimizer.lr": "0.1", "data.classes": "a, b"}
    history = plain.get_metric_history(child.info.run_id, "val/loss")
    assert [(p.step, p.value, p.timestamp) for p in history] == [(1, 0.5, 1000), (2, 0.25, 2000)]
    assert child.data.metrics["value"] == 0.25
    assert (parent.info.status, child.info.status) == ("RUNNING", "FINISHED")


@pytest.mark.parametrize(
    ("state", "status"),
    [
        ("complete", "FINISHED"),
        ("pruned", "KILLED"),
        ("interrupted", "KILLED"),
        ("diverged", "FAILED"),
        ("failed", "FAILED"),
    ],
)
def test_a_state_gives_the_status_of_the_contract(
    state: str, status: str, store: MlflowStore, plain: MlflowClient
) -> None:
    store.write("pets", RunOpened("pets", "pets"))
    store.write("pets", RunClosed(state, {"fttune.cause": "why"}))
    run = runs(plain)["pets"]
    assert (run.info.status, run.data.tags["fttune.state"], run.data.tags["fttune.cause"]) == (status, state, "why")


def test_a_reopened_run_is_the_same_run_and_gets_no_point_twice(
    store: MlflowStore, plain: MlflowClient, workspace: Workspace
) -> None:
    epoch = {"train/loss": 1.0, "val/loss": 1.0}
    store.write("pets", RunOpened("pets", "pets", params={"a": 1}))
    store.write("pets", EpochEnded(1, epoch))
    store.write("pets", EpochEnded(2, epoch))
    store.write("pets", RunClosed("interrupted"))
    later = store_of(workspace)
    later.write("pets", RunOpened("pets", "pets", params={"a": 1}, reopen=True))
    assert runs(plain)["pets"].info.status == "RUNNING"
    for number in (1, 2, 3):
        later.write("pets", EpochEnded(number, epoch))
    experiment = plain.get_experiment_by_name("pets")
    found = plain.search_runs([experiment.experiment_id])
    assert len(found) == 1
    history = plain.get_metric_history(found[0].info.run_id, "val/loss")
    assert [point.step for point in history] == [1, 2, 3]


def test_a_run_to_reopen_that_was_never_stored_is_made(store: MlflowStore, plain: MlflowClient) -> None:
    store.write("pets", RunOpened("pets", "pets", reopen=True))
    assert "pets" in runs(plain)


def test_files_lie_under_the_generated_folder(store: MlflowStore, workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "best.json").write_text("{}")
    (tmp_path / "best.safetensors").write_bytes(b"x")
    store.write("pets", RunOpened("pets", "pets", tags={"k": "v"}))
    assert store.find_checkpoint("pets", {"k": "v"}) is None
    for name in ("best.json", "best.safetensors"):
        store.write("pets", FileSaved(tmp_path / name, "checkpoint"))
    store.write("pets", RunClosed("complete"))
    found = store.find_checkpoint("pets", {"k": "v"})
    assert found is not None
    assert found.read_bytes() == b"x"
    assert found.is_relative_to(workspace.artifacts / "pets")
    assert store.find_checkpoint("pets", {"k": "other"}) is None
    assert store.find_checkpoint("nothing", {}) is None


def test_more_params_than_one_request_takes_are_all_stored(store: MlflowStore, plain: MlflowClient) -> None:
    store.write("pets", RunOpened("pets", "pets", params={f"p{i}": i for i in range(230)}))
    assert len(runs(plain)["pets"].data.params) == 230


def test_a_moved_folder_is_refused_with_its_remedy(workspace: Workspace, store: MlflowStore, tmp_path: Path) -> None:
    store.write("pets", RunOpened("pets", "pets"))
    workspace.mlruns.rename(tmp_path / "elsewhere")
    moved = Workspace.at(tmp_path, tmp_path / "elsewhere")
    with pytest.raises(StoreError) as refused:
        store_of(moved)
    text = str(refused.value)
    assert f"MLflow stored its artifacts under {workspace.mlruns}" in text
    assert f"ln -s {moved.mlruns} {workspace.mlruns}" in text
    workspace.mlruns.symlink_to(moved.mlruns)
    store_of(moved)
    store_of(Workspace.at(tmp_path))
    workspace.mlruns.unlink()
    moved.mlruns.rename(workspace.mlruns)
    store_of(workspace)


def test_the_comparison_names_runs_and_experiment(store: MlflowStore, plain: MlflowClient) -> None:
    import json
    from urllib.parse import parse_qs, urlsplit

    assert store.comparison("pets", ["pets/0"], {}) is None
    for number in (0, 1):
        store.write(f"pets/{number}", RunOpened(f"trial-{number}", "pets"))
    path = store.comparison("pets", ["pets/1", "pets/0", "pets/9"], {})
    assert path is not None
    query = parse_qs(urlsplit(urlsplit(path).fragment).query)
    ids = {name: run.info.run_id for name, run in runs(plain).items()}
    assert json.loads(query["runs"][0]) == [ids["trial-1"], ids["trial-0"]]
    assert json.loads(query["experiments"][0]) == [plain.get_experiment_by_name("pets").experiment_id]


def test_a_run_cut_off_right_after_it_was_made_is_found_again(
    store: MlflowStore, plain: MlflowClient, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    opened = RunOpened("pets", "pets", params={"a": 1}, tags={STUDY_ID: "x", "fttune.kind": "study"}, reopen=True)
    with monkeypatch.context() as cut, pytest.raises(KeyboardInterrupt):
        cut.setattr(store.client, "log_batch", killed)
        store.write("pets", opened)
    later = store_of(workspace)
    later.write("pets", opened)
    later.write("pets", RunClosed("complete"))
    experiment = plain.get_experiment_by_name("pets")
    found = plain.search_runs([experiment.experiment_id])
    assert [(run.info.status, run.data.params) for run in found] == [("FINISHED", {"a": "1"})]


def test_events_written_together_store_what_events_written_one_by_one_do(
    store: MlflowStore, plain: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = [
        RunOpened("trial", "pets", params={f"p{i}": i for i in range(30)}, tags={"fttune.kind": "trial"}),
        Described({"fttune.device": "cpu"}),
        *(EpochEnded(e, {"val/loss": 1 / e, "lr": 0.1}, unix_ms=1000 * e) for e in (1, 2, 3)),
        RunClosed("pruned", {"fttune.cause": "why"}, {"best_epoch": 2.0}),
    ]
    for event in events:
        store.write("pets/0", event)
    requests: list[str] = []
    log_batch = store.client.log_batch
    monkeypatch.setattr(store.client, "log_batch", lambda run, *rest: (requests.append(run), log_batch(run, *rest)))
    store.write("pets/1", *events)

    experiment = plain.get_experiment_by_name("pets")
    found = {run.data.tags["fttune.run"]: run for run in plain.search_runs([experiment.experiment_id])}
    single, joined = found["pets/0"], found["pets/1"]
    assert requests == [joined.info.run_id]
    assert (joined.info.status, joined.info.run_name) == (single.info.status, single.info.run_name)
    assert joined.data.params == single.data.params
    assert joined.data.metrics == single.data.metrics
    assert joined.data.tags == {**single.data.tags, "fttune.run": "pets/1"}
    curves = [plain.get_metric_history(run.info.run_id, "val/loss") for run in (single, joined)]
    assert [[(p.step, p.value, p.timestamp) for p in curve] for curve in curves] == [
        [(e, 1 / e, 1000 * e) for e in (1, 2, 3)]
    ] * 2


def test_a_run_that_was_cut_off_is_closed_by_what_is_written_together_later(
    store: MlflowStore, plain: MlflowClient, workspace: Workspace
) -> None:
    opened = RunOpened("pets", "pets", tags={"fttune.kind": "study"}, reopen=True)
    store.write(
        "pets", opened, EpochEnded(1, {"train/loss": 1.0}), RunClosed("interrupted", {"fttune.cause": "Ctrl-C"})
    )
    epochs = [EpochEnded(e, {"train/loss": 1.0}) for e in (1, 2)]
    store_of(workspace).write("pets", opened, Described({"fttune.device": "cpu"}), *epochs, RunClosed("complete"))
    run = runs(plain)["pets"]
    assert (run.info.status, run.data.tags["fttune.state"], run.data.tags["fttune.device"]) == (
        "FINISHED",
        "complete",
        "cpu",
    )
    assert "fttune.cause" not in run.data.tags
    assert [p.step for p in plain.get_metric_history(run.info.run_id, "train/loss")] == [1, 2]


def test_more_points_than_one_request_takes_are_all_stored(store: MlflowStore, plain: MlflowClient) -> None:
    epochs = [EpochEnded(e, {f"m{i}": float(e) for i in range(30)}) for e in range(1, 101)]
    store.write("pets", RunOpened("pets", "pets"), *epochs, RunClosed("complete"))
    assert runs(plain)["pets"].data.metrics == {f"m{i}": 100.0 for i in range(30)}


@pytest.mark.parametrize("links", [True, False])
def test_a_saved_file_is_an_artifact_that_outlives_its_source(
    links: bool, store: MlflowStore, plain: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError("this file system has no links")

    if not links:
        monkeypatch.setattr(Path, "hardlink_to", refused)
    source = tmp_path / "waiting" / "best.safetensors"
    source.parent.mkdir()
    source.write_bytes(b"old")
    store.write("pets", RunOpened("pets", "pets"), FileSaved(source, "checkpoint"))
    source.unlink()
    source.write_bytes(b"weights")
    store.write("pets", FileSaved(source, "checkpoint"), RunClosed("complete"))
    assert source.stat().st_nlink == (2 if links else 1)
    source.unlink()
    run = runs(plain)["pets"].info.run_id
    assert [(f.path, f.file_size) for f in plain.list_artifacts(run, "checkpoint")] == [
        ("checkpoint/best.safetensors", 7)
    ]
    assert Path(plain.download_artifacts(run, "checkpoint/best.safetensors", str(tmp_path))).read_bytes() == b"weights"
