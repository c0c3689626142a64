"""A real PostgreSQL on loopback, in a folder of its own: Debian's programs, started and stopped by the test itself."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import NullPool, create_engine, text

PASSWORD = "open-sesame-17"
NOBODY = 65534  # the server refuses to run as root


def programs() -> Path | None:
    """Return the folder of the newest `initdb` and `postgres` of this machine."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda file: int(file.parts[-3]))
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


@dataclass
class Server:
    """A PostgreSQL server; who connects needs the password."""

    programs: Path
    folder: Path
    port: int
    fsync: bool = False
    _process: "subprocess.Popen[bytes] | None" = field(default=None)

    def url(self, database: str = "postgres") -> str:
        """Return the URL of a database."""
        return f"postgresql://fttune:{PASSWORD}@127.0.0.1:{self.port}/{database}"

    def new_database(self, template: str = "template0") -> str:
        """Make a database; return its URL."""
        name = f"t{uuid.uuid4().hex}"
        run(self.url(), f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.url(name)

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": "",
            "fsync": self.fsync,
        }
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
        """Stop it at once, without a word to its clients."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(60)
            self._process = None


def run(url: str, statement: str, **values: Any) -> list[tuple[Any, ...]]:
    """Run a statement by itself; return its rows, if it has some."""
    engine = create_engine(url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with engine.connect() as connection:
        result = connection.execute(text(statement), values)
        return [tuple(row) for row in result] if result.returns_rows else []


@contextmanager
def server(*, fsync: bool = False) -> Iterator[Server]:
    """Make a server and start it; without `fsync` it is fast, and safe from all but a loss of power."""
    found = programs()
    assert found is not None, "asked before"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="postgres-", ignore_cleanup_errors=True) as folder:
        (password := Path(folder) / "password").write_text(PASSWORD)
        if os.geteuid() == 0:
            os.chown(folder, NOBODY, NOBODY)
            os.chown(password, NOBODY, NOBODY)
        how = ["--auth=scram-sha-256", f"--pwfile={password}", "--no-sync", "--encoding=UTF8"]
        command = [found / "initdb", "-D", Path(folder) / "data", "-U", "fttune", *how]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=folder, **_user())
        made = Server(found, Path(folder), port, fsync)
        made.start()
        try:
            yield made
        finally:
            made.stop()


def _user() -> dict[str, Any]:
    return {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
