"""Champions on a real MLflow server, which keeps the artifacts too."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime

import mlflow
import pytest

from fttune.config.workspace import Workspace
from fttune.nightly.night import run_night
from fttune.nightly.standing import Folder
from fttune.report.night import StudyNight
from tests.nightly.digits import Inline, write_digits, write_night_study
from tests.stored import plain_mlflow

START_SECONDS = 180


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server with an empty store."""
    root = tmp_path_factory.mktemp("server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    stores = ["--backend-store-uri", f"sqlite:///{root}/mlflow.db", "--artifacts-destination", str(root / "artifacts")]
    process = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", *options, *stores],
        cwd=root,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"},
    )
    try:
        _wait_for(f"http://127.0.0.1:{port}", process)
        yield f"http://127.0.0.1:{port}"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)  # the server and its workers, which are a group of their own
        process.wait(30)


def _wait_for(url: str, process: "subprocess.Popen[bytes]") -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        assert process.poll() is None, "the server has ended"
        with suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=5):
            return
        time.sleep(0.2)
    pytest.fail(f"{url} did not answer within {START_SECONDS} s")


@pytest.mark.slow
def test_champions_and_alarms_are_those_of_the_server(workspace: Workspace, server: str) -> None:
    write_digits(workspace.root / "digits", each=60)

    def night(day: int, trials: int) -> StudyNight:
        write_night_study(workspace.root, tracking={"uri": server}, nightly={"trials_per_night": trials})
        folder = Folder.of(workspace.root / "studies")
        now = datetime(2026, 12, day, 1)
        (found,) = run_night(folder, 8.0, Inline(workspace), workspace=workspace, clock=lambda: now).night.studies
        return found

    first = night(1, trials=1)
    assert first.champion is not None and first.champion.changed
    second = night(2, trials=3)
    assert second.champion is not None and second.champion.changed and second.champion.version == "2"
    (workspace.root / "digits" / "3").rename(workspace.root / "digits" / "9")
    assert night(3, trials=1).alarm is not None
    with plain_mlflow(server):
        assert mlflow.pyfunc.load_model("models:/digits@champion").metadata.signature is not None
