import pytest

from fttune.config.workspace import Workspace
from fttune.errors import BadInput


def test_everything_generated_lies_under_mlruns_of_the_root(tmp_path, monkeypatch):
    monkeypatch.delenv("FTTUNE_MLRUNS", raising=False)
    workspace = Workspace.at(tmp_path)
    assert workspace.root == tmp_path.resolve()
    assert workspace.mlruns == workspace.root / "mlruns"
    for place in (workspace.cache, workspace.artifacts, workspace.locks):
        assert place.parent == workspace.mlruns
    assert workspace.arrays == workspace.mlruns / "cache" / "arrays"
    assert workspace.mlflow_uri == f"sqlite:///{workspace.mlruns}/mlflow.db"
    assert workspace.optuna_uri == f"sqlite:///{workspace.mlruns}/optuna.db"


def test_the_argument_comes_before_the_environment_and_that_before_the_default(tmp_path, monkeypatch):
    monkeypatch.setenv("FTTUNE_MLRUNS", "elsewhere")
    assert Workspace.at(tmp_path).mlruns == tmp_path.resolve() / "elsewhere"
    assert Workspace.at(tmp_path, tmp_path / "given").mlruns == tmp_path.resolve() / "given"
    monkeypatch.setenv("FTTUNE_MLRUNS", "")
    assert Workspace.at(tmp_path).mlruns == tmp_path.resolve() / "mlruns"


def test_the_root_is_the_current_directory_by_default(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Workspace.at().root == tmp_path.resolve()


def test_the_cache_is_as_large_as_the_argument_says_or_else_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv("FTTUNE_CACHE_GB", raising=False)
    assert Workspace.at(tmp_path).cache_bytes is None
    monkeypatch.setenv("FTTUNE_CACHE_GB", "1.5")
    assert Workspace.at(tmp_path).cache_bytes == 1_500_000_000
    assert Workspace.at(tmp_path, cache_gb=0).cache_bytes == 0
    monkeypatch.setenv("FTTUNE_CACHE_GB", "")
    assert Workspace.at(tmp_path).cache_bytes is None


@pytest.mark.parametrize("size", ["much", "-1", "nan", "inf"])
def test_a_cache_size_that_is_no_number_from_zero_is_refused(size, tmp_path, monkeypatch):
    monkeypatch.setenv("FTTUNE_CACHE_GB", size)
    with pytest.raises(BadInput, match=f"the size of the cache is '{size}' GB, but must be a number from 0"):
        Workspace.at(tmp_path)


def test_a_generated_folder_that_others_write_to_is_doubted(tmp_path, monkeypatch):
    workspace = Workspace.at(tmp_path, tmp_path / "mlruns")
    assert workspace.doubt() is None
    workspace.mlruns.mkdir()
    workspace.mlruns.chmod(0o775)
    assert workspace.doubt() is None
    workspace.mlruns.chmod(0o1777)
    assert workspace.doubt() == (
        f"every user may write to it, and so decide what fttune reads from it; chmod o-w {workspace.mlruns}"
    )
    workspace.mlruns.chmod(0o700)
    monkeypatch.setattr("os.geteuid", lambda: workspace.mlruns.stat().st_uid + 1)
    assert workspace.doubt().startswith("belongs to another user")
    assert "--mlruns" in workspace.doubt()
