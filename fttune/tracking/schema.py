"""MLflow's own database, before MLflow opens it: made whole, and refused when another version wrote it."""

import logging
from functools import cache
from pathlib import Path

import mlflow
from alembic.script import ScriptDirectory
from mlflow.db import upgrade

from fttune.databases import Schema, make_database, require_current, sqlite_file


def prepare_database(uri: str) -> None:
    """Make the database of a tracking URI where there is none, else see that this MLflow can use it: hold a lock.

    MLflow itself would make a database step by step, and migrate some of those of an older version in place, neither of
    which a crash may cut short. A server's database is the server's own affair.

    Raises:
        StoreError: the database is damaged, or was written by another version of MLflow.
        CannotWrite: there is no room for it.
    """
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # it logs a traceback of what it raises
    if (file := sqlite_file(uri)) is None:
        return
    if not file.exists():
        assert upgrade.callback is not None, "it is a command"
        make_database(file, upgrade.callback)
    require_current(file, _schema())


@cache  # it runs all of MLflow's migration scripts
def _schema() -> Schema:
    folder = Path(mlflow.__file__).parent / "store" / "db_migrations"
    revisions = [script.revision for script in ScriptDirectory(folder).walk_revisions()]
    return Schema("MLflow", mlflow.__version__, "mlflow", "mlflow db upgrade", revisions)
