"""`fttune ui` started for real, once for all checks."""

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from fttune.app.ui import SAFE, server_command, server_environment
from fttune.config.workspace import Workspace
from fttune.tracking.store import MlflowStore
from fttune.training.events import FileSaved, RunClosed, RunOpened

START_SECONDS = 120
SEARCH = "/ajax-api/2.0/mlflow/experiments/search"
UNSAFE = {name: {"false": "true"}[value] for name, value in SAFE.items()}


@dataclass(frozen=True)
class Server:
    port: int
    pids: frozenset[int]
    root: Path
    run_id: str

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def ask(self, method: str, path: str, body: object = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and content of an answer; `Host` may be another one than the address."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            content = None if body is None else json.dumps(body)
            connection.request(method, path, content, {"Content-Type": "application/json", **headers})
            answer = connection.getresponse()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
        finally:
            connection.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, empty_stores: Path) -> Iterator[Server]:
    """`fttune ui` on a store with one run, in an environment that asks for the opposite of all that is safe."""
    root = tmp_path_factory.mktemp("ui")
    workspace = Workspace.at(root)
    workspace.mlruns.mkdir()
    shutil.copy(empty_stores / "mlflow.db", workspace.mlruns / "mlflow.db")
    run_id = _log_a_run(workspace)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", "from fttune.cli import main; main()", "ui", "--port", str(port)]
    environment = {**os.environ, **UNSAFE, "MLFLOW_SERVER_ALLOWED_HOSTS": "*", "MLFLOW_HOST": "0.0.0.0"}
    environment |= {"MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": "*", "FTTUNE_MLRUNS": str(workspace.mlruns)}
    process = subprocess.Popen(command, cwd=root, stderr=subprocess.DEVNULL, env=environment, start_new_session=True)
    try:
        started = Server(port, frozenset(), root, run_id)
        _wait_until_it_answers(started, process)
        yield Server(port, _group(process.pid), root, run_id)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)  # the server and its workers, which are a group of their own
        process.wait(60)


def _log_a_run(workspace: Workspace) -> str:
    store = MlflowStore(workspace.mlflow_uri, artifacts=workspace.artifacts, locks=workspace.locks)
    store.write("pets", RunOpened("pets", "pets"))
    (workspace.root / "best.json").write_text('{"epoch": 3}')
    store.write("pets", FileSaved(workspace.root / "best.json", "checkpoint"), RunClosed("complete"))
    run = store.find_run("pets", {"fttune.run": "pets"})
    assert run is not None
    return str(run.info.run_id)


def _wait_until_it_answers(server: Server, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        assert process.poll() is None, "the server has ended"
        with suppress(OSError, http.client.HTTPException):
            if server.ask("GET", "/health")[0] == 200:
                return
        time.sleep(0.2)
    pytest.fail(f"the server did not answer within {START_SECONDS} s")


def _group(leader: int) -> frozenset[int]:
    """Return the processes of a process group."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if os.getpgid(int(folder.name)) == leader:
                found.add(int(folder.name))
    return frozenset(found)


def test_a_request_by_its_own_name_works(server: Server) -> None:
    for host in (server.host, f"localhost:{server.port}"):
        status, headers, content = server.ask("POST", SEARCH, {"max_results": 10}, Host=host)
        assert status == 200
        assert "pets" in {one["name"] for one in json.loads(content)["experiments"]}
    assert headers["x-frame-options"] == "DENY"
    assert headers["x-content-type-options"] == "nosniff"
    status, _, page = server.ask("GET", "/")
    assert (status, b"<html" in page.lower()) == (200, True)
    status, _, content = server.ask("GET", f"/get-artifact?run_id={server.run_id}&path=checkpoint/best.json")
    assert (status, content) == (200, b'{"epoch": 3}')


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "10.0.0.7", "192.168.1.2:{port}", "evil.example:{port}"])
def test_a_request_by_another_name_is_refused(server: Server, host: str) -> None:
    foreign = host.format(port=server.port)
    for method, path in (("GET", "/"), ("POST", SEARCH), ("GET", f"/get-artifact?run_id={server.run_id}&path=x")):
        body = {"max_results": 10} if method == "POST" else None
        status, _, content = server.ask(method, path, body, Host=foreign)
        assert (status, b"pets" in content) == (403, False)


def test_a_page_of_another_site_changes_nothing_and_may_not_read(server: Server) -> None:
    status, headers, _ = server.ask(
        "POST", "/ajax-api/2.0/mlflow/experiments/create", {"name": "planted"}, Origin="https://evil.example"
    )
    assert status == 403
    assert "access-control-allow-origin" not in headers
    _, headers, _ = server.ask("GET", f"{SEARCH}?max_results=1", Origin="https://evil.example")
    assert "access-control-allow-origin" not in headers
    client = MlflowClient(Workspace.at(server.root).mlflow_uri)
    assert client.get_experiment_by_name("planted") is None


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads what listens from Linux's /proc")
def test_nothing_listens_but_on_the_loopback_address(server: Server) -> None:
    assert server.pids
    wanted = {f"socket:[{inode}]" for inode, _, _ in _listening()}
    own = set()
    for pid in server.pids:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                own |= {str(descriptor.readlink())} & wanted
    places = {(address, port) for inode, address, port in _listening() if f"socket:[{inode}]" in own}
    assert places == {("127.0.0.1", server.port)}


def _listening() -> list[tuple[str, str, int]]:
    """Return inode, address and port of every TCP socket that listens, of both versions of IP."""
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                address, _, port = fields[1].rpartition(":")
                dotted = ".".join(str(byte) for byte in bytes.fromhex(address)[::-1]) if table == "tcp" else address
                found.append((fields[9], dotted, int(port, 16)))
    return found


def test_the_server_takes_no_uploads_and_runs_no_jobs(server: Server) -> None:
    path = "/api/2.0/mlflow-artifacts/artifacts/planted.txt"
    assert server.ask("PUT", path, {"x": 1})[0] >= 400
    assert not (server.root / "mlartifacts").exists()
    commands = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in server.pids if Path(f"/proc/{pid}").exists()]
    assert not [command for command in commands if b"_job_runner" in command or b"huey" in command]


def test_the_environment_overrides_nothing_that_is_safe(tmp_path: Path) -> None:
    given = server_environment({**UNSAFE, "PATH": "/bin", "MLFLOW_DISABLE_TELEMETRY": "false"})
    assert {name: given[name] for name in SAFE} == SAFE
    assert (given["PATH"], given["MLFLOW_DISABLE_TELEMETRY"]) == ("/bin", "false")
    command = server_command(Workspace.at(tmp_path), 5001)
    assert command[command.index("--host") + 1] == "127.0.0.1"
