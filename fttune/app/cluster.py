"""A search's trials in a Ray cluster: an actor for each worker keeps its process, and passes on what is said.

Ray finds a place, starts the actor there and says when it is lost; it repeats nothing. All that is read and written
lies in folders that the machines share, or goes through a URL (`worker.py`).

An actor whose search does not ask it for messages for LEASE_SECONDS ends with its process. A search that had no answer
for twice as long holds it for lost: its lease has run out by then, even where it lives on behind a cut network, so no
two attempts at a trial write at the same time.
"""

import logging
import os
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing import Pipe
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from fttune.app.process import Process
from fttune.config.workers import LOCAL, Cluster
from fttune.errors import BadInput, one_line
from fttune.files import write_text

LEASE_SECONDS = 15.0
POLL_SECONDS = 2.0
CALLS = 4  # at the same time: to send, to receive, to stop
TOKEN, MODE = "RAY_AUTH_TOKEN", "RAY_AUTH_MODE"


class Host:
    """The actor. Its methods run in threads of their own."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._process = Process(environment)
        self._asked = time.monotonic()
        threading.Thread(target=self._end_without_lease, daemon=True).start()

    def missing(self, shared: Path, content: str | None) -> str | None:
        """Return why this machine cannot take part, None when it sees a file of the search, or need not."""
        if content is None:
            return None
        with suppress(OSError):
            if shared.read_text(encoding="utf-8") == content:
                return None
        return (
            f"{os.uname().nodename} does not see {shared.parent}: the generated folder must be shared by all machines, "
            "or files go through a URL (workers.shared)"
        )

    def send(self, message: bytes) -> None:
        """Pass a message on to the process."""
        with suppress(OSError):  # it has died, which is received next
            self._process.connection.send_bytes(message)

    def receive(self) -> tuple[list[bytes], str | None]:
        """Return what the process has said, after up to POLL_SECONDS, and what it died of."""
        self._asked = time.monotonic()
        messages: list[bytes] = []
        connection = self._process.connection
        try:
            while connection.poll(0 if messages else POLL_SECONDS):
                messages.append(connection.recv_bytes())
        except (EOFError, OSError):
            return messages, self._process.cause()
        return messages, None

    def stop(self) -> None:
        """Order the process to write where it stands and to end."""
        self._process.stop()

    def _end_without_lease(self) -> None:
        while (left := self._asked + LEASE_SECONDS - time.monotonic()) > 0:
            time.sleep(left)
        os._exit(1)  # with which the process ends


class Remote:
    """A worker in the cluster, which takes `job` first; it is its own connection, fed by a thread."""

    def __init__(self, actor: Any, job: object, placed: Callable[[Any], Any]) -> None:
        self._actor, self._placed = actor, placed
        self._read, self._write = Pipe(duplex=False)
        self._given_up = threading.Event()
        self._cause = "lost"
        self._said: SimpleQueue[bytes | None] = SimpleQueue()
        self.send(job)
        for work in (self._listen, self._feed):
            threading.Thread(target=work, daemon=True).start()

    @property
    def connection(self) -> "Remote":
        """This object."""
        return self

    def send(self, what: Any, /) -> None:
        """Send what the process takes from its connection. One message is under way at a time."""
        self._actor.send.remote(bytes(ForkingPickler.dumps(what)))

    def recv(self) -> Any:
        """Return what the process says next. Raises EOFError when it has ended, or is lost."""
        return self._read.recv()

    def fileno(self) -> int:
        """Return a descriptor that can be read from when there is something to receive."""
        return self._read.fileno()

    def stop(self) -> None:
        """Order it to finish the step under way, to write where it stands, and to end."""
        self._actor.stop.remote()

    def kill(self) -> None:
        """End it at once where it still lives."""
        import ray

        self._given_up.set()
        with suppress(ray.exceptions.RayError):
            ray.kill(self._actor)
        self._read.close()

    def cause(self) -> str:
        """Return what it died of, once its connection has ended."""
        return self._cause

    def _listen(self) -> None:
        """Take what is said until the process ends, or until its lease has run out where it is lost.

        It is asked for all the time, whatever the search is busy with: that renews the lease.
        """
        import ray

        asked = time.monotonic()
        try:
            cause = ray.get(self._placed(self._actor))  # as long as there is no room for it
            while cause is None:
                asked = time.monotonic()
                messages, cause = ray.get(self._actor.receive.remote(), timeout=2 * LEASE_SECONDS)
                for message in messages:
                    self._said.put(message)
            self._cause = cause
        except ray.exceptions.RayError as error:
            self._cause = f"its machine or Ray's process there is lost ({type(error).__name__})"
            self._given_up.wait(max(0.0, asked + 2 * LEASE_SECONDS - time.monotonic()))
        finally:
            self._said.put(None)

    def _feed(self) -> None:
        """Write what was said to the connection, which waits for its reader, until there is no more."""
        with suppress(OSError):  # nobody reads any more
            while (message := self._said.get()) is not None:
                self._write.send_bytes(message)
        self._write.close()


@contextmanager
def connected(options: Cluster, *, device: str, shared: Path) -> Iterator["Room"]:
    """Connect to the cluster, and start a local one first where that is meant.

    `shared` is a file to be written, which all machines must see unless files go through a URL.

    Raises:
        BadInput: there is no Ray, no such cluster, or no room in it for one trial.
    """
    try:
        import ray
    except ImportError as error:
        raise BadInput(f"workers: Ray needs the extra: pip install 'fttune[ray]' ({error})") from error
    content = secrets.token_hex(16) if options.shared is None else None
    if content is not None:
        write_text(shared, content)
    local = {"_node_ip_address": "127.0.0.1", "include_dashboard": False} if options.address == LOCAL else {}
    with _own_token(local=bool(local)):
        try:
            with _own_handlers():
                ray.init(address=options.address, log_to_driver=False, configure_logging=False, **local)
        except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            raise BadInput(f"workers: no Ray cluster at {options.address} ({one_line(str(error))})") from error
        try:
            yield Room(options, device, lambda actor: actor.missing.remote(shared, content))
        finally:
            ray.shutdown()
            shared.unlink(missing_ok=True)


class Room:
    """What the cluster has for workers."""

    def __init__(self, options: Cluster, device: str, placed: Callable[[Any], Any]) -> None:
        import ray

        self._placed = placed
        there = ray.cluster_resources()
        gpus = options.gpus_per_trial
        if gpus is None:
            gpus = float(device != "cpu" and there.get("GPU", 0) > 0)
        self.threads = options.cpus_per_trial
        self._needs = {"num_gpus": gpus, "num_cpus": options.cpus_per_trial}
        asked = {"GPU": gpus, "CPU": options.cpus_per_trial}
        fit = min(int(there.get(name, 0) / need + 1e-9) for name, need in asked.items() if need)
        if not fit and options.count is None:
            held = ", ".join(f"{there.get(name, 0):g} {name}" for name in asked)
            need = ", ".join(f"{need:g} {name}" for name, need in asked.items())
            raise BadInput(f"workers: the cluster has {held}, but a trial takes {need}; ask for less, or add machines")
        self.count = options.count or fit

    def start(self, job: object) -> Remote:
        """Start a worker as soon as there is room for it."""
        import ray

        options = {**self._needs, "max_restarts": 0, "max_task_retries": 0, "max_concurrency": CALLS}
        actor = ray.remote(Host).options(**options).remote({"OMP_NUM_THREADS": str(self.threads)})
        return Remote(actor, job, self._placed)


@contextmanager
def _own_token(*, local: bool) -> Iterator[None]:
    """Make a local cluster's token this command's own: else Ray keeps one in the home folder, for others to read."""
    before = {name: os.environ.get(name) for name in (TOKEN, MODE)}
    if local:
        os.environ[TOKEN] = secrets.token_hex(32)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            os.environ.update({name: value} if value is not None else {})


@contextmanager
def _own_handlers() -> Iterator[None]:
    """Undo that Ray takes SIGTERM; of what it logs, let errors pass alone."""
    handler, logger = signal.getsignal(signal.SIGTERM), logging.getLogger("ray")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)
