"""The SQLite databases of other libraries: made whole or not at all, and looked at before their library opens them.

A library that opens a database of another version may change it before it refuses: Optuna adds the tables that it
misses, MLflow adds them and runs its migrations, which are no single transaction. Knows neither of them; those of a
PostgreSQL server are in `postgres.py`, others are their library's own affair. Standard library only.
"""

import re
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from urllib.parse import quote

from fttune.errors import StoreError
from fttune.files import private_folder, replacing, told

BACKUPS = "backups"
BUSY_SECONDS = 60.0
_URL = re.compile(r"sqlite(\+pysqlite)?:///(?P<file>[^?]+)(\?.*)?")


@dataclass(frozen=True)
class Schema:
    """What a library knows of its databases.

    `revisions` are those of its tables as alembic names them, the current one first; `version` is the library's own,
    `package` its name for pip, and `upgrade` its command without the database's URL.
    """

    library: str
    version: str
    package: str
    upgrade: str
    revisions: Sequence[str]

    def require(self, revision: str, *, shown: str, url: str, copied: Callable[[], str]) -> None:
        """Refuse tables of another revision than the library's own.

        `shown` and `url` name the database in the message and in the library's command; `copied` is called for one of
        an older version, and tells of the copy of it. Raises StoreError.
        """
        if revision == self.revisions[0]:
            return
        if revision in self.revisions:
            raise StoreError(
                f"{shown}: written by an older {self.library}: its tables are of revision {revision}, and "
                f"{self.library} {self.version} needs {self.revisions[0]}. Nothing was changed{copied()}. "
                f"Upgrade it with `{self.upgrade} {url}`, then run the same command again"
            )
        raise StoreError(
            f"{shown}: written by a newer {self.library}, or by another program: its tables are of revision "
            f"{revision}, which {self.library} {self.version} does not know. Nothing was changed. Upgrade the library "
            f"with `pip install --upgrade {self.package}`, or use another store"
        )


def sqlite_file(url: str) -> Path | None:
    """Return the file of a SQLite database by its SQLAlchemy URL; None for any other database."""
    found = _URL.fullmatch(url)
    if found is None or found["file"] == ":memory:" or found["file"].startswith("file:"):
        return None
    return Path(found["file"])


def require_current(file: Path, schema: Schema) -> None:
    """Refuse a database that is damaged or of another version of its library, and leave it as it is.

    One of an older version is copied beside it first, to `backups/<name>-<revision>-<last change>.db`.

    Raises:
        StoreError: with what brings it, or the library, up to date.
        CannotWrite: there is no room for the copy.
    """
    revision = _revision(file, schema)
    schema.require(
        revision,
        shown=str(file),
        url=f"sqlite:///{file}",
        copied=lambda: f", and a copy lies at {_backup(file, revision)}",
    )


def make_database(file: Path, make: Callable[[str], None]) -> None:
    """Let `make` fill a new database, by its URL, under a temporary name, and give it its own when it is whole.

    What stands under the name by then stays. Raises CannotWrite; else what `make` raises.
    """
    with told(file):
        private_folder(file.parent)
        with replacing(file, mode=0o600, overwrite=False) as temporary:
            make(f"sqlite:///{temporary}")


def _revision(file: Path, schema: Schema) -> str:
    """Return the revision of a database's tables. Raises StoreError when it has none."""
    instead = f"put a copy of it back ({file.parent / BACKUPS}), or move it away to begin with a new one"
    if not file.is_file():
        raise StoreError(f"{file}: must be a file of {schema.library}'s, and is none; {instead}")
    if file.stat().st_size == 0:
        raise StoreError(f"{file}: is empty, so what {schema.library} stored in it is lost; {instead}")
    try:
        with closing(_opened(file)) as database:
            tables = {name for (name,) in database.execute("select name from sqlite_master where type = 'table'")}
            found = (
                "alembic_version" in tables and database.execute("select version_num from alembic_version").fetchone()
            )
    except sqlite3.DatabaseError as error:
        raise StoreError(f"{file}: cannot be read: damaged, or no SQLite database ({error}); {instead}") from error
    if not found:
        raise StoreError(f"{file}: holds no tables of {schema.library}'s, or not all of them; {instead}")
    return str(found[0])


def _opened(file: Path) -> sqlite3.Connection:
    # To read only; but what a killed process was about to write is rolled back by whoever opens the file next.
    return sqlite3.connect(f"file:{quote(str(file))}?mode=rw", uri=True, timeout=BUSY_SECONDS)


def _backup(file: Path, revision: str) -> Path:
    """Copy a database, once for each of its states; return the copy."""
    changed = datetime.fromtimestamp(file.stat().st_mtime).strftime("%Y-%m-%d-%H%M%S")
    copy = file.parent / BACKUPS / f"{file.stem}-{revision}-{changed}{file.suffix}"
    if not copy.exists():
        with told(copy), replacing(copy, mode=0o600) as temporary:
            try:
                with closing(_opened(file)) as source, closing(sqlite3.connect(temporary)) as target:
                    source.backup(target)
            except sqlite3.DatabaseError as error:
                raise OSError(str(error)) from error
    return copy
