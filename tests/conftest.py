"""Fixtures that several rooms share."""

import shutil
from pathlib import Path

import pytest

from fttune.config.workspace import Workspace


@pytest.fixture(scope="session")
def empty_stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generated folder with the tables of both stores and nothing in them: making them takes seconds."""
    from tests.stored import empty_stores

    return empty_stores(tmp_path_factory.mktemp("stores"))


@pytest.fixture
def workspace(tmp_path: Path, empty_stores: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A workspace in a temporary folder, which is also the current one, with empty stores."""
    for variable in ("MLFLOW_TRACKING_URI", "FTTUNE_MLRUNS", "FTTUNE_CACHE_GB"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(tmp_path)
    workspace = Workspace.at(tmp_path)
    workspace.mlruns.mkdir()
    for name in ("optuna.db", "mlflow.db"):
        shutil.copy(empty_stores / name, workspace.mlruns / name)
    return workspace
