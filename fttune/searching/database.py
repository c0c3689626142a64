"""Optuna's storage in a database: looked at before Optuna opens it, made whole, and its failures told in one way."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from alembic.script import ScriptDirectory
from filelock import FileLock
from optuna.storages import RDBStorage
from sqlalchemy import NullPool, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DatabaseError, InterfaceError, OperationalError, SQLAlchemyError

from fttune.databases import BUSY_SECONDS, Schema, make_database, require_current, sqlite_file
from fttune.errors import CannotWrite, StoreError
from fttune.files import cannot_write, private_folder
from fttune.searching.leases import CONNECT, Lease, place_of, schema_lock

if TYPE_CHECKING:
    from sqlalchemy.engine import ExceptionContext


def open_storage(uri: str, *, locks: Path, lease: Lease | None = None) -> RDBStorage:
    """Return the storage at `uri`; its tables are made once, under a lock. With a `lease` only its owner can write.

    What its database refuses later on, because a disk is full or fails, or since it is gone, is raised as CannotWrite.

    Raises:
        StoreError: the database is unreadable, or was written by another version of Optuna.
        CannotWrite: there is no room for it.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    shown = _shown(uri)
    private_folder(locks)
    with _usable(shown), FileLock(locks / "optuna-schema.lock"):
        if uri.startswith("postgresql"):
            return _of_postgresql(uri, shown, lease)
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
    with _usable(_shown(uri)):
        return Lease(uri, study, place=place_of(locks))


def _shown(uri: str) -> str:
    """Return a URL without its password. Raises StoreError when it is none."""
    try:
        return make_url(uri).render_as_string()
    except SQLAlchemyError as error:
        raise StoreError(f"storage: must be a database URL such as sqlite:///optuna.db, got {uri!r}") from error


@contextmanager
def _usable(shown: str) -> Iterator[None]:
    """Tell, as StoreError, why the store of a URL cannot be used."""
    try:
        yield
    except ImportError as error:
        raise StoreError(
            f"storage: {shown} needs a driver that is not installed ({error}); for PostgreSQL install fttune[postgres]"
        ) from error
    except RuntimeError as error:  # what Optuna says of another version, with its remedy
        raise StoreError(f"{shown}: Optuna cannot use this store: {_first_line(error)}") from error
    except SQLAlchemyError as error:
        raise StoreError(
            f"{shown}: Optuna cannot use this store: {_first_line(error)}; see that it runs, and that its URL is right"
        ) from error


def _opened(uri: str, **options: Any) -> RDBStorage:
    return RDBStorage(uri, engine_kwargs=options)


def _of_postgresql(uri: str, shown: str, lease: Lease | None) -> RDBStorage:
    pool: dict[str, Any] = {"pool_pre_ping": True} if lease else {"poolclass": NullPool}  # who reads keeps none open
    with schema_lock(create_engine(uri, poolclass=NullPool, connect_args=CONNECT)):
        storage = _opened(uri, connect_args=CONNECT, **pool)
    event.listen(storage.engine, "handle_error", _telling_of(shown))
    if lease is not None:
        lease.guard(storage.engine)
    return storage


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
    """Return what turns the errors of a server that is gone, or full, into the one to show."""

    def tell(context: "ExceptionContext") -> None:
        error = context.sqlalchemy_exception
        if context.is_disconnect or isinstance(error, OperationalError | InterfaceError):
            why = _first_line(context.original_exception)
            raise CannotWrite(f"{shown}: does not answer ({why}); run the same command again when it does") from error

    return tell


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0]
