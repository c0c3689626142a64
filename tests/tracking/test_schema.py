import hashlib
import re
import shlex
import sqlite3
from contextlib import closing
from pathlib import Path

import mlflow.db
import pytest
from alembic import command
from click.testing import CliRunner
from mlflow.store.db import utils
from mlflow.store.tracking.dbmodels.initial_models import Base

from fttune.config.workspace import Workspace
from fttune.errors import StoreError
from fttune.tracking.schema import _schema
from fttune.tracking.store import MlflowStore

OLDER = "acf3f17fdcc7"  # before MLflow 3: tables that it needs now are missing


def opened(workspace: Workspace) -> MlflowStore:
    return MlflowStore(workspace.mlflow_uri, artifacts=workspace.artifacts, locks=workspace.locks)


def made_old(workspace: Workspace) -> Path:
    """Make the store one of an older MLflow, by MLflow's own migrations."""
    file = workspace.mlruns / "mlflow.db"
    file.unlink()
    engine = utils.create_sqlalchemy_engine_with_retry(workspace.mlflow_uri)
    Base.metadata.create_all(engine)
    config = utils._get_alembic_config(workspace.mlflow_uri)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, OLDER)
    engine.dispose()
    return file


def content(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_store_of_an_older_mlflow_is_copied_refused_and_usable_after_the_command_that_is_named(
    workspace: Workspace,
) -> None:
    file = made_old(workspace)
    before = content(file)
    with pytest.raises(StoreError, match=rf"written by an older MLflow.*{OLDER}.*{mlflow.__version__}") as refused:
        opened(workspace)
    assert content(file) == before, "MLflow itself would have begun to migrate it"
    (copy,) = (workspace.mlruns / "backups").iterdir()
    assert str(copy) in str(refused.value)
    with closing(sqlite3.connect(copy)) as database:
        assert database.execute("select version_num from alembic_version").fetchall() == [(OLDER,)]

    named = re.search(r"`mlflow db ([^`]*)`", str(refused.value))
    assert named is not None
    assert CliRunner().invoke(mlflow.db.commands, shlex.split(named[1])).exit_code == 0
    assert opened(workspace).client.search_experiments() is not None


def test_a_store_of_a_newer_mlflow_is_refused_and_left_alone(workspace: Workspace) -> None:
    file = workspace.mlruns / "mlflow.db"
    with closing(sqlite3.connect(file)) as database, database:
        database.execute("update alembic_version set version_num = 'ffffffffffff'")
    before = content(file)
    with pytest.raises(StoreError, match=r"newer MLflow.*ffffffffffff.*pip install --upgrade mlflow"):
        opened(workspace)
    assert content(file) == before


def test_mlflows_own_head_is_the_current_revision() -> None:
    assert _schema().revisions[0] == utils._get_latest_schema_revision()


def test_a_store_that_could_not_be_made_whole_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = Workspace.at(tmp_path / "new")
    with monkeypatch.context() as broken:
        broken.setattr("mlflow.store.db.utils._upgrade_db", lambda _: exec("raise OSError(28, 'No space left')"))
        with pytest.raises(Exception, match="the disk is full"):
            opened(workspace)
    assert [file.name for file in workspace.mlruns.iterdir() if file.is_file()] == []
    assert opened(workspace).client.search_experiments()
