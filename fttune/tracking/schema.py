"""MLflow's own database, before MLflow opens it: made whole, and refused when another version wrote it."""

import logging
from functools import cache
from pathlib import Path

import mlflow
from alembic.script import ScriptDirectory
from mlflow.db import upgrade

from fttune.databases import Schema, make_database, require_current, sqlite_file
from fttune.postgres import driver_told, is_postgres, tables_made_once


def prepare_database(uri: str) -> None:
    """Make the database of a tracking URI where there is none, else see that this MLflow can use it: hold a lock.

    MLflow itself would make a database step by step, and migrate some of those of an older version in place, neither of
    which a crash may cut short, and ask a server that does not answer for an hour. What lies behind a tracking server
    is that server's own affair.

    Raises:
        StoreError: the database is damaged, or was written by another version of MLflow; or its driver is missing.
        CannotWrite: there is no room for it.
        SQLAlchemyError: a PostgreSQL server does not answer.
    """
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # it logs a traceback of what it raises
    assert upgrade.callback is not None, "it is a command"
    if is_postgres(uri):
        with driver_told(uri), tables_made_once(uri, _schema()) as made:
            if not made:
                upgrade.callback(uri)
    elif (file := sqlite_file(uri)) is not None:
        if not file.exists():
            make_database(file, upgrade.callback)
        require_current(file, _schema())


@cache  # it runs all of MLflow's migration scripts
def _schema() -> Schema:
    folder = Path(mlflow.__file__).parent / "store" / "db_migrations"
    revisions = [script.revision for script in ScriptDirectory(folder).walk_revisions()]
    return Schema("MLflow", mlflow.__version__, "mlflow", "mlflow db upgrade", revisions)
