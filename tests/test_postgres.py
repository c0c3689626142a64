"""PostgreSQL databases: how they are named, and what is refused before a library opens them."""

from pathlib import Path

import optuna
import pytest
from sqlalchemy.exc import OperationalError

from fttune.databases import Schema
from fttune.errors import StoreError
from fttune.postgres import connected, is_postgres, shown_url, tables_made_once
from fttune.searching import open_storage
from fttune.tracking.schema import prepare_database
from tests import postgres
from tests.postgres import run

SCHEMA = Schema("Maker", "2.0", "maker", "maker upgrade", ("c", "b", "a"))
TABLES = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY tablename"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://ada:secret@db.example/pets", "postgresql://ada@db.example/pets"),
        ("postgresql+psycopg://ada:secret@db.example:5433/pets", "postgresql://ada@db.example:5433/pets"),
        ("postgresql://db/pets?user=ada&password=secret", "postgresql://db/pets"),
        ("postgresql:///pets", "postgresql:///pets"),
    ],
)
def test_a_url_is_shown_without_password_and_driver(url: str, shown: str) -> None:
    assert shown_url(url) == shown
    assert is_postgres(url)


@pytest.mark.parametrize("url", ["postgresql://ada:secret@db:port/pets", "mysql://u:secret@h/x", "sqlite:///a.db"])
def test_what_is_no_postgresql_is_known_by_its_kind(url: str) -> None:
    assert is_postgres(url) == url.startswith("postgresql")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (
            "postgresql://ada:secret@db:port/pets",
            "must be a database URL such as .*, got 'postgresql://\\*\\*\\*@db:port/",
        ),
        ("postgresql+pg8000://ada:secret@db/pets", r'@db/pets needs a driver .* `pip install "fttune\[postgres\]"`'),
        ("mysql://ada:secret@db/pets", "mysql://ada@db/pets needs a driver .*; install it"),
    ],
)
def test_a_bad_url_and_a_missing_driver_are_bad_input_without_the_password(url: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=said) as told:
        open_storage(url, locks=tmp_path)
    assert "secret" not in str(told.value)


def test_a_tracking_database_without_its_driver_is_bad_input() -> None:
    with pytest.raises(StoreError, match="postgresql://ada@db/pets needs a driver") as told:
        prepare_database("postgresql+pg8000://ada:secret@db/pets")
    assert "secret" not in str(told.value)


def with_revision(url: str, revision: str) -> list[tuple[str]]:
    run(url, "CREATE TABLE alembic_version (version_num text)")
    run(url, "INSERT INTO alembic_version VALUES (:revision)", revision=revision)
    return run(url, TABLES)


@pytest.mark.postgres
@pytest.mark.parametrize(
    ("revision", "said"),
    [
        (
            "b",
            "written by an older Maker: its tables are of revision b, and Maker 2.0 needs c. Nothing was changed; take "
            "a copy first, with `pg_dump --format=custom --file=FILE {url}`. Upgrade it with `maker upgrade {url}`, "
            "then run the same command again",
        ),
        (
            "d",
            "written by a newer Maker, or by another program: its tables are of revision d, which Maker 2.0 does not "
            "know. Nothing was changed. Upgrade the library with `pip install --upgrade maker`, or use another store",
        ),
    ],
)
def test_tables_of_another_version_are_refused_with_the_remedy(revision: str, said: str, database: str) -> None:
    with_revision(database, revision)
    shown = database.replace(f":{postgres.PASSWORD}", "")
    with pytest.raises(StoreError) as told, tables_made_once(database, SCHEMA):
        pytest.fail("the block must not run")
    assert str(told.value) == f"{shown}: {said.format(url=shown)}"


@pytest.mark.postgres
def test_a_database_of_another_optuna_is_left_as_it_is(database: str, tmp_path: Path) -> None:
    before = with_revision(database, "v3.0.0.a")  # of an Optuna of 2022, which has other tables
    with pytest.raises(StoreError, match=r"written by an older Optuna: .* `optuna storage upgrade --storage p"):
        open_storage(database, locks=tmp_path)
    assert run(database, TABLES) == before


@pytest.mark.postgres
def test_a_database_of_mlflow_is_not_taken_for_optunas(database: str, tmp_path: Path) -> None:
    before = with_revision(database, "451aebb31d03")  # the first revision of MLflow's tables
    with pytest.raises(StoreError, match="or by another program"):
        open_storage(database, locks=tmp_path)
    assert run(database, TABLES) == before


@pytest.mark.postgres
def test_tables_whose_making_was_cut_off_are_made_whole(database: str, tmp_path: Path) -> None:
    open_storage(database, locks=tmp_path)
    run(database, "DROP TABLE alembic_version")  # what Optuna makes last
    run(database, "DELETE FROM version_info")
    storage = open_storage(database, locks=tmp_path)
    optuna.create_study(storage=storage, study_name="one")
    assert run(database, "SELECT count(*) FROM alembic_version") == [(1,)]


@pytest.mark.postgres
@pytest.mark.parametrize("how", ["PGPASSWORD", "PGPASSFILE"])
def test_the_password_may_come_from_where_postgresql_looks_for_it(
    how: str, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (file := tmp_path / "pgpass").write_text(f"*:*:*:fttune:{postgres.PASSWORD}\n")
    file.chmod(0o600)
    bare = database.replace(f":{postgres.PASSWORD}", "")
    with pytest.raises(StoreError, match="no password supplied"):
        open_storage(bare, locks=tmp_path)
    monkeypatch.setenv(how, {"PGPASSWORD": postgres.PASSWORD, "PGPASSFILE": str(file)}[how])
    open_storage(bare, locks=tmp_path)


@pytest.mark.postgres
def test_a_connection_waits_for_nobody_for_hours(database: str) -> None:
    wanted = {"tcp_keepalives_idle": "10", "tcp_user_timeout": "30000", "idle_in_transaction_session_timeout": "30s"}
    with connected(database).connect() as connection:
        found = {name: connection.exec_driver_sql(f"SHOW {name}").scalar() for name in wanted}
    assert found == wanted


@pytest.mark.postgres
def test_a_database_that_does_not_answer_is_told_at_once(postgres_server: postgres.Server) -> None:
    with pytest.raises(OperationalError):
        prepare_database(postgres_server.url("missing"))
