import hashlib
import re
import shlex
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import optuna
import optuna.cli
import pytest
from sqlalchemy import event

from fttune.config.workspace import Workspace
from fttune.errors import CannotWrite, StoreError
from fttune.searching import open_storage, open_study
from fttune.searching.database import _schema
from fttune.searching.store import FORMAT
from tests.recipes import tiny_study

OLDER = "v3.0.0.d"


def made_old(workspace: Workspace) -> Path:
    """Make the empty store one of Optuna 3.1, which had no index of trials by study, with a study in it."""
    storage = optuna.storages.RDBStorage(workspace.optuna_uri)
    optuna.create_study(study_name="kept", storage=storage)
    storage.remove_session()
    storage.engine.dispose()
    file = workspace.mlruns / "optuna.db"
    with closing(sqlite3.connect(file)) as database, database:
        database.execute("drop index ix_trials_study_id")
        database.execute("update alembic_version set version_num = ?", (OLDER,))
    return file


def content(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_store_of_an_older_optuna_is_copied_refused_and_usable_after_the_command_that_is_named(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = made_old(workspace)
    before = content(file)
    for _ in range(2):
        with pytest.raises(StoreError, match=rf"written by an older Optuna.*{OLDER}.*{optuna.__version__}") as refused:
            open_storage(workspace.optuna_uri, locks=workspace.locks)
        assert content(file) == before
    (copy,) = (workspace.mlruns / "backups").iterdir()
    assert str(copy) in str(refused.value)
    assert re.fullmatch(rf"optuna-{re.escape(OLDER)}-\d{{4}}-\d\d-\d\d-\d{{6}}\.db", copy.name)
    with closing(sqlite3.connect(copy)) as database:
        assert database.execute("select version_num from alembic_version").fetchall() == [(OLDER,)]
        assert database.execute("select study_name from studies").fetchall() == [("kept",)]

    named = re.search(r"`(optuna [^`]*)`", str(refused.value))
    assert named is not None
    monkeypatch.setattr(sys, "argv", shlex.split(named[1]))
    assert optuna.cli.main() == 0
    assert optuna.get_all_study_names(open_storage(workspace.optuna_uri, locks=workspace.locks)) == ["kept"]


def test_a_store_of_a_newer_optuna_is_refused_and_left_alone(workspace: Workspace) -> None:
    file = workspace.mlruns / "optuna.db"
    with closing(sqlite3.connect(file)) as database, database:
        database.execute("update alembic_version set version_num = 'v9.0.0.a'")
    before = content(file)
    with pytest.raises(StoreError, match=r"newer Optuna.*v9\.0\.0\.a.*pip install --upgrade optuna"):
        open_storage(workspace.optuna_uri, locks=workspace.locks)
    assert content(file) == before
    assert not (workspace.mlruns / "backups").exists()


def test_optunas_own_first_revision_is_the_current_one() -> None:
    storage = optuna.storages.RDBStorage("sqlite://")
    assert _schema().revisions[0] == storage.get_head_version() == storage.get_current_version()
    assert sorted(_schema().revisions) == sorted(storage.get_all_versions())


def test_a_full_disk_is_one_error_whatever_optuna_makes_of_it(workspace: Workspace) -> None:
    storage = open_storage(workspace.optuna_uri, locks=workspace.locks)

    def without_room(connection: sqlite3.Connection, _record: object) -> None:
        pages = connection.execute("pragma page_count").fetchone()[0]
        connection.execute(f"pragma max_page_count = {pages}")  # SQLite's own way to have no more room

    event.listen(storage.engine, "connect", without_room)
    storage.engine.dispose()
    with pytest.raises(CannotWrite, match=r"optuna\.db: the disk is full .* run the same command again"):
        for number in range(1000):
            optuna.create_study(study_name=f"{number:0500}", storage=storage)
    storage.remove_session()
    with closing(sqlite3.connect(workspace.mlruns / "optuna.db")) as database:
        assert database.execute("pragma integrity_check").fetchall() == [("ok",)]


def test_an_error_that_is_no_disks_is_optunas_own(workspace: Workspace) -> None:
    storage = open_storage(workspace.optuna_uri, locks=workspace.locks)
    optuna.create_study(study_name="one", storage=storage)
    with pytest.raises(optuna.exceptions.DuplicatedStudyError):
        optuna.create_study(study_name="one", storage=storage)


def test_a_study_of_a_newer_fttune_is_refused(tmp_path: Path, workspace: Workspace) -> None:
    study = tiny_study(tmp_path)
    storage = open_storage(workspace.optuna_uri, locks=workspace.locks)
    stored = open_study(study, storage, {"a": 1})
    assert stored.user_attrs[FORMAT] == 1
    stored.set_user_attr(FORMAT, 2)
    with pytest.raises(StoreError, match=r"study tiny: format 2 is newer than this fttune knows \(1\); upgrade fttune"):
        open_study(study, storage, {"a": 1})
    assert open_study(study, storage, {"a": 1}, new=True).study_name == "tiny@2"
