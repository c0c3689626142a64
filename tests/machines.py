"""Machines for tests of clusters: network namespaces of this one, which reach each other and nothing else."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path


@cache
def missing() -> str | None:
    """Return why there can be no machines here, None when there can."""
    try:
        done = subprocess.run(["unshare", "-n", "ip", "link", "set", "lo", "up"], capture_output=True, timeout=20)
    except OSError as error:
        return f"network namespaces need unshare and ip ({error})"
    return None if done.returncode == 0 else f"no network namespaces here: {done.stderr.decode().strip()}"


@dataclass
class Machine:
    """A network namespace, which lasts until it is closed even when nothing runs in it; its loopback is up."""

    address: str = "127.0.0.1"
    _holder: subprocess.Popen[bytes] = field(init=False)
    _started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        outside = Path("/proc/self/ns/net").readlink()
        self._holder = subprocess.Popen(["unshare", "-n", "sleep", "3600"])
        end = time.monotonic() + 20
        while self._namespace.readlink() == outside:
            assert time.monotonic() < end, "no namespace was made"
            time.sleep(0.01)
        self.run("ip", "link", "set", "lo", "up")

    @property
    def pid(self) -> int:
        return self._holder.pid

    @property
    def _namespace(self) -> Path:
        return Path(f"/proc/{self.pid}/ns/net")

    def command(self, *words: str) -> list[str]:
        """Return the words that run others here."""
        return ["nsenter", f"--net={self._namespace}", *words]

    def run(self, *words: str) -> None:
        subprocess.run(self.command(*words), check=True, timeout=60)

    def start(self, *words: str, cwd: Path, log: Path, environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
        """Start a program here, what it says going into `log`."""
        with log.open("ab") as opened:
            process = subprocess.Popen(
                self.command(*words), cwd=cwd, stdout=opened, stderr=opened, env={**os.environ, **environment}
            )
        self._started.append(process)
        return process

    def processes(self, text: bytes = b"") -> Iterator[int]:
        """Yield the processes that run here with a text in their command line."""
        here = self._namespace.readlink()
        for place in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it has ended
                if (place / "ns/net").readlink() == here and text in (place / "cmdline").read_bytes():
                    yield int(place.name)

    def kill(self) -> None:
        """Kill all that runs here, at once; the namespace stays."""
        for _ in range(2):  # what was started meanwhile too
            for pid in [pid for pid in self.processes() if pid != self.pid]:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def close(self) -> None:
        self.kill()
        self._holder.kill()
        for process in (*self._started, self._holder):
            process.wait()


def two() -> tuple[Machine, Machine]:
    """Return two machines that are joined by a cable, `cable` in both."""
    first, second = Machine("10.77.0.1"), Machine("10.77.0.2")
    first.run("ip", "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", str(second.pid))
    for machine in (first, second):
        machine.run("ip", "address", "add", f"{machine.address}/24", "dev", "cable")
        machine.run("ip", "link", "set", "cable", "up")
    return first, second
