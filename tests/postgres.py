"""A real PostgreSQL on loopback, in a folder of its own: Debian's programs, started and stopped by the test itself."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

NOBODY = 65534  # the server refuses to run as root


def programs() -> Path | None:
    """Return the folder of the newest `initdb` and `postgres` of this machine."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda file: int(file.parts[-3]))
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


@dataclass
class Server:
    """A PostgreSQL server; `url` names a database that is there."""

    programs: Path
    folder: Path
    port: int
    _process: "subprocess.Popen[bytes] | None" = field(default=None)

    @property
    def url(self) -> str:
        return f"postgresql://fttune:secret@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = {"listen_addresses": "127.0.0.1", "port": self.port, "unix_socket_directories": "", "fsync": "off"}
        command = [self.programs / "postgres", "-D", self.folder / "data"]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, *(f"--{name}={value}" for name, value in options.items())], stdout=log, stderr=log, **_user()
            )
        end = time.monotonic() + 60
        while subprocess.run([self.programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)]).returncode:
            assert time.monotonic() < end and self._process.poll() is None, (self.folder / "log").read_text()
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop it at once, as a machine that loses power does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(60)
            self._process = None
            time.sleep(0.2)  # its children see that it is gone
            (self.folder / "data" / "postmaster.pid").unlink(missing_ok=True)


@contextmanager
def server() -> Iterator[Server]:
    """Make a server and start it."""
    found = programs()
    assert found is not None, "asked before"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="postgres-", ignore_cleanup_errors=True) as folder:
        if os.geteuid() == 0:
            os.chown(folder, NOBODY, NOBODY)
        command = [
            found / "initdb",
            "-D",
            Path(folder) / "data",
            "-U",
            "fttune",
            "--auth=trust",
            "--no-sync",
            "-E",
            "UTF8",
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=folder, **_user())
        made = Server(found, Path(folder), port)
        made.start()
        try:
            yield made
        finally:
            made.stop()


def _user() -> dict[str, int]:
    return {"user": NOBODY, "group": NOBODY} if os.geteuid() == 0 else {}
