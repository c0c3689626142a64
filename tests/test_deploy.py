"""The compose file: what it starts is what fttune speaks to, and MLflow takes the very command of it."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import mlflow
import pytest
import yaml

import fttune
from fttune.config.workspace import Workspace
from fttune.postgres import is_postgres
from tests import postgres
from tests.faults.stand_in import free_port
from tests.recipes import write_study
from tests.stored import runs_of

ROOT = Path(__file__).parents[1]
FILE = ROOT / "deploy" / "compose.yaml"
SECONDS = 120


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load(FILE.read_text(encoding="utf-8"))


def server_command(compose: dict[str, Any]) -> list[str]:
    """Return the words of the `mlflow server` command, as the container's shell would split them."""
    (script,) = compose["services"]["mlflow"]["command"]
    script = script.replace("${ADDRESS:-127.0.0.1}", "127.0.0.1")
    return shlex.split(script.replace("$$", "$").strip().splitlines()[-1].removeprefix("exec "))


def option(command: list[str], name: str) -> str:
    return command[command.index(name) + 1]


def test_what_the_file_names_is_in_it(compose: dict[str, Any]) -> None:
    used = [entry.partition(":")[0] for service in compose["services"].values() for entry in service["volumes"]]
    assert sorted(used) == sorted(compose["volumes"])
    for service in compose["services"].values():
        assert service["secrets"] == list(compose["secrets"])
        assert {"test", "interval", "retries"} <= service["healthcheck"].keys()
        assert all(port.startswith("${ADDRESS:-127.0.0.1}:") for port in service["ports"]), (
            "nothing is open to the network"
        )
    assert compose["services"]["mlflow"]["depends_on"]["postgres"]["condition"] == "service_healthy"
    sources = [one["source"] for one in compose["services"]["postgres"]["configs"]]
    assert sources == list(compose["configs"])


def test_no_password_stands_in_the_file(compose: dict[str, Any]) -> None:
    assert not re.search(r"://[^/@\s]*:[^/@\s]*@", FILE.read_text(encoding="utf-8"))
    environment = [*compose["services"]["postgres"]["environment"], *compose["services"]["mlflow"]["environment"]]
    assert [name for name in environment if "PASSWORD" in name] == ["POSTGRES_PASSWORD_FILE"]


def test_the_server_is_the_mlflow_that_fttune_is_tested_with(compose: dict[str, Any]) -> None:
    image = compose["services"]["mlflow"]["build"]["dockerfile_inline"]
    assert f'"mlflow=={mlflow.__version__}"' in image
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert all(f'"{requirement}"' in image for requirement in extras["postgres"])


def test_each_library_has_a_database_of_its_own(compose: dict[str, Any]) -> None:
    studies = compose["services"]["postgres"]["environment"]["POSTGRES_DB"]
    store = option(server_command(compose), "--backend-store-uri")
    runs = store.rpartition("/")[2]
    assert is_postgres(store)
    assert runs != studies
    assert compose["configs"]["second_database"]["content"] == f"CREATE DATABASE {runs};"
    assert f"/{studies}  " in FILE.read_text(encoding="utf-8"), "what the comment tells to put into a study"


@pytest.mark.slow
@pytest.mark.postgres
def test_its_mlflow_command_serves_a_search_whose_files_go_through_it(
    postgres_server: postgres.Server, database: str, compose: dict[str, Any], workspace: Workspace, tmp_path: Path
) -> None:
    port = free_port()
    command = server_command(compose)
    places = {
        option(command, "--backend-store-uri"): postgres_server.new_database().replace(f":{postgres.PASSWORD}", ""),
        option(command, "--artifacts-destination"): str(tmp_path / "artifacts"),
        "0.0.0.0": "127.0.0.1",
        "5000": str(port),
        option(command, "--allowed-hosts"): f"127.0.0.1:{port}",
    }
    words = [sys.executable, "-m", *(places.get(word, word) for word in command)]
    environment = {**os.environ, "PGPASSWORD": postgres.PASSWORD, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(words, cwd=tmp_path, env=environment, stdout=log, stderr=log, start_new_session=True)
    uri = f"http://127.0.0.1:{port}"
    try:
        wait_until_healthy(uri, server, tmp_path / "log")
        study = fttune.load_study(write_study(tmp_path, storage=database, tracking={"uri": uri}, budget__n_trials=2))
        stored = fttune.search(study, workspace=workspace)
        runs = runs_of(uri)
        assert [trial.state.name for trial in stored.trials] == ["COMPLETE"] * 2
        assert sorted(runs["status"]) == ["FINISHED"] * 3
        assert set(runs["artifact_uri"].str.partition(":")[0]) == {"mlflow-artifacts"}
        assert len(list((tmp_path / "artifacts").rglob("checkpoint/best.safetensors"))) == 2
        assert not list(workspace.artifacts.rglob("best.safetensors"))
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


def wait_until_healthy(uri: str, server: "subprocess.Popen[bytes]", log: Path) -> None:
    end = time.monotonic() + SECONDS
    while True:
        try:
            with urlopen(f"{uri}/health", timeout=3) as answer:
                assert answer.read() == b"OK"
                return
        except (URLError, OSError):
            assert server.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.5)
