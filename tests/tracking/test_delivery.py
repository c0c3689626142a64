"""What sessions left behind reaches MLflow once, whoever delivers it, and whatever was delivered before."""

import os
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from fttune.app.session import target_of
from fttune.app.sync import sync
from fttune.config.workspace import Workspace
from fttune.tracking import Target, Uploader
from fttune.tracking.delivery import Deliveries, Delivery, Unreachable
from fttune.tracking.records import of_line
from fttune.tracking.spool import CAUSE, REFUSED, Spool, spool_files
from fttune.tracking.store import MlflowStore
from fttune.training.events import (
    STUDY_ID,
    CheckpointExpired,
    Described,
    Entry,
    EpochEnded,
    Event,
    FileSaved,
    ModelSaved,
    RunClosed,
    RunOpened,
)
from tests.stored import history_of, runs_of

EPOCHS = [EpochEnded(epoch, {"train/loss": 1 / epoch, "val/loss": 2 / epoch}, unix_ms=epoch) for epoch in (1, 2, 3)]


@pytest.fixture
def target(workspace: Workspace) -> Target:
    return target_of(workspace, workspace.mlflow_uri)


def leave(target: Target, *entries: tuple[str, Event]) -> Path:
    """Write what a session that died left."""
    spool = Spool.create(target)
    for run, event in entries:
        spool.append(Entry(run, event))
    spool.release()
    return spool.file


def steps(workspace: Workspace, run: Any, metric: str = "val/loss") -> list[int]:
    return [point.step for point in history_of(workspace.mlflow_uri, run["run_id"], metric)]


def test_the_next_session_delivers_what_a_dead_one_left_and_closes_its_runs(
    workspace: Workspace, target: Target
) -> None:
    waiting = target.folder("train/pets/1")
    waiting.mkdir(parents=True)
    (waiting / "last.json").write_text("{}")
    opened = RunOpened("pets", "pets", params={"optimizer.lr": 0.1}, unix_ms=1_700_000_000_000)
    leave(target, ("train/pets/1", opened), *(("train/pets/1", epoch) for epoch in EPOCHS[:2]))
    uploader = Uploader(target)
    assert uploader.ask(lambda store: store.find_run("pets", {})) is not None
    uploader.close()
    run = runs_of(workspace.mlflow_uri, "pets").iloc[0]
    assert (run["status"], run["tags.fttune.state"], run["tags.fttune.cause"]) == ("KILLED", "interrupted", CAUSE)
    assert (steps(workspace, run), run["params.optimizer.lr"]) == ([1, 2], "0.1")
    assert run["start_time"].timestamp() == 1_700_000_000
    assert spool_files(target.spools) == []
    assert waiting.is_dir(), "a later start continues an interrupted run from its files"


@pytest.mark.parametrize("known", range(7))
def test_what_a_dead_session_had_delivered_is_not_delivered_again(
    known: int, workspace: Workspace, target: Target
) -> None:
    """It died after a request, or all of them, and before it could note that."""
    events = [
        RunOpened("t", "pets", params={"a": 1}),
        *EPOCHS,
        Described({"x": "y"}),
        RunClosed("complete", {}, {"v": 1}),
    ]
    if known:
        MlflowStore(target.uri, artifacts=target.artifacts, locks=target.locks).write("s/0", *events[:known])
    leave(target, *(("s/0", event) for event in events))
    assert [(line.delivered, line.left, line.problem) for line in sync(workspace)] == [(6, 0, None)]
    frame = runs_of(workspace.mlflow_uri, "pets")
    assert (len(frame), frame["status"].tolist(), frame["tags.x"].tolist()) == (1, ["FINISHED"], ["y"])
    run = frame.iloc[0]
    assert [steps(workspace, run, name) for name in ("train/loss", "val/loss", "v")] == [[1, 2, 3], [1, 2, 3], [0]]


@pytest.mark.parametrize("delivered", [1, 2, 3])
def test_what_a_dead_machine_left_changes_nothing_of_a_run_that_another_one_ended(
    delivered: int, workspace: Workspace, target: Target
) -> None:
    """The dead one comes back when the other has gone on with its trial to the end."""
    log = [RunOpened("t", "pets", reopen=True, tags={STUDY_ID: "5" * 32}), *EPOCHS[:2]]
    begun = MlflowStore(target.uri, artifacts=target.artifacts, locks=target.locks)
    begun.write("s/0", *log[:delivered])
    file = leave(target, *(("s/0", event) for event in log))
    died = log[0].unix_ms + 1000
    os.utime(file, (died / 1000, died / 1000))
    other = begun.apart()
    opened = RunOpened("t", "pets", reopen=True, tags={STUDY_ID: "5" * 32})
    other.write("s/0", opened, *EPOCHS, RunClosed("complete", {}, {"v": 1}, unix_ms=died + 60_000))
    assert [line.left for line in sync(workspace)] == [0]
    (run,) = runs_of(workspace.mlflow_uri, "pets").to_dict("records")
    assert (run["status"], run["tags.fttune.state"], run.get("tags.fttune.cause")) == ("FINISHED", "complete", None)
    assert [steps(workspace, run, name) for name in ("train/loss", "val/loss", "v")] == [[1, 2, 3], [1, 2, 3], [0]]


def test_a_run_whose_opening_was_delivered_is_found_for_the_rest(workspace: Workspace, target: Target) -> None:
    spool = Spool.create(target)
    opened = [Entry("s", RunOpened("s", "pets")), Entry("s/0", RunOpened("t", "pets", "s"))]
    for entry in (*opened, Entry("s/0", EPOCHS[0])):
        spool.append(entry)
    delivery = Delivery(spool, target, keeps=lambda _: False, say=lambda _: None)
    delivery.go_on(MlflowStore(target.uri, artifacts=target.artifacts, locks=target.locks))
    for entry in (
        Entry("s/0", EPOCHS[1]),
        Entry("s/1", RunOpened("u", "pets", "s")),
        Entry("s", RunClosed("complete")),
    ):
        spool.append(entry)
    spool.release()
    sync(workspace)
    frame = runs_of(workspace.mlflow_uri, "pets").set_index("tags.mlflow.runName")
    assert frame["status"].to_dict() == {"s": "FINISHED", "t": "KILLED", "u": "KILLED"}
    assert frame.loc["u", "tags.mlflow.parentRunId"] == frame.loc["s", "run_id"]
    assert steps(workspace, frame.loc["t"]) == [1, 2]


def test_what_is_refused_is_kept_with_its_reason_and_the_rest_goes_on(workspace: Workspace, target: Target) -> None:
    said: list[str] = []
    events = [RunOpened("t", "pets", params={"a": 1}), EPOCHS[0], EpochEnded(7, {"what?": 1.0}), EPOCHS[1]]
    leave(target, *(("s/0", event) for event in (*events, RunClosed("complete"))))
    (line,) = sync(workspace, display=lambda entry: said.append(entry.event.text))
    assert (line.delivered, line.refused, line.left) == (4, 1, 0)
    run = runs_of(workspace.mlflow_uri, "pets").iloc[0]
    assert (run["status"], steps(workspace, run), run["params.a"]) == ("FINISHED", [1, 2], "1")
    (kept,) = (of_line(line) for line in (target.spools / REFUSED).read_bytes().splitlines(keepends=True))
    assert kept is not None
    assert (kept["run"], kept["kind"], kept["metrics"]) == ("s/0", "EpochEnded", {"what?": 1.0})
    assert len(said) == 1
    assert f"kept in {target.spools / REFUSED}" in said[0]
    assert sync(workspace) == []


def test_a_run_that_was_deleted_stops_nothing(workspace: Workspace, target: Target) -> None:
    spool = Spool.create(target)
    spool.append(Entry("s/0", RunOpened("t", "pets")))
    delivery = Delivery(spool, target, keeps=lambda _: False, say=lambda _: None)
    delivery.go_on(MlflowStore(target.uri, artifacts=target.artifacts, locks=target.locks))
    spool.append(Entry("s/0", EPOCHS[0]))
    spool.append(Entry("s/1", RunOpened("u", "pets")))
    spool.release()
    client = MlflowClient(workspace.mlflow_uri)
    client.delete_run(runs_of(workspace.mlflow_uri, "pets")["run_id"][0])
    (line,) = sync(workspace)
    assert (line.refused, line.left) == (2, 0)
    assert runs_of(workspace.mlflow_uri, "pets")["tags.mlflow.runName"].tolist() == ["u"]


def test_spools_go_to_their_own_mlflow_and_one_in_use_is_left_alone(workspace: Workspace, target: Target) -> None:
    elsewhere = target_of(workspace, "http://127.0.0.1:9")
    hidden = target_of(workspace, "http://anna:hunter2@127.0.0.1:9")
    for place in (target, elsewhere, hidden):
        leave(place, ("s", RunOpened("s", "pets")))
    owned = Spool.create(target)
    owned.append(Entry("s/7", RunOpened("t", "pets")))
    first, second, third, fourth = sync(workspace)
    assert (first.left, first.problem, first.delivered) == (0, None, 2)
    assert second.left == 2
    assert second.problem == "[Errno 111] Connection refused"
    assert third.problem is not None
    assert third.problem.startswith(
        "its password is not stored: set MLFLOW_TRACKING_URI to http://anna:***@127.0.0.1:9"
    )
    assert fourth.problem == "the command that writes it is at work, and delivers it"
    assert len(runs_of(workspace.mlflow_uri, "pets")) == 1
    owned.release()


def test_files_of_a_run_that_another_spool_knows_stay(workspace: Workspace, target: Target) -> None:
    for number in (0, 1):
        file = target.folder(f"s/{number}") / "best.json"
        file.parent.mkdir(parents=True)
        file.write_text("{}")
        saved = FileSaved(file, "checkpoint")
        leave(target, *((f"s/{number}", e) for e in (RunOpened("t", "pets"), saved, RunClosed("complete"))))
    owned = Spool.create(target)
    owned.append(Entry("s/1", RunOpened("t", "pets", reopen=True)))
    sync(workspace)
    assert [folder.name for folder in workspace.runs.iterdir()] == ["s+1"]
    owned.release()


def test_all_names_of_an_expired_file_go_so_that_its_room_is_free(workspace: Workspace, target: Target) -> None:
    """A session that was killed between a run's end and the drop of its files left a second name of them."""
    waiting = target.folder("pets/0")
    waiting.mkdir(parents=True)
    (waiting / "best.safetensors").write_text("12345")
    opened = RunOpened("pets-0", "pets", tags={"fttune.kind": "trial", STUDY_ID: "abc"})
    events = (opened, FileSaved(waiting / "best.safetensors", "checkpoint"), RunClosed("complete"))
    MlflowStore(target.uri, artifacts=target.artifacts, locks=target.locks).write("pets/0", *events)
    leave(target, ("pets/0", CheckpointExpired("pets", "abc", "retention.keep: best_3")))
    assert [line.delivered for line in sync(workspace)] == [1]
    assert [*workspace.mlruns.rglob("best.safetensors")] == []


def test_a_delivered_spool_that_the_disk_does_not_let_go_is_removed_by_the_next_start(
    workspace: Workspace, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = leave(target, ("s/0", RunOpened("t", "pets")), ("s/0", EPOCHS[0]), ("s/0", RunClosed("complete")))
    unlink = Path.unlink

    def fails(path: Path, missing_ok: bool = False) -> None:
        if path == file:
            raise OSError(5, "Input/output error", str(path))
        unlink(path, missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", fails)
        assert [line.delivered for line in sync(workspace)] == [3]
    assert file.exists()
    assert [line.delivered for line in sync(workspace)] == [0]
    assert not file.exists()
    run = runs_of(workspace.mlflow_uri, "pets").iloc[0]
    assert (run["status"], steps(workspace, run)) == ("FINISHED", [1])


def test_dead_spools_are_delivered_by_one_command_at_a_time(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fttune.tracking.delivery.LOCK_SECONDS", 0.05)
    leave(target, ("s", RunOpened("s", "pets")))
    first, second = (Deliveries(target, lambda _: None) for _ in range(2))
    with monkeypatch.context() as failing:
        failing.setattr("fttune.tracking.delivery.Delivery.go_on", lambda *_: (_ for _ in ()).throw(Unreachable))
        with pytest.raises(Unreachable):
            first.go_on()
    with pytest.raises(Unreachable) as refused:
        second.go_on()
    assert "another command delivers" in str(refused.value.__cause__)
    first.go_on()
    second.go_on()
    first.close()
    second.close()
    assert spool_files(target.spools) == []


def test_a_model_that_is_delivered_twice_is_one_model(
    workspace: Workspace, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fttune
    from tests.recipes import tiny_experiment

    fttune.train(tiny_experiment(workspace.root, training__epochs=1), workspace=workspace)
    (checkpoint,) = workspace.artifacts.rglob("best.safetensors")
    client, finalize = MlflowClient(workspace.mlflow_uri), MlflowClient.finalize_logged_model
    calls: list[str] = []

    def lost(*arguments: Any) -> None:
        """The first time nothing, the second time the answer is lost."""
        calls.append(str(arguments[1]))
        if len(calls) > 1:
            finalize(*arguments)
        if len(calls) < 3:
            raise ConnectionError("reset by peer")

    monkeypatch.setattr("fttune.tracking.models.MlflowClient.finalize_logged_model", lost)
    monkeypatch.setattr("fttune.app.sync.PAUSES_SECONDS", (0.0,) * 3)
    events = (RunOpened("s", "winners"), ModelSaved(checkpoint, 8), RunClosed("complete"))
    leave(target, *(("s", event) for event in events))
    assert [line.left for line in sync(workspace)] == [0]
    experiment = client.get_experiment_by_name("winners")
    assert [str(m.status) for m in client.search_logged_models([experiment.experiment_id])] == ["READY"]
    run = client.get_run(runs_of(workspace.mlflow_uri, "winners")["run_id"][0])
    assert [output.model_id for output in run.outputs.model_outputs] == [calls[0]]
    assert (run.info.status, len(calls)) == ("FINISHED", 2)
