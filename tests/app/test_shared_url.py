"""A study whose workers share a URL and no folder stores what it stores in one process, whatever dies meanwhile.

Each worker is a process of this machine with a generated folder of its own, as if it ran on another one.
"""

import os
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import fttune
from fttune.app.parcels import received, sent
from fttune.app.process import Process
from fttune.app.states import States
from fttune.app.worker import CheckpointWanted, Emitted, Job, RemoteDesk
from fttune.app.workers import Driver
from fttune.config.workspace import Workspace
from fttune.errors import CannotWrite, Interrupted
from fttune.mirror import Mirror
from fttune.training.events import Entry, EpochEnded, FileSaved, Notice, RunClosed
from tests.faults import oracle
from tests.recipes import write_experiment, write_study

Display = Callable[[Entry], None]
SPACE = {
    "optimizer.lr": {"type": "float", "low": 1.0e-3, "high": 0.1, "log": True},
    "freeze.unfrozen_stages": {"type": "int", "low": 0, "high": 2},
}
TRIALS = 4
# A worker that keeps a state after each epoch, and takes a moment for it, so that it can be killed amid a trial.
SLOW = """
import time
from fttune.app import states
from fttune.training import resume
resume.EVERY_SECONDS = 0.0
saved = states.States.saved
states.States.saved = lambda self, folder: (saved(self, folder), time.sleep(0.1))
from fttune.app.worker import main
main()
"""


class Machines:
    """Stands in for a Ray cluster: each worker has `machine-<n>` for the generated folder."""

    count, threads = 2, torch.get_num_threads()

    def __init__(self, root: Path) -> None:
        self.root = root
        self.started: list[Process] = []

    @contextmanager
    def connected(self, *_: Any, **__: Any) -> Iterator["Machines"]:
        yield self

    def start(self, job: Job) -> Process:
        own = self.root / f"machine-{len(self.started)}"
        process = Process({"OMP_NUM_THREADS": str(self.threads)})
        process.connection.send(replace(job, workspace=replace(job.workspace, mlruns=own)))
        self.started.append(process)
        return process

    def kill(self, number: int) -> None:
        os.kill(self.started[number]._process.pid, signal.SIGKILL)


def workspace_at(root: Path, empty_stores: Path) -> Workspace:
    root.mkdir()
    write_experiment(root, training__epochs=5)
    workspace = Workspace.at(root, Path("mlruns"))
    workspace.mlruns.mkdir(mode=0o700)
    for name in ("optuna.db", "mlflow.db"):
        shutil.copy(empty_stores / name, workspace.mlruns / name)
    return workspace


def search(workspace: Workspace, display: Display | None = None, **fields: Any) -> oracle.Stored:
    file = write_study(workspace.root, space=SPACE, budget__n_trials=TRIALS, batch=2, **fields)
    fttune.search(fttune.load_study(file), workspace=workspace, display=display)
    return oracle.read(workspace.mlruns)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, empty_stores: Path, programs: None) -> oracle.Stored:  # noqa: ARG001
    """What the study stores in one process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        return search(workspace_at(tmp_path_factory.mktemp("alone") / "study", empty_stores))


@pytest.fixture
def apart(tmp_path: Path, empty_stores: Path, programs: None, monkeypatch: pytest.MonkeyPatch) -> Workspace:  # noqa: ARG001
    """The workspace of a search whose workers have other ones."""
    for variable in ("MLFLOW_TRACKING_URI", "FTTUNE_MLRUNS", "FTTUNE_CACHE_GB"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("fttune.app.process.MAIN", SLOW)
    return workspace_at(tmp_path / "study", empty_stores)


@pytest.fixture
def machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machines:
    made = Machines(tmp_path)
    monkeypatch.setattr("fttune.app.workers.connected", made.connected)
    return made


@pytest.fixture
def workers(tmp_path: Path) -> Mapping[str, Any]:
    return {"type": "ray", "shared": f"file://{tmp_path}/url"}


def when(epoch: int, of_run: str, do: Callable[[], None]) -> Display:
    """Return a display that does something once, when an epoch of a run has ended."""
    todo = [do]

    def display(entry: Entry) -> None:
        event = entry.event
        if isinstance(event, EpochEnded) and (entry.run, event.epoch) == (of_run, epoch) and todo:
            todo.pop()()

    return display


def names_below(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.usefixtures("machines")
def test_workers_with_folders_of_their_own_store_what_one_process_stores(alone, apart, workers, tmp_path) -> None:
    stored = search(apart, workers=workers)
    assert oracle.problems(stored, trials=TRIALS) == []
    assert oracle.differences(stored, alone) == []
    assert {place.name for place in (tmp_path / "url").iterdir()} == {"arrays"}, "what only this search needed is gone"
    for own in (tmp_path / "machine-0", tmp_path / "machine-1"):
        left = names_below(own)
        assert left
        assert all(name.startswith("cache/arrays/") for name in left), left
        assert own.stat().st_mode & 0o077 == 0
    images = {name for name in names_below(apart.arrays) if name.endswith((".npy", ".json"))}
    assert images <= names_below(tmp_path / "url" / "arrays")


def test_a_killed_worker_s_trial_goes_on_elsewhere_from_the_state_at_the_url(alone, apart, machines, workers) -> None:
    entries: list[Entry] = []
    one = {**workers, "count": 1}
    machines.count = 1
    kill = when(3, "tiny/1", lambda: machines.kill(0))
    stored = search(apart, lambda entry: (entries.append(entry), kill(entry)), workers=one)
    assert oracle.problems(stored, trials=TRIALS) == []
    assert oracle.differences(stored, alone) == []
    said = [entry.event.text for entry in entries if isinstance(entry.event, Notice)]
    assert any("killed by SIGKILL" in text for text in said), said
    assert any("goes on where it was cut off, after epoch" in text for text in said), said
    assert len(machines.started) == 2, "the second one has another folder"


@pytest.mark.slow
def test_a_search_that_was_stopped_goes_on_from_the_url_with_machines_that_are_new(
    alone, apart, machines, workers, tmp_path
) -> None:
    def stop() -> None:
        raise Interrupted(signal.SIGTERM)

    with pytest.raises(Interrupted):
        search(apart, when(2, "tiny/0", stop), workers=workers)
    assert any("/states/" in name for name in names_below(tmp_path / "url"))
    for number in range(len(machines.started)):
        shutil.rmtree(tmp_path / f"machine-{number}")
    entries: list[Entry] = []
    stored = search(apart, entries.append, workers=workers)
    said = [entry.event.text for entry in entries if isinstance(entry.event, Notice)]
    assert any("goes on where it was cut off, after epoch" in text for text in said), said
    assert oracle.problems(stored, trials=TRIALS) == []
    assert oracle.differences(stored, alone) == []


@pytest.mark.slow
@pytest.mark.usefixtures("machines")
def test_a_url_that_fails_ends_the_search_like_a_full_disk_and_the_same_command_goes_on(
    alone, apart, workers, tmp_path
) -> None:
    url, away = tmp_path / "url", tmp_path / "away"

    def fail() -> None:
        url.rename(away)
        url.write_text("no folder")

    with pytest.raises(CannotWrite, match="the same command again, which goes on from there"):
        search(apart, when(2, "tiny/1", fail), workers=workers)
    url.unlink()
    away.rename(url)
    stored = search(apart, workers=workers)
    assert oracle.problems(stored, trials=TRIALS) == []
    assert oracle.differences(stored, alone) == []


def test_states_at_a_url_are_those_of_trials_that_were_not_told(tmp_path) -> None:
    url = f"file://{tmp_path}/url"

    def of(name: str) -> States:
        return States(tmp_path / name, 4, Mirror(url))

    def keep(states: States, folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / "resume-1.safetensors").write_text(str(folder.relative_to(states.folder)))
        states.saved(folder)

    ours, driver, theirs = of("ours"), of("driver"), of("theirs")
    for number in (3, 4, 5):
        keep(ours, ours.of(number) / "fold-1")
    for first, number in ((1, 3), (4, 4)):
        keep(ours, ours.of_cohort(first, number) / "fold-0")
    theirs.fetch(5, first=4)
    assert names_below(tmp_path / "theirs") == {
        "5/fold-1/resume-1.safetensors",
        "blocks/1/4/fold-0/resume-1.safetensors",
    }
    driver.forget(3)
    assert {name.split("/")[1] for name in names_below(tmp_path / "url")} == {"4", "5", "blocks"}
    driver.forget(4)
    left = {"states/5/fold-1/resume-1.safetensors", "states/blocks/1/4/fold-0/resume-1.safetensors"}
    assert names_below(tmp_path / "url") == left
    Mirror(url).push(tmp_path / "ours" / "5" / "fold-1" / "resume-1.safetensors", "files/late")
    keep(ours, ours.of(2))
    of("next driver").drop(but={5})
    assert names_below(tmp_path / "url") == left
    of("next driver").drop()
    assert not (tmp_path / "url").exists()


def test_a_parcel_that_is_not_what_was_sent_is_refused(tmp_path) -> None:
    mirror = Mirror(f"file://{tmp_path}/url")
    file = tmp_path / "best.safetensors"
    file.write_text("weights")
    first, second = (sent(mirror, file, "fold-1/best.safetensors") for _ in range(2))
    assert first.name != second.name
    assert received(mirror, first, tmp_path / "there").read_text() == "weights"
    (tmp_path / "url" / second.name).write_text("weight")
    mirror.remove(first.name)
    for parcel in (first, second):
        with pytest.raises(CannotWrite, match="is not there as it was sent"), suppress(FileNotFoundError):
            received(mirror, parcel, tmp_path / "there")


def desk_of(root: Path, mirror: Mirror | None, **link: Any) -> RemoteDesk:
    said: Any = SimpleNamespace(**link)
    return RemoteDesk(said, Workspace.at(root, root / "mlruns"), mirror, root / "own")


def test_a_worker_keeps_no_file_of_a_run_that_has_ended_where_the_driver_has_another_folder(tmp_path) -> None:
    said: list[Emitted] = []
    for mirror in (Mirror(f"file://{tmp_path}/url"), None):
        desk = desk_of(tmp_path, mirror, say=said.append)
        file = desk.files_of("tiny/7") / "fold-1" / "best.safetensors"
        file.parent.mkdir(parents=True)
        file.write_text("weights")
        desk.emit("tiny/7", FileSaved(file, "checkpoint"))
        desk.emit("tiny/7", RunClosed("complete"))
        assert file.exists() == (mirror is None)
    parcels = [emitted.parcel for emitted in said]
    assert [parcel and parcel.place for parcel in parcels] == ["fold-1/best.safetensors", None, None, None]
    assert names_below(tmp_path / "url") == {parcels[0].name}


def test_a_checkpoint_that_workers_ask_for_is_sent_once_with_its_json(tmp_path) -> None:
    url, file = f"file://{tmp_path}/url", tmp_path / "best.safetensors"
    for own in (file, file.with_suffix(".json")):
        own.write_text(own.suffix)
    session: Any = SimpleNamespace(checkpoint=lambda experiment, _: file if experiment == "pets" else None)
    nobody: Any = None
    driver = Driver(nobody, session, nobody, Mirror(url))
    for name in ("one", "other"):
        desk = desk_of(tmp_path / name, Mirror(url), ask=lambda what: driver.answer([], what))
        found = desk.checkpoint("pets", {"fttune.kind": "train"})
        assert found is not None
        assert found.is_relative_to(tmp_path / name)
        assert [one.read_text() for one in (found, found.with_suffix(".json"))] == [".safetensors", ".json"]
        assert desk.checkpoint("cats", {}) is None
    assert len(names_below(tmp_path / "url")) == 2
    alone = Driver(nobody, session, nobody)
    assert alone.answer([], CheckpointWanted("pets", {})) == file
