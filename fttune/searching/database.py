"""Optuna's storage in a database: looked at before Optuna opens it, made whole, and its failures told in one way."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from alembic.script import ScriptDirectory
from filelock import FileLock
from optuna.storages import RDBStorage
from sqlalchemy import event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DatabaseError, OperationalError, SQLAlchemyError

from fttune.databases import BUSY_SECONDS, Schema, make_database, require_current, sqlite_file
from fttune.errors import StoreError
from fttune.files import cannot_write, private_folder

if TYPE_CHECKING:
    from sqlalchemy.engine import ExceptionContext


def open_storage(uri: str, *, locks: Path) -> RDBStorage:
    """Return the storage at `uri`; its tables are made once, under a lock.

    What its database refuses later on, because a disk is full or fails, is raised as CannotWrite.

    Raises:
        StoreError: the database is unreadable, or was written by another version of Optuna.
        CannotWrite: there is no room for it.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        url = make_url(uri)
    except SQLAlchemyError as error:
        raise StoreError(f"storage: must be a database URL such as sqlite:///optuna.db, got {uri!r}") from error
    shown = url.render_as_string()
    private_folder(locks)
    try:
        with FileLock(locks / "optuna-schema.lock"):
            if (file := sqlite_file(uri)) is None:
                return _opened(uri)
            if not file.exists():
                make_database(file, _make)
            require_current(file, _schema())
            storage = _opened(uri, connect_args={"timeout": BUSY_SECONDS})
            event.listen(storage.engine, "handle_error", _telling(file))
            return storage
    except ImportError as error:
        raise StoreError(f"storage: {shown} needs a driver that is not installed: {error}") from error
    except RuntimeError as error:  # what Optuna says of another version, with its remedy
        raise StoreError(f"{shown}: Optuna cannot use this store: {_first_line(error)}") from error
    except SQLAlchemyError as error:
        raise StoreError(
            f"{shown}: Optuna cannot use this store: {_first_line(error)}; see that it runs, and that its URL is right"
        ) from error


def _opened(uri: str, **options: Any) -> RDBStorage:
    return RDBStorage(uri, engine_kwargs=options)


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


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
