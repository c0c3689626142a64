from fttune.config.workspace import Workspace


def test_everything_generated_lies_under_mlruns_of_the_root(tmp_path, monkeypatch):
    monkeypatch.delenv("FTTUNE_MLRUNS", raising=False)
    workspace = Workspace.at(tmp_path)
    assert workspace.root == tmp_path.resolve()
    assert workspace.mlruns == workspace.root / "mlruns"
    for place in (workspace.cache, workspace.artifacts, workspace.locks):
        assert place.parent == workspace.mlruns
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
