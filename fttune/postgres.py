"""PostgreSQL databases that machines share: reached with bounded patience, their tables made once, under a lock there.

Optuna's and MLflow's tables are looked at before their library opens them, as `databases.py` does for SQLite. Each
library needs a database of its own, for both call the table of their version `alembic_version`. Knows neither of them.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine, NullPool, create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import SQLAlchemyError

from fttune.config.urls import kind_of
from fttune.databases import Schema
from fttune.errors import StoreError

# A machine that vanished is noticed within half a minute, on both sides; libpq would wait for hours.
CONNECT = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
_ON_SERVER = """
SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3;
SET tcp_user_timeout = 30000; SET idle_in_transaction_session_timeout = '30s'
"""
_LOCK = "SELECT pg_advisory_xact_lock(hashtext('fttune'))"


def is_postgres(url: str) -> bool:
    """Return whether a SQLAlchemy URL names a PostgreSQL database, whatever its driver."""
    return kind_of(url) == "postgresql"


def shown_url(url: str) -> str:
    """Return a database's URL without driver, password and options, as `psql` takes it. Raises ValueError."""
    try:
        whole = make_url(url)
    except (SQLAlchemyError, ValueError) as error:
        raise ValueError("cannot be read as a URL") from error
    return whole.set(drivername=whole.get_backend_name(), query={})._replace(password=None).render_as_string()


@contextmanager
def driver_told(url: str) -> Iterator[None]:
    """Tell, as StoreError, that the driver of a database is missing."""
    try:
        yield
    except ImportError as error:
        instead = 'run `pip install "fttune[postgres]"`' if is_postgres(url) else "install it"
        raise StoreError(f"{shown_url(url)} needs a driver that is not installed ({error}); {instead}") from error


def connected(url: str) -> Engine:
    """Return an engine that opens a connection for each transaction. Raises ImportError without its driver."""
    engine = create_engine(url, poolclass=NullPool, connect_args=CONNECT)
    bound(engine)
    return engine


def bound(engine: Engine) -> None:
    """Let the server drop each connection of an engine whose machine vanished, or sleeps in a transaction."""

    def set_limits(connection: DBAPIConnection, _: object) -> None:
        cursor = connection.cursor()
        cursor.execute(_ON_SERVER)
        cursor.close()
        connection.commit()

    event.listen(engine, "connect", set_limits)


@contextmanager
def tables_made_once(url: str, schema: Schema) -> Iterator[bool]:
    """Keep all others that do the same from making tables until the block has made them; tell whether they are there.

    The lock goes with its connection. Tables of another version are refused (`Schema.require`).
    """
    engine = connected(url)
    bare = shown_url(url)
    with engine.begin() as connection:
        connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = '10min'"))
        lock_tables(connection)
        if (revision := _revision(connection)) is not None:
            copy = f"; take a copy first, with `pg_dump --format=custom --file=FILE {bare}`"
            schema.require(revision, shown=bare, url=bare, copied=lambda: copy)
        yield revision is not None


def lock_tables(connection: Connection) -> None:
    """Wait for, and hold until the end of the transaction, the right to make tables."""
    connection.execute(text(_LOCK))


def _revision(connection: Connection) -> str | None:
    """Return the revision of the library's tables; None where there are none, or they were never finished."""
    if connection.execute(text("SELECT to_regclass('alembic_version')")).scalar() is None:
        return None
    found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return None if found is None else str(found)
