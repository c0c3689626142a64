"""Studies in a PostgreSQL that several machines share; the server is a real one."""

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from sqlalchemy import NullPool, create_engine, text
from sqlalchemy.exc import ProgrammingError

import fttune
from fttune.config.workspace import Workspace
from fttune.errors import CannotWrite, StoreError, StudyBusy
from fttune.searching import open_storage, study_lock
from fttune.searching.leases import Lease
from tests import postgres, processes
from tests.recipes import tiny_study, write_study

pytestmark = [
    pytest.mark.postgres,
    pytest.mark.skipif(postgres.programs() is None, reason="needs PostgreSQL (Debian: postgresql)"),
]
LR = {"optimizer.lr": {"type": "float", "low": 1.0e-3, "high": 0.1, "log": True}}


@pytest.fixture(scope="module")
def server() -> Iterator[postgres.Server]:
    with postgres.server() as made:
        yield made


@pytest.fixture
def url(server: postgres.Server, request: pytest.FixtureRequest) -> str:
    """A database of its own."""
    name = f"t{abs(hash(request.node.name))}"
    with create_engine(server.url, isolation_level="AUTOCOMMIT", poolclass=NullPool).connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    return server.url.replace("/postgres", f"/{name}")


def opened(url: str, folder: str) -> list[str]:
    return list(optuna.get_all_study_names(open_storage(url, locks=Path(folder))))


def test_many_machines_may_open_a_new_database_at_once(url: str, tmp_path: Path) -> None:
    folders = [str(tmp_path / str(number)) for number in range(4)]  # so that no lock on this machine helps
    with processes.CONTEXT.Pool(4) as pool:
        assert pool.starmap(opened, [(url, folder) for folder in folders]) == [[]] * 4


def test_one_owner_at_a_time_and_the_other_is_told_who(url: str, tmp_path: Path) -> None:
    with study_lock("pets", locks=tmp_path / "a", storage=url) as lease:
        assert lease is not None
        said = rf"study pets is being searched by process {os.getpid()} on .*, whose lease ends in [56]\d s unless"
        with pytest.raises(StudyBusy, match=said), study_lock("pets", locks=tmp_path / "b", storage=url):
            pass
        with study_lock("birds", locks=tmp_path / "b", storage=url):
            pass
    with study_lock("pets", locks=tmp_path / "b", storage=url):
        pass


def test_a_lease_is_renewed_while_its_owner_lives(url: str) -> None:
    lease = Lease(url, "pets", place="here", seconds=0.4)
    time.sleep(1.2)
    with pytest.raises(StudyBusy):
        Lease(url, "pets", place="there", seconds=0.4)
    lease.release()
    Lease(url, "pets", place="there").release()


def hold(url: str, ready: "multiprocessing.synchronize.Event", seconds: float) -> None:
    lease = Lease(url, "pets", place="asleep", seconds=seconds)
    storage = open_storage(url, locks=Path(os.environ["LOCKS"]), lease=lease)
    optuna.create_study(storage=storage, study_name="first")
    ready.set()
    while True:
        time.sleep(0.02)
        try:
            optuna.create_study(storage=storage)
        except StudyBusy as error:
            os._exit(7 if "no longer this process's" in str(error) else 8)


def test_a_dead_owner_loses_its_lease_and_one_that_slept_stores_nothing_more(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCKS", str(tmp_path))
    context = multiprocessing.get_context("spawn")
    for wakes in (False, True):
        ready = context.Event()
        owner = context.Process(target=hold, args=(url, ready, 1.0))
        owner.start()
        assert ready.wait(60) and owner.pid is not None
        os.kill(owner.pid, signal.SIGSTOP if wakes else signal.SIGKILL)
        with pytest.raises(StudyBusy):
            Lease(url, "pets", place="here")
        time.sleep(1.3)
        lease = Lease(url, "pets", place="here", seconds=30)
        storage = open_storage(url, locks=tmp_path, lease=lease)
        before = len(optuna.get_all_study_names(storage))
        if wakes:
            os.kill(owner.pid, signal.SIGCONT)
            owner.join(30)
            assert owner.exitcode == 7
        assert len(optuna.get_all_study_names(storage)) == before
        optuna.delete_study(study_name="first", storage=storage)
        lease.release()
        owner.join(30)


def test_a_study_there_is_the_study_here(url: str, workspace: Workspace, tmp_path: Path) -> None:
    def trials(study: fttune.Study) -> list[tuple]:
        stored = fttune.search(study, workspace=workspace)
        return [(t.number, t.state, t.params, t.values) for t in stored.trials]

    fields = {"space": LR, "budget__n_trials": 4, "sampler": {"type": "tpe", "seed": 0}}
    here = trials(tiny_study(tmp_path, **fields))
    write_study(tmp_path, "there", storage=url, **fields)
    assert trials(fttune.load_study(tmp_path / "studies" / "there.yaml")) == here
    with create_engine(url, poolclass=NullPool).connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM fttune_leases")).scalar() == 0


def test_a_server_that_goes_ends_the_search_with_one_message_and_the_same_call_goes_on(
    workspace: Workspace, tmp_path: Path
) -> None:
    with postgres.server() as server:
        write_study(tmp_path, "there", storage=server.url, space=LR, budget__n_trials=4, batch=1)
        study = fttune.load_study(tmp_path / "studies" / "there.yaml")
        stops = iter([server.stop])

        def stop_once(entry: object) -> None:
            if "there/1" in str(entry):
                next(stops, lambda: None)()

        from fttune.app.search import search

        with pytest.raises(
            CannotWrite, match=r"does not answer \(.*\); run the same command again when it does"
        ) as told:
            search(study, workspace=workspace, display=stop_once)
        assert "secret" not in str(told.value)
        with pytest.raises(StoreError, match="see that it runs") as told:
            search(study, workspace=workspace)
        assert "secret" not in str(told.value)
        server.start()
        stored = search(study, workspace=workspace)  # the lease that could not be released is this place's own
        assert [t.state.name for t in stored.trials] == ["COMPLETE"] * 4


def test_no_table_of_leases_is_read_by_who_only_reads(url: str, tmp_path: Path) -> None:
    assert opened(url, str(tmp_path)) == []
    with (
        create_engine(url, poolclass=NullPool).connect() as connection,
        pytest.raises(ProgrammingError, match="fttune_leases"),
    ):
        connection.execute(text("SELECT * FROM fttune_leases"))
