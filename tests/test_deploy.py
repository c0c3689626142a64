"""The files that start shared stores name what is there."""

import warnings
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]


def test_the_compose_file_starts_what_the_guide_promises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    with warnings.catch_warnings(action="ignore"):
        from mlflow.cli import server as command

    services = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())["services"]
    program, name, *options = services["mlflow"]["command"]
    known = {option for parameter in command.params for option in parameter.opts}
    assert (program, name) == ("mlflow", "server")
    assert {option.partition("=")[0] for option in options} <= known
    assert all(port.startswith("${ADDRESS:-127.0.0.1}:") for one in services.values() for port in one["ports"])
    assert "deploy/compose.yaml" in (ROOT / "docs" / "guide.md").read_text()
