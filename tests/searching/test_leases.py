"""Leases of studies in a PostgreSQL that several machines share; the server is a real one."""

import multiprocessing
import os
import signal
import time
from multiprocessing.synchronize import Event
from pathlib import Path

import optuna
import pytest
from sqlalchemy import create_engine, text

from fttune.errors import CannotWrite, StudyBusy
from fttune.searching import open_storage, study_lock
from fttune.searching.leases import Lease, place_of
from tests import postgres, processes
from tests.postgres import run

pytestmark = pytest.mark.postgres
EXPIRE = "UPDATE fttune_leases SET until = clock_timestamp() - interval '1 second'"


def opened(url: str, folder: str) -> list[str]:
    return list(optuna.get_all_study_names(open_storage(url, locks=Path(folder))))


def test_many_machines_may_open_a_new_database_at_once(database: str, tmp_path: Path) -> None:
    folders = [str(tmp_path / str(number)) for number in range(4)]  # so that no lock on this machine helps
    with processes.CONTEXT.Pool(4) as pool:
        assert pool.starmap(opened, [(database, folder) for folder in folders]) == [[]] * 4


def test_one_owner_at_a_time_and_the_other_is_told_who(database: str, tmp_path: Path) -> None:
    with study_lock("pets", locks=tmp_path / "a", storage=database) as lease:
        assert lease is not None
        said = rf"study pets is being searched by process {os.getpid()} on .*, whose lease ends in [56]\d s unless"
        with pytest.raises(StudyBusy, match=said), study_lock("pets", locks=tmp_path / "b", storage=database):
            pass
        with study_lock("birds", locks=tmp_path / "b", storage=database):
            pass
    with study_lock("pets", locks=tmp_path / "b", storage=database):
        pass
    assert run(database, "SELECT * FROM fttune_leases") == []


def test_an_owner_that_died_in_this_place_is_not_waited_for(database: str) -> None:
    dead = Lease(database, "pets", place="here")
    with pytest.raises(StudyBusy):
        Lease(database, "pets", place="there")
    next_one = Lease(database, "pets", place="here")
    dead.release()  # takes nothing from the next one
    next_one.require()
    assert len(run(database, "SELECT * FROM fttune_leases")) == 1
    next_one.release()


def test_places_differ_by_folder_and_stay(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
    assert place_of(tmp_path / "a") == place_of(tmp_path / "a") != place_of(tmp_path / "b")


def test_a_lease_is_renewed_while_its_owner_lives(database: str) -> None:
    lease = Lease(database, "pets", place="here", seconds=1.0)
    first = run(database, "SELECT until FROM fttune_leases")
    end = time.monotonic() + 30
    while run(database, "SELECT until FROM fttune_leases") == first:
        assert time.monotonic() < end
        time.sleep(0.05)
    lease.release()
    Lease(database, "pets", place="there").release()


def test_a_lease_that_was_taken_over_while_its_owner_was_silent_is_lost(database: str) -> None:
    now = [100.0]
    lease = Lease(database, "pets", place="here", clock=lambda: now[0])
    now[0] += 61
    lease.require()  # nobody took it meanwhile, so it goes on
    run(database, EXPIRE)
    other = Lease(database, "pets", place="there")
    now[0] += 59
    lease.require()  # within its time nobody can have taken it
    now[0] += 2
    with pytest.raises(StudyBusy, match=r"no longer this process's: it was silent for over 60 s, .* by process \d+ on"):
        lease.require()
    other.release()
    with pytest.raises(StudyBusy):  # for good
        lease.require()
    lease.release()


def test_an_owner_that_cannot_renew_its_lease_stops_when_that_has_run_out(
    postgres_server: postgres.Server, database: str
) -> None:
    now = [100.0]
    lease = Lease(database, "pets", place="here", clock=lambda: now[0])
    run(postgres_server.url(), f"ALTER DATABASE {database.rpartition('/')[2]} ALLOW_CONNECTIONS false")
    now[0] += 59
    lease.require()
    now[0] += 2
    with pytest.raises(CannotWrite, match="did not answer for 60 s, so another machine may have taken over") as told:
        lease.require()
    assert postgres.PASSWORD not in str(told.value)
    lease.release()


def test_no_transaction_is_committed_after_the_lease_was_taken_over(database: str) -> None:
    lease = Lease(database, "pets", place="here")
    engine = create_engine(database)
    lease.guard(engine)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE told (value int)"))
    with pytest.raises(StudyBusy, match="no longer this process's"), engine.begin() as connection:
        connection.execute(text("INSERT INTO told VALUES (1)"))
        run(database, EXPIRE)
        other = Lease(database, "pets", place="there")
    assert run(database, "SELECT * FROM told") == []
    other.release()
    lease.release()


def hold(url: str, locks: str, ready: Event) -> None:
    lease = Lease(url, "pets", place="asleep", seconds=1.0)
    storage = open_storage(url, locks=Path(locks), lease=lease)
    optuna.create_study(storage=storage, study_name="first")
    ready.set()
    while True:
        time.sleep(0.02)
        try:
            optuna.create_study(storage=storage)
        except StudyBusy as error:
            os._exit(7 if "no longer this process's" in str(error) else 8)


@pytest.mark.parametrize("order", [signal.SIGKILL, signal.SIGSTOP])
def test_a_dead_owner_loses_its_lease_and_one_that_slept_stores_nothing_more(
    order: signal.Signals, database: str, tmp_path: Path
) -> None:
    ready = multiprocessing.get_context("forkserver").Event()
    owner = processes.CONTEXT.Process(target=hold, args=(database, str(tmp_path), ready))
    owner.start()
    try:
        assert ready.wait(60) and owner.pid is not None
        os.kill(owner.pid, order)
        lease = taken_over(database, str(owner.pid))
        storage = open_storage(database, locks=tmp_path, lease=lease)
        before = optuna.get_all_study_names(storage)
        if order == signal.SIGSTOP:
            os.kill(owner.pid, signal.SIGCONT)
        owner.join(30)
        assert owner.exitcode == (7 if order == signal.SIGSTOP else -signal.SIGKILL)
        assert optuna.get_all_study_names(storage) == before
        lease.release()
    finally:
        owner.kill()


def taken_over(database: str, owner: str) -> Lease:
    """Return the lease once that of its silent owner has ended."""
    end = time.monotonic() + 30
    while True:
        try:
            return Lease(database, "pets", place="here", seconds=30)
        except StudyBusy as error:
            assert f"process {owner} on" in str(error)
            assert time.monotonic() < end
            time.sleep(0.1)


def test_who_only_reads_makes_no_table_of_leases(database: str, tmp_path: Path) -> None:
    assert opened(database, str(tmp_path)) == []
    assert run(database, "SELECT to_regclass('fttune_leases')") == [(None,)]
