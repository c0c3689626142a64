"""MLflow's own UI on what a study stored: its comparison page shows the runs with what was searched."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

import fttune
from fttune.app.search import comparison_path
from fttune.config.workspace import Workspace
from tests.chromium import browser, chromium
from tests.recipes import tiny_study

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(chromium() is None, reason="no Chromium is installed (Debian: apt-get install chromium)"),
]
SEARCHED = ("optimizer.lr", "optimizer.momentum", "freeze.unfrozen_stages")
START_SECONDS = 180


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The address of `fttune ui` on a study's stores, and the path of the study's comparison page."""
    root = tmp_path_factory.mktemp("ui")
    study = tiny_study(
        root,
        space={
            "optimizer.lr": {"type": "float", "low": 1e-3, "high": 0.1, "log": True},
            "optimizer.momentum": {"type": "float", "low": 0.0, "high": 0.9},
            "freeze.unfrozen_stages": {"type": "int", "low": 0, "high": 4},
        },
    )
    stored = fttune.search(study, workspace=Workspace.at(root))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", "from fttune.cli import main; main()", "ui", "--port", str(port)]
    process = subprocess.Popen(command, cwd=root, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        _wait_for(f"http://127.0.0.1:{port}/health", process)
        path = comparison_path(stored)
        assert path is not None
        yield f"http://127.0.0.1:{port}", path
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)  # the server and its workers, which are a group of their own
        process.wait(30)


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        assert process.poll() is None, "the server has ended"
        with suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return
        time.sleep(0.2)
    pytest.fail(f"{url} did not answer within {START_SECONDS} s")


def test_mlflows_comparison_page_shows_the_runs_with_what_was_searched(server: tuple[str, str], tmp_path: Path) -> None:
    address, path = server
    with browser(tmp_path / "profile") as page:
        page.open(address + path, width=1600, height=2400)
        page.wait_for("/Comparing 4 Runs/i.test(document.body.innerText)")
        for name in (*SEARCHED, *(f"trial-{number:04d}" for number in range(4))):
            page.wait_for(f"document.body.innerText.includes({name!r})")
        away = [url for url in page.requests if not url.startswith((address, "data:", "blob:"))]
        assert away == []
