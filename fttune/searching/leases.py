"""The right to search a study where machines share a database: a lease, which a dead owner loses by itself.

The database's own clock counts. Every transaction of an owner looks, before it is committed, whether the lease is still
its own: one that slept, or was cut off, for longer than the lease lasts can store nothing any more. PostgreSQL alone.
"""

import os
import platform
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sqlalchemy import Connection, Engine, NullPool, create_engine, event, text
from sqlalchemy.exc import SQLAlchemyError

from fttune.errors import StudyBusy

LEASE_SECONDS = 60.0
CONNECT = {"connect_timeout": 10, "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}

_TABLE = """
CREATE TABLE IF NOT EXISTS fttune_leases
(study text PRIMARY KEY, owner text NOT NULL, place text NOT NULL, token text NOT NULL, until timestamptz NOT NULL)
"""
_UNTIL = "clock_timestamp() + :seconds * interval '1 second'"
_TAKE = f"""
INSERT INTO fttune_leases VALUES (:study, :owner, :place, :token, {_UNTIL})
ON CONFLICT (study) DO UPDATE
SET owner = EXCLUDED.owner, place = EXCLUDED.place, token = EXCLUDED.token, until = EXCLUDED.until
WHERE fttune_leases.until < clock_timestamp() OR fttune_leases.place = EXCLUDED.place
RETURNING token
"""
_RENEW = f"UPDATE fttune_leases SET until = {_UNTIL} WHERE study = :study AND token = :token"
_RELEASE = "DELETE FROM fttune_leases WHERE study = :study AND token = :token"
_OWN = "SELECT 1 FROM fttune_leases WHERE study = :study AND token = :token FOR SHARE"
_HOLDER = """
SELECT owner, extract(epoch FROM until - clock_timestamp()) FROM fttune_leases WHERE study = :study
"""


class Lease:
    """A study's lease, taken for `seconds` and renewed in a thread until it is released.

    `place` says where this process holds the study's file lock: an owner of the same place is dead, and not waited for.

    Raises:
        StudyBusy: another owner has it.
        SQLAlchemyError: the database does not answer.
    """

    def __init__(self, url: str, study: str, *, place: str, seconds: float = LEASE_SECONDS) -> None:
        self._engine = create_engine(url, poolclass=NullPool, connect_args=CONNECT)
        self._study, self._seconds = study, seconds
        self._own = {"study": study, "token": uuid.uuid4().hex}
        owner = f"process {os.getpid()} on {platform.node()}"
        with schema_lock(self._engine), self._engine.begin() as connection:
            connection.execute(text(_TABLE))
        with self._engine.begin() as connection:
            row = {**self._own, "owner": owner, "place": place, "seconds": seconds}
            if connection.execute(text(_TAKE), row).first() is None:
                raise StudyBusy(
                    f"study {study} is being searched by {self._holder(connection)}; wait, or stop it first"
                )
        self._guarded: list[Engine] = []
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True)
        self._thread.start()

    def guard(self, engine: Engine) -> None:
        """Let no transaction of an engine be committed once the lease is another owner's: it raises StudyBusy.

        The engine's connections are closed with the lease.
        """
        self._guarded.append(engine)

        def require_own(connection: Connection) -> None:
            if connection.execute(text(_OWN), self._own).first() is None:
                raise StudyBusy(
                    f"study {self._study} is no longer this process's: it was silent for over {self._seconds:g} s, so "
                    f"it was taken over by {self._holder(connection)}; nothing more was stored here"
                )

        event.listen(engine, "commit", require_own)

    def release(self) -> None:
        """Let others have it. A database that does not answer lets them have it later, by itself."""
        self._released.set()
        self._thread.join()
        with suppress(SQLAlchemyError), self._engine.begin() as connection:
            connection.execute(text(_RELEASE), self._own)
        for engine in self._guarded:
            engine.dispose()

    def _renew(self) -> None:
        while not self._released.wait(self._seconds / 4):
            # It may answer the next time; until then the lease runs down.
            with suppress(SQLAlchemyError), self._engine.begin() as connection:
                connection.execute(text(_RENEW), {**self._own, "seconds": self._seconds})

    def _holder(self, connection: Connection) -> str:
        found = connection.execute(text(_HOLDER), self._own).first()
        if found is None:
            return "nobody any more"
        return f"{found[0]}, whose lease ends in {max(0.0, float(found[1])):.0f} s unless it goes on"


@contextmanager
def schema_lock(engine: Engine) -> Iterator[None]:
    """Keep all others that do the same from making tables in a database; the lock goes with its connection."""
    with engine.begin() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('fttune'))"))
        yield


def place_of(locks: Path) -> str:
    """Return what no other folder of locks has in common with this one, on any machine or in any container."""
    status = locks.stat()
    return f"{platform.node()} {status.st_dev} {status.st_ino} {locks}"
