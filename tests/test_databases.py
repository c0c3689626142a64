import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from fttune.databases import Schema, make_database, require_current, sqlite_file
from fttune.errors import CannotWrite, StoreError

SCHEMA = Schema("Maker", "2.0", "maker", "maker upgrade", ("c", "b", "a"))


def made(file: Path, revision: str | None = "c", *, rows: int = 0) -> Path:
    with closing(sqlite3.connect(file)) as database, database:
        database.execute("create table things (name text)")
        database.executemany("insert into things values (?)", [(f"{row:0500}",) for row in range(rows)])
        if revision:
            database.execute("create table alembic_version (version_num text)")
            database.execute("insert into alembic_version values (?)", (revision,))
    return file


@pytest.mark.parametrize(
    ("url", "file"),
    [
        ("sqlite:////a/b.db", "/a/b.db"),
        ("sqlite:///b.db", "b.db"),
        ("sqlite+pysqlite:////a/b.db?timeout=3", "/a/b.db"),
        ("sqlite://", None),
        ("sqlite:///:memory:", None),
        ("sqlite:///file:b.db?uri=true", None),
        ("postgresql://u@h/x", None),
        ("http://h:5000", None),
    ],
)
def test_only_a_databases_own_file_is_looked_at(url: str, file: str | None) -> None:
    assert sqlite_file(url) == (None if file is None else Path(file))


def test_a_current_database_is_left_as_it_is(tmp_path: Path) -> None:
    require_current(made(tmp_path / "x.db"), SCHEMA)
    assert [file.name for file in tmp_path.iterdir()] == ["x.db"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty, so what Maker stored in it is lost"),
        (b"no database at all" * 100, "damaged, or no SQLite database"),
        (b"SQLite format 3\0" + b"\xff" * 5000, "damaged, or no SQLite database"),
    ],
)
def test_what_is_no_database_is_refused_with_the_way_out(content: bytes, message: str, tmp_path: Path) -> None:
    file = tmp_path / "x.db"
    file.write_bytes(content)
    with pytest.raises(StoreError, match=message) as refused:
        require_current(file, SCHEMA)
    assert str(refused.value).startswith(f"{file}: ")
    assert "move it away to begin with a new one" in str(refused.value)
    assert file.read_bytes() == content


def test_a_database_that_lost_its_end_is_refused(tmp_path: Path) -> None:
    file = made(tmp_path / "x.db", rows=1000)
    whole = file.read_bytes()
    for size in (len(whole) // 2, 4096, 100):
        file.write_bytes(whole[:size])
        with pytest.raises(StoreError, match=r"x\.db: cannot be read: damaged"):
            require_current(file, SCHEMA)


def test_a_database_of_something_else_is_refused(tmp_path: Path) -> None:
    file = made(tmp_path / "x.db", None)
    with pytest.raises(StoreError, match=r"holds no tables of Maker's"):
        require_current(file, SCHEMA)


def test_a_backup_is_made_once_for_each_state_and_a_second_one_after_a_change(tmp_path: Path) -> None:
    file = made(tmp_path / "x.db", "b")
    for rows in (0, 0, 1):
        if rows:
            os.utime(file, (0, 0))
        with pytest.raises(StoreError, match=r"maker upgrade sqlite:///"):
            require_current(file, SCHEMA)
    assert len(list((tmp_path / "backups").iterdir())) == 2


def test_a_backup_that_finds_no_room_is_no_backup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = made(tmp_path / "x.db", "b")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(CannotWrite, match="the disk is full"):
        require_current(file, SCHEMA)
    assert list((tmp_path / "backups").iterdir()) == []


def test_a_transaction_that_a_kill_cut_off_is_rolled_back_and_not_refused(tmp_path: Path) -> None:
    file = made(tmp_path / "x.db")
    if (child := os.fork()) == 0:
        database = sqlite3.connect(file, isolation_level=None)
        database.execute("pragma cache_size = 1")  # so that pages reach the file before the transaction ends
        database.execute("begin")
        database.execute("update alembic_version set version_num = 'half'")
        database.executemany("insert into things values (?)", [("x" * 3000,)] * 300)
        os._exit(0)
    os.waitpid(child, 0)
    assert (tmp_path / "x.db-journal").stat().st_size > 0
    require_current(file, SCHEMA)
    with closing(sqlite3.connect(file)) as database:
        assert database.execute("select count(*) from things").fetchone() == (0,)


def test_a_database_that_is_there_by_then_stays(tmp_path: Path) -> None:
    file = tmp_path / "x.db"

    def make(url: str) -> None:
        path = sqlite_file(url)
        assert path is not None
        made(path, "c")
        made(file, "b")  # another process was faster

    make_database(file, make)
    with closing(sqlite3.connect(file)) as database:
        assert database.execute("select version_num from alembic_version").fetchall() == [("b",)]
    assert [one.name for one in tmp_path.iterdir()] == ["x.db"]
