"""A study whose trials train in a Ray cluster stores what it stores without; processes and machines die meanwhile."""

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests import machines
from tests.app.test_workers import MAIN, searched, write
from tests.faults import oracle

pytest.importorskip("ray", reason="the extra fttune[ray] is not installed")
pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(machines.missing() is not None, reason=machines.missing() or ""),
]
FTTUNE = (sys.executable, "-c", "from fttune.cli import main; main()", "search", "studies/tiny.yaml", "--workers")
RAY = (sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus=2", "--disable-usage-stats")
PORT = 6399
LEASE_SECONDS = 30


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> oracle.Stored:
    """What the study of 24 trials stores without workers."""
    return searched(write(tmp_path_factory.mktemp("alone") / "study", "none"))


class Search:
    """A search of the study in a folder, on a machine."""

    def __init__(self, machine: machines.Machine, root: Path, workers: str, environment: dict[str, str]) -> None:
        self.err = root / f".err-{time.monotonic_ns()}"
        self.process = machine.start(*FTTUNE, workers, cwd=root, log=self.err, environment=environment)

    def wait_for(self, text: str) -> None:
        end = time.monotonic() + 180
        while text not in self.err.read_text():
            assert self.process.poll() is None, f"ended without saying {text!r}: {self.err.read_text()}"
            assert time.monotonic() < end, f"did not say {text!r}: {self.err.read_text()}"
            time.sleep(0.02)

    def wait(self, timeout_seconds: float = 300) -> int:
        with suppress(subprocess.TimeoutExpired):
            return self.process.wait(timeout_seconds)
        raise AssertionError(f"still running: {self.err.read_text()}")


def none_left(*places: machines.Machine) -> bool:
    end = time.monotonic() + LEASE_SECONDS
    while any(list(place.processes(MAIN)) for place in places) and time.monotonic() < end:
        time.sleep(0.1)
    return not any(list(place.processes(MAIN)) for place in places)


@pytest.fixture
def machine() -> Iterator[machines.Machine]:
    made = machines.Machine()
    yield made
    made.close()


@contextmanager
def joined(tmp_path: Path, *around: str) -> Iterator[tuple[machines.Machine, machines.Machine, dict[str, str]]]:
    """Two machines of two slots each, with Ray on them and a token that keeps others out.

    The words `around` run what they are followed by on the second one.
    """
    head, other = machines.two()
    environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    address = f"{head.address}:{PORT}"
    options = {"cwd": tmp_path, "log": tmp_path / "ray", "environment": environment}
    try:
        head.start(*RAY, "--head", f"--port={PORT}", f"--node-ip-address={head.address}", **options)
        other.start(*around, *RAY, f"--address={address}", f"--node-ip-address={other.address}", **options)
        end = time.monotonic() + 120
        while (tmp_path / "ray").read_text().count("Ray runtime started") < 2:
            assert time.monotonic() < end, (tmp_path / "ray").read_text()
            time.sleep(0.1)
        yield head, other, environment
    finally:
        other.close()
        head.close()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[machines.Machine, machines.Machine, dict[str, str]]]:
    with joined(tmp_path) as made:
        yield made


def lose(other: machines.Machine, head: machines.Machine, fault: str) -> None:
    """Lose one of two joined machines: killed, or with its cable cut."""
    if fault == "killed":
        other.kill()
    else:
        head.run("ip", "link", "set", "cable", "down")


def require_same(root: Path, alone: oracle.Stored) -> None:
    """Fail unless a folder holds the study of 24 trials as one process stores it."""
    stored = oracle.read(root / "mlruns")
    assert oracle.problems(stored, trials=24) == []
    assert oracle.differences(stored, alone) == []


@pytest.mark.slow
def test_trials_in_a_local_cluster_are_those_of_one_process_whoever_dies_amid(alone, machine, tmp_path) -> None:
    root = write(tmp_path / "study", "none")
    search = Search(machine, root, "ray", {})
    search.wait_for("trial-0001: trainable")
    for pid in list(machine.processes(MAIN)):  # one may still be preparing itself: its death costs no trial
        os.kill(pid, signal.SIGKILL)
    search.wait_for("was lost (killed by SIGKILL (out of memory, or kill -9)): it is tried again")
    assert search.wait() == 0, search.err.read_text()
    require_same(root, alone)
    assert none_left(machine)


@pytest.mark.slow
def test_ctrl_c_ends_a_local_cluster_in_order_and_the_same_command_goes_on_without_it(alone, machine, tmp_path) -> None:
    root = write(tmp_path / "study", "none")
    search = Search(machine, root, "ray", {})
    search.wait_for("trial-0003: trainable")
    search.process.send_signal(signal.SIGINT)
    assert search.wait() == 130, search.err.read_text()
    assert none_left(machine)
    assert {run.status for _, run in oracle.read(root / "mlruns").runs} <= {"FINISHED", "KILLED"}
    assert oracle.differences(searched(root), alone) == []


@pytest.mark.parametrize("fault", [pytest.param("killed", marks=pytest.mark.slow), "cut"])
def test_trials_of_a_lost_machine_finish_once_on_another(alone, cluster, tmp_path, fault) -> None:
    head, other, environment = cluster
    root = write(tmp_path / "study", "none")
    search = Search(head, root, f"{head.address}:{PORT}", environment)
    search.wait_for("trial-0002: trainable")
    lose(other, head, fault)
    assert search.wait() == 0, search.err.read_text()
    require_same(root, alone)
    assert none_left(other), "its lease has run out"


def test_a_killed_driver_leaves_no_worker_on_any_machine_and_the_same_command_goes_on(alone, cluster, tmp_path) -> None:
    head, other, environment = cluster
    root = write(tmp_path / "study", "none")
    search = Search(head, root, f"{head.address}:{PORT}", environment)
    search.wait_for("trial-0004: trainable")
    for pid in list(head.processes(b"fttune.cli")):
        os.kill(pid, signal.SIGKILL)
    assert none_left(head, other)
    again = Search(head, root, f"{head.address}:{PORT}", environment)
    assert again.wait() == 0, again.err.read_text()
    require_same(root, alone)


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["killed", "cut"])
def test_trials_of_a_lost_machine_with_a_folder_of_its_own_finish_once_through_a_url(alone, tmp_path, fault) -> None:
    root, own = write(tmp_path / "study", "none"), tmp_path / "own"
    for folder in (root / "mlruns", own):
        folder.mkdir(mode=0o700)
    around = ("unshare", "-m", "sh", "-c", f'mount --bind {own} {root / "mlruns"} && exec "$@"', "sh")
    with joined(tmp_path, *around) as (head, other, environment):
        address, url = f"{head.address}:{PORT}", tmp_path / "url"
        search = Search(head, root, f"{{type: ray, address: '{address}', shared: 'file://{url}'}}", environment)
        search.wait_for("trial-0004: trainable")
        lose(other, head, fault)
        assert search.wait() == 0, search.err.read_text()
        assert none_left(other), "its lease has run out"
    require_same(root, alone)
    assert list((own / "cache" / "arrays").rglob("*.json")), "it had a folder of its own"
    assert (url / "arrays").is_dir()
    assert not list(url.glob("*/files/*")), "nothing is on its way any more"
