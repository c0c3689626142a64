"""Optuna's storage in a database: looked at before Optuna opens it, made whole, and its failures told in one way."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from alembic.script import ScriptDirectory
from filelock import FileLock
from optuna.storages import RDBStorage
from sqlalchemy import NullPool, event
from sqlalchemy.exc import DatabaseError, IntegrityError, OperationalError, SQLAlchemyError

from fttune.databases import BUSY_SECONDS, Schema, make_database, require_current, sqlite_file
from fttune.errors import CannotWrite, StoreError
from fttune.files import cannot_write, private_folder
from fttune.postgres import CONNECT, bound, driver_told, is_postgres, shown_url, tables_made_once
from fttune.searching import leases
from fttune.searching.leases import Lease, place_of

if TYPE_CHECKING:
    from sqlalchemy.engine import Dialect, ExceptionContext
    from sqlalchemy.engine.interfaces import DBAPIConnection

PATIENCE_SECONDS, PAUSE_SECONDS = 30.0, 0.5  # with a server that was there at the start


def open_storage(uri: str, *, locks: Path, lease: Lease | None = None) -> RDBStorage:
    """Return the storage at `uri`; its tables are made once, under a lock. With a `lease` only its owner can write.

    What its database refuses later on, because a disk is full or fails, or since it is gone, is raised as CannotWrite.

    Raises:
        StoreError: the database is unreadable, or was written by another version of Optuna.
        CannotWrite: there is no room for it.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    private_folder(locks)
    with _usable(uri), FileLock(locks / "optuna-schema.lock"):
        if is_postgres(uri):
            return _of_server(uri, lease)
        if (file := sqlite_file(uri)) is None:
            return _opened(uri)
        if not file.exists():
            make_database(file, _make)
        require_current(file, _schema())
        storage = _opened(uri, connect_args={"timeout": BUSY_SECONDS})
        event.listen(storage.engine, "handle_error", _telling(file))
        return storage


def lease_of(study: str, uri: str, *, locks: Path) -> Lease:
    """Return the lease of a study, whose file lock is held, in a PostgreSQL database.

    Raises:
        StudyBusy: another machine has it.
        StoreError: the database cannot be used.
    """
    with _usable(uri):
        return Lease(uri, study, place=place_of(locks), seconds=leases.LEASE_SECONDS)


def _shown(uri: str) -> str:
    """Return a URL as people may see it. Raises StoreError when it is none."""
    try:
        return shown_url(uri)
    except ValueError as error:
        hidden = re.sub("//.*@", "//***@", uri)
        raise StoreError(f"storage: must be a database URL such as sqlite:///optuna.db, got {hidden!r}") from error


@contextmanager
def _usable(uri: str) -> Iterator[None]:
    """Tell, as StoreError, why the store of a URL cannot be used."""
    shown = _shown(uri)
    try:
        with driver_told(uri):
            yield
    except RuntimeError as error:  # what Optuna says of another version, with its remedy
        raise StoreError(f"{shown}: Optuna cannot use this store: {_first_line(error)}") from error
    except SQLAlchemyError as error:
        raise StoreError(
            f"{shown}: Optuna cannot use this store: {_first_line(error)}; see that it runs, and that its URL is right"
        ) from error


def _opened(uri: str, **options: Any) -> RDBStorage:
    return RDBStorage(uri, engine_kwargs=options)


def _of_server(uri: str, lease: Lease | None) -> RDBStorage:
    # Who holds a lease lets go of its connections with it; others keep none.
    pool: dict[str, Any] = {"poolclass": NullPool} if lease is None else {"pool_pre_ping": True}
    with tables_made_once(uri, _schema()):
        storage = _opened(uri, connect_args=CONNECT, **pool)
    storage.engine.dispose()  # the next connection has the limits of this program
    bound(storage.engine)
    event.listen(storage.engine, "do_connect", _connected_patiently)
    event.listen(storage.engine, "handle_error", _telling_of(shown_url(uri)))
    if lease is not None:
        lease.guard(storage.engine)
    return storage


def _connected_patiently(dialect: "Dialect", _: object, arguments: Any, options: Any) -> "DBAPIConnection":
    """Connect to a server that answers, or will: one that starts again takes seconds."""
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return dialect.connect(*arguments, **options)
        except dialect.loaded_dbapi.OperationalError:
            if time.monotonic() >= end:
                raise
            time.sleep(PAUSE_SECONDS)


def _make(uri: str) -> None:
    storage = _opened(uri)
    storage.remove_session()
    storage.engine.dispose()


@cache
def _schema() -> Schema:
    folder = Path(optuna.storages.__file__).parent / "_rdb" / "alembic"
    revisions = [script.revision for script in ScriptDirectory(folder).walk_revisions()]
    return Schema("Optuna", optuna.__version__, "optuna", "optuna storage upgrade --storage", revisions)


def _telling(file: Path) -> "Callable[[ExceptionContext], None]":
    """Return what turns the errors of a disk, on their way through SQLAlchemy, into the one to show."""

    def tell(context: "ExceptionContext") -> None:
        if type(context.sqlalchemy_exception) in (DatabaseError, OperationalError):  # and not of those below them
            raise cannot_write(file, context.original_exception) from context.original_exception

    return tell


def _telling_of(shown: str) -> "Callable[[ExceptionContext], None]":
    """Return what turns the errors of a server that is gone, full or read-only into the one to show."""

    def tell(context: "ExceptionContext") -> None:
        # SQLAlchemy connects anew when a look at an old connection fails; Optuna knows what a conflict means.
        if not context.is_pre_ping and not isinstance(context.sqlalchemy_exception, IntegrityError):
            why = _first_line(context.original_exception)
            raise CannotWrite(
                f"{shown}: the database did not take what was to be stored ({why}); see to it, then run the same "
                "command again, which goes on from there"
            ) from context.original_exception

    return tell


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0]
