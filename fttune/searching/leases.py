"""The right to search a study where machines share a database: a lease, which a dead owner loses by itself.

The database's own clock counts, and decides who may write: an owner's transactions lock the lease's row before they are
committed, and are not where it has another token by then. Beyond the database, where no such thing is known, an
owner asks its own clock: it stops when it could not renew the lease for as long as that lasts. PostgreSQL alone.
"""

import os
import platform
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.exc import SQLAlchemyError

from fttune.errors import CannotWrite, StudyBusy
from fttune.files import write_text
from fttune.postgres import connected, lock_tables, shown_url

LEASE_SECONDS = 60.0
RENEWALS = 4  # within one lease

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
# A lock that the update of whoever takes the lease over waits for: so no transaction is committed after it.
_OWN = "SELECT 1 FROM fttune_leases WHERE study = :study AND token = :token FOR SHARE"
_HOLDER = """
SELECT owner, extract(epoch FROM until - clock_timestamp()) FROM fttune_leases WHERE study = :study
"""


def boot_seconds() -> float:
    """Return seconds that go on while the machine sleeps, where the system counts such."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class Lease:
    """A study's lease, taken for `seconds` and renewed in a thread until it is released.

    `place` says where this process holds the study's file lock: an owner of the same place is dead, and not waited for.

    Raises:
        StudyBusy: another owner has it.
        SQLAlchemyError: the database does not answer.
    """

    def __init__(
        self,
        url: str,
        study: str,
        *,
        place: str,
        seconds: float = LEASE_SECONDS,
        clock: Callable[[], float] = boot_seconds,
    ) -> None:
        self._engine, self._shown = connected(url), shown_url(url)
        self._study, self._seconds, self._clock = study, seconds, clock
        self._own = {"study": study, "token": uuid.uuid4().hex}
        self._lost: str | None = None
        self._guarded: list[Engine] = []
        self._take(place)
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._renew_often, name="fttune-lease", daemon=True)
        self._thread.start()

    def guard(self, engine: Engine) -> None:
        """Let no transaction of an engine be committed once the lease is another owner's: it raises StudyBusy."""

        def require_own(connection: Connection) -> None:
            if connection.execute(text(_OWN), self._own).first() is None:
                self._lost = self._holder(connection)
                self.require()

        event.listen(engine, "commit", require_own)
        self._guarded.append(engine)

    def require(self) -> None:
        """Go on as the owner: of what lies outside of the database nothing may change after this raised.

        Raises:
            StudyBusy: another owner has the lease.
            CannotWrite: it ran out, and the database does not answer: another owner may have it.
        """
        if self._lost is None and self._clock() - self._renewed >= self._seconds:
            try:
                self._renew()
            except SQLAlchemyError as error:
                raise CannotWrite(
                    f"{self._shown}: did not answer for {self._seconds:g} s, so another machine may have taken over "
                    f"study {self._study}; run the same command again when it does, which goes on from there"
                ) from error
        if self._lost is not None:
            raise StudyBusy(
                f"study {self._study} is no longer this process's: it was silent for over {self._seconds:g} s, so it "
                f"was taken over by {self._lost}; nothing more was stored here"
            )

    def release(self) -> None:
        """Let others have it, and let go of all connections. A database that does not answer ends it by itself."""
        self._released.set()
        self._thread.join()
        with suppress(SQLAlchemyError), self._engine.begin() as connection:
            connection.execute(text(_RELEASE), self._own)
        for engine in (self._engine, *self._guarded):
            engine.dispose()

    def _take(self, place: str) -> None:
        asked = self._clock()
        with self._engine.begin() as connection:
            if connection.execute(text("SELECT to_regclass('fttune_leases')")).scalar() is None:
                lock_tables(connection)
                connection.execute(text(_TABLE))
        with self._engine.begin() as connection:
            owner = f"process {os.getpid()} on {platform.node()}"
            row = {**self._own, "owner": owner, "place": place, "seconds": self._seconds}
            if connection.execute(text(_TAKE), row).first() is None:
                raise StudyBusy(
                    f"study {self._study} is being searched by {self._holder(connection)}; wait, or stop it first"
                )
        self._renewed = asked

    def _renew_often(self) -> None:
        while self._lost is None and not self._released.wait(self._seconds / RENEWALS):
            with suppress(SQLAlchemyError):  # it may answer the next time; until then the lease runs down
                self._renew()

    def _renew(self) -> None:
        asked = self._clock()
        with self._engine.begin() as connection:
            if connection.execute(text(_RENEW), {**self._own, "seconds": self._seconds}).rowcount:
                self._renewed = asked
            else:
                self._lost = self._holder(connection)

    def _holder(self, connection: Connection) -> str:
        found = connection.execute(text(_HOLDER), self._own).first()
        if found is None:
            return "nobody any more"
        return f"{found[0]}, whose lease ends in {max(0.0, float(found[1])):.0f} s unless it goes on"


def place_of(locks: Path) -> str:
    """Return what no other folder of locks, and no other running system, has in common with this one.

    A folder is known by an id that lies in it, a system by the id of its start: copies of a machine, and containers
    that have one name, differ in at least one of them.
    """
    file = locks / "place"
    if not file.exists():
        write_text(file, uuid.uuid4().hex)
    boot = Path("/proc/sys/kernel/random/boot_id")
    system = boot.read_text(encoding="ascii").strip() if boot.exists() else f"{platform.node()} {uuid.getnode():x}"
    return f"{system} {file.read_text(encoding='ascii')}"
