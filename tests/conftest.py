"""Fixtures that several rooms share."""

import copy
import shutil
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

from fttune.config.workspace import Workspace

if TYPE_CHECKING:
    from tests import postgres

settings.register_profile("untimed", deadline=None)  # machines are shared: how long a case takes says nothing
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def empty_stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generated folder with the tables of both stores and nothing in them: making them takes seconds."""
    from tests.stored import empty_stores

    return empty_stores(tmp_path_factory.mktemp("stores"))


@pytest.fixture(scope="session")
def programs() -> Iterator[None]:
    """Trace each architecture once; a net like it gets that program with its own weights. It takes each search 1 s."""
    import torch

    traced: dict[Hashable, torch.export.ExportedProgram] = {}
    export = torch.export.export

    def exported(net: torch.nn.Module, args: tuple[Any, ...], *more: Any, **named: Any) -> torch.export.ExportedProgram:
        tensors = net.state_dict(keep_vars=True)
        shapes = tuple((name, tensor.shape, tensor.dtype) for name, tensor in tensors.items())
        key = (type(net), net.training, shapes, tuple(map(repr, (args, more, named))))
        if key not in traced:
            traced[key] = export(net, args, *more, **named)
        program = copy.copy(traced[key])
        program._state_dict = tensors
        return program

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.export, "export", exported)
        yield


@pytest.fixture(scope="session")
def postgres_server() -> "Iterator[postgres.Server]":
    """A PostgreSQL server; without one on this machine the tests that need it are skipped."""
    pytest.importorskip("psycopg", reason="needs fttune[postgres]")
    from tests import postgres

    if postgres.programs() is None:
        pytest.skip("needs PostgreSQL's programs (Debian: postgresql)")
    with postgres.server() as server:
        yield server


@pytest.fixture
def database(postgres_server: "postgres.Server") -> str:
    """The URL of a new database on the server."""
    return postgres_server.new_database()


@pytest.fixture
def workspace(tmp_path: Path, empty_stores: Path, programs: None, monkeypatch: pytest.MonkeyPatch) -> Workspace:  # noqa: ARG001
    """A workspace in a temporary folder, which is also the current one, with empty stores."""
    for variable in ("MLFLOW_TRACKING_URI", "FTTUNE_MLRUNS", "FTTUNE_CACHE_GB"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(tmp_path)
    workspace = Workspace.at(tmp_path)
    workspace.mlruns.mkdir()
    for name in ("optuna.db", "mlflow.db"):
        shutil.copy(empty_stores / name, workspace.mlruns / name)
    return workspace
