import multiprocessing
import os
from pathlib import Path

import optuna
import pytest

from fttune.config.workspace import Workspace
from fttune.errors import StoreError, StudyBusy, StudyChanged
from fttune.searching import current_name, open_storage, open_study, study_lock
from tests.recipes import tiny_study

FORK = multiprocessing.get_context("forkserver")


def hold_lock(locks: Path, held: "multiprocessing.synchronize.Event") -> None:
    with study_lock("pets", locks=locks):
        held.set()
        signal_free_wait()


def signal_free_wait() -> None:
    import time

    time.sleep(60)


def open_once(uri: str, locks: Path) -> None:
    open_storage(uri, locks=locks)


def test_a_second_search_of_a_study_is_refused_with_its_owner_named(tmp_path: Path) -> None:
    message = f"study pets is being searched by process {os.getpid()} on "
    with (
        study_lock("pets", locks=tmp_path),
        pytest.raises(StudyBusy, match=message),
        study_lock("pets", locks=tmp_path),
    ):
        pass
    with study_lock("pets", locks=tmp_path):
        pass


def test_a_lock_ends_with_its_owner(tmp_path: Path) -> None:
    held = FORK.Event()
    owner = FORK.Process(target=hold_lock, args=(tmp_path, held))
    owner.start()
    assert held.wait(60)
    with pytest.raises(StudyBusy), study_lock("pets", locks=tmp_path):
        pass
    owner.kill()
    owner.join()
    with study_lock("pets", locks=tmp_path):
        pass


def test_processes_that_open_a_fresh_store_at_once_all_succeed(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'new' / 'optuna.db'}"
    processes = [FORK.Process(target=open_once, args=(uri, tmp_path / "locks")) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0, 0]


def test_plain_optuna_reads_the_store(tmp_path: Path, workspace: Workspace) -> None:
    study = tiny_study(tmp_path)
    open_study(study, open_storage(workspace.optuna_uri, locks=workspace.locks), {"a": 1})
    plain = optuna.load_study(study_name="tiny", storage=workspace.optuna_uri)
    assert plain.direction is optuna.study.StudyDirection.MAXIMIZE


def test_a_changed_identity_is_refused_with_the_difference(tmp_path: Path, workspace: Workspace) -> None:
    study = tiny_study(tmp_path)
    storage = open_storage(workspace.optuna_uri, locks=workspace.locks)
    open_study(study, storage, {"batch": 8, "metric": "val/loss", "old": 1})
    with pytest.raises(StudyChanged) as refused:
        open_study(study, storage, {"batch": 4, "metric": "val/loss", "new": 2})
    text = str(refused.value)
    assert "  batch: 8 -> 4\n  new: (absent) -> 2\n  old: 1 -> (absent)\n" in text
    assert "--new" in text
    assert "metric" not in text


def test_a_new_generation_stands_beside_the_old_one_and_is_the_one_that_continues(
    tmp_path: Path, workspace: Workspace
) -> None:
    study = tiny_study(tmp_path)
    storage = open_storage(workspace.optuna_uri, locks=workspace.locks)
    assert open_study(study, storage, {"a": 1}, new=True).study_name == "tiny"
    assert open_study(study, storage, {"a": 2}, new=True).study_name == "tiny@2"
    assert open_study(study, storage, {"a": 2}).study_name == "tiny@2"
    assert open_study(study, storage, {"a": 3}, new=True).study_name == "tiny@3"
    assert current_name("tiny", storage) == "tiny@3"
    assert set(optuna.get_all_study_names(storage)) == {"tiny", "tiny@2", "tiny@3"}


def test_a_study_killed_before_its_identity_was_written_is_taken_up(tmp_path: Path, workspace: Workspace) -> None:
    study = tiny_study(tmp_path)
    storage = open_storage(workspace.optuna_uri, locks=workspace.locks)
    optuna.create_study(study_name="tiny", storage=storage, direction="maximize")
    open_study(study, storage, {"a": 1})
    with pytest.raises(StudyChanged):
        open_study(study, storage, {"a": 2})


def test_a_store_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "optuna.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(StoreError, match=r"optuna\.db"):
        open_storage(f"sqlite:///{tmp_path / 'optuna.db'}", locks=tmp_path / "locks")


@pytest.mark.parametrize(("uri", "message"), [("foo", "must be a database URL"), ("mysql://u:p@h/x", "needs a driver")])
def test_a_storage_that_is_no_usable_database_is_refused(uri: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=message):
        open_storage(uri, locks=tmp_path)
