"""Studies whose stores lie in a PostgreSQL that several machines share; the server is a real one.

Another machine is another generated folder here: neither file locks nor the place of the lease are the same there.
"""

import json
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest

import fttune
from fttune.app.confirm import confirm
from fttune.config import Study
from fttune.config.workspace import Workspace
from fttune.errors import CannotWrite, StoreError, StudyBusy
from fttune.searching import study_lock
from fttune.training.events import Entry, EpochEnded
from tests import postgres, processes
from tests.postgres import run
from tests.recipes import write_experiment, write_study
from tests.stored import history_of, runs_of

pytestmark = pytest.mark.postgres
LR = {"optimizer.lr": {"type": "float", "low": 1.0e-3, "high": 0.1, "log": True}}
TPE = {"type": "tpe", "seed": 0}
TAKE = "UPDATE fttune_leases SET owner = 'process 7 on far-away', token = 'another', place = 'elsewhere'"
COUNT = "SELECT count(*) FROM trials WHERE state IN ('COMPLETE', 'PRUNED')"


@pytest.fixture(autouse=True)
def no_connection_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow would leave its connections to the garbage collector, which warns of them."""
    monkeypatch.setenv("MLFLOW_SQLALCHEMYSTORE_POOLCLASS", "NullPool")


def study_of(root: Path, **fields: Any) -> Study:
    return fttune.load_study(write_study(root, **{"space": LR, "budget__n_trials": 4, "sampler": TPE, **fields}))


def trials_of(stored: optuna.Study) -> list[tuple[Any, ...]]:
    """Return all that Optuna knows of each trial, but times."""
    timed = {"seconds", "elapsed_seconds"}
    found = []
    for trial in stored.trials:
        facts = {name: value for name, value in json.loads(trial.user_attrs["fttune"]).items() if name not in timed}
        reported = trial.intermediate_values
        found.append((trial.number, trial.state, trial.params, trial.values, reported, trial.distributions, facts))
    return found


def points_of(uri: str) -> dict[str, list[tuple[int, float]]]:
    runs = runs_of(uri).to_dict("records")
    return {
        one["tags.fttune.run"]: [(point.step, point.value) for point in history_of(uri, one["run_id"], "train/loss")]
        for one in runs
        if one["tags.fttune.kind"] == "trial"
    }


def test_a_study_on_postgresql_is_the_study_on_sqlite_to_the_last_bit(
    postgres_server: postgres.Server, database: str, workspace: Workspace, tmp_path: Path
) -> None:
    median = {"type": "median", "startup_trials": 1}
    here = fttune.search(study_of(tmp_path, pruner=median), workspace=workspace)
    points = points_of(workspace.mlflow_uri)
    shutil.rmtree(workspace.mlruns)
    tracking = postgres_server.new_database()
    there = fttune.search(
        study_of(tmp_path, pruner=median, storage=database, tracking={"uri": tracking}), workspace=workspace
    )
    assert trials_of(there) == trials_of(here)
    assert points_of(tracking) == points
    assert len(points) == 4
    assert run(database, "SELECT * FROM fttune_leases") == []
    assert not list(workspace.mlruns.glob("*.db"))
    assert_untold(postgres.PASSWORD, workspace.mlruns)
    assert_untold_in(postgres.PASSWORD, database)
    assert_untold_in(postgres.PASSWORD, tracking)
    assert list(workspace.artifacts.rglob("best.safetensors"))


def assert_untold(secret: str, folder: Path) -> None:
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert files
    assert [file for file in files if secret.encode() in file.read_bytes()] == []


def assert_untold_in(secret: str, database: str) -> None:
    """Look at each row of each table."""
    for (table,) in run(database, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"):
        assert run(database, f'SELECT 1 FROM "{table}" t WHERE t::text LIKE :secret', secret=f"%{secret}%") == [], table


def test_the_second_of_two_commands_leaves_and_after_kill_9_the_same_one_goes_on_to_the_exact_total(
    database: str, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", postgres.PASSWORD)
    bare = database.replace(f":{postgres.PASSWORD}", "")
    file = str(write_study(tmp_path, space=LR, storage=bare, budget__n_trials=6, batch=1))
    shutil.copytree(workspace.mlruns, other := tmp_path / "other")
    first = processes.start("search", file, cwd=tmp_path, slow="os.fsync")
    wait_for_trials(first, database, 2)
    code, _, said = processes.run("search", file, "--mlruns", str(other), cwd=tmp_path)
    assert (code, said.count("study tiny is being searched by process")) == (1, 1), said
    first.kill()
    assert run(database, "SELECT count(*) FROM fttune_leases") == [(1,)], "it died with its lease"
    code, _, said = processes.run("search", file, cwd=tmp_path)
    assert code == 0, said
    stored = optuna.load_study(study_name="tiny", storage=database)
    assert [trial.state.name for trial in stored.trials] == ["COMPLETE"] * 6
    stored._storage._backend.engine.dispose()  # type: ignore[attr-defined]
    assert_untold(postgres.PASSWORD, tmp_path)


def wait_for_trials(command: processes.Command, database: str, count: int) -> None:
    command.wait_for("trial")
    while run(database, COUNT)[0][0] < count:
        assert command.process.is_alive(), command.err.read_text()


def once(reached: Callable[[Entry], bool], act: Callable[[], object]) -> Callable[[Entry], None]:
    """Return a display that does something at the first entry that fits."""
    left: Iterator[Callable[[], object]] = iter([act])

    def display(entry: Entry) -> None:
        if reached(entry):
            next(left, lambda: None)()

    return display


def is_epoch(run_key: str, number: int) -> Callable[[Entry], bool]:
    return lambda entry: isinstance(entry.event, EpochEnded) and (entry.run, entry.event.epoch) == (run_key, number)


def test_an_owner_that_finds_its_lease_taken_tells_nothing_more(
    database: str, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fttune.searching.leases.LEASE_SECONDS", 0.0)  # it has always been silent for so long
    write_experiment(tmp_path, training__epochs=3)
    study = study_of(tmp_path, storage=database, batch=1, budget__n_trials=3)
    taken = once(is_epoch("tiny/1", 2), lambda: run(database, TAKE))
    with pytest.raises(StudyBusy, match=r"no longer this process's: .* by process 7 on far-away, whose lease ends in"):
        fttune.search(study, workspace=workspace, display=taken)
    assert run(database, "SELECT number, state::text FROM trials ORDER BY number") == [(0, "COMPLETE"), (1, "RUNNING")]
    points = points_of(workspace.mlflow_uri)
    assert len(points["tiny/0"]) == 3
    assert len(points.get("tiny/1", [])) <= 2
    runs = runs_of(workspace.mlflow_uri).set_index("tags.fttune.run")
    assert runs.loc["tiny", "status"] == "RUNNING", "its end is the new owner's affair"

    run(database, "DELETE FROM fttune_leases")
    monkeypatch.undo()
    stored = fttune.search(study, workspace=workspace)
    assert [trial.state.name for trial in stored.trials] == ["COMPLETE"] * 3
    assert {name: len(one) for name, one in points_of(workspace.mlflow_uri).items()} == {
        f"tiny/{n}": 3 for n in range(3)
    }


def test_a_confirmation_needs_the_lease_too(database: str, workspace: Workspace, tmp_path: Path) -> None:
    study = study_of(tmp_path, storage=database, budget__n_trials=2, confirm={"top_k": 1, "seeds": 2})
    fttune.search(study, workspace=workspace)
    with (
        study_lock(study.name, locks=tmp_path / "elsewhere", storage=database),
        pytest.raises(StudyBusy, match="study tiny is being searched by process"),
    ):
        confirm(study, workspace=workspace)
    found = confirm(study, workspace=workspace)
    assert confirm(study, workspace=workspace) == found, "it is stored"
    assert run(database, "SELECT * FROM fttune_leases") == []


def set_read_only(server: postgres.Server, database: str, value: str) -> None:
    """Let a database take nothing, or again, from all who are connected or will be."""
    name = database.rpartition("/")[2]
    run(server.url(), f"ALTER DATABASE {name} SET default_transaction_read_only = {value}")
    run(server.url(), f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")


@pytest.mark.parametrize("gone", ["server", "rights"])
def test_a_database_that_takes_nothing_more_ends_the_search_with_one_message_and_the_same_call_goes_on(
    gone: str, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fttune.searching.database.PATIENCE_SECONDS", 0.1)
    with postgres.server() as server:
        url = server.new_database()
        study = study_of(tmp_path, storage=url, batch=1)
        act = {
            "server": server.stop,
            "rights": lambda: (
                run(url, f"ALTER DATABASE {url.rpartition('/')[2]} SET default_transaction_read_only = on")
                + run(
                    server.url(), "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
                )
            ),
        }[gone]
        shown = f"postgresql://fttune@127.0.0.1:{server.port}/"
        said = rf"{shown}\w+: the database did not take what was to be stored \(.*\); see to it, then run the same"
        with pytest.raises(CannotWrite, match=said) as told:
            fttune.search(study, workspace=workspace, display=once(is_epoch("tiny/1", 1), act))
        assert postgres.PASSWORD not in str(told.value)
        if gone == "server":
            with pytest.raises(StoreError, match="see that it runs") as refused:
                fttune.search(study, workspace=workspace)
            assert postgres.PASSWORD not in str(refused.value)
            server.start()
        else:
            set_read_only(server, url, "off")
        stored = fttune.search(study, workspace=workspace)  # the lease that was not released is this place's own
        assert [trial.state.name for trial in stored.trials] == ["COMPLETE"] * 4
        assert all("fttune.failed_attempts" not in trial.user_attrs for trial in stored.trials)


@pytest.mark.parametrize("seconds", [0.0, 1.0])
def test_a_server_that_restarts_amid_a_study_fails_none(seconds: float, workspace: Workspace, tmp_path: Path) -> None:
    with postgres.server() as server:
        study = study_of(tmp_path, storage=server.new_database(), batch=1)
        starting = threading.Timer(seconds, server.start)

        def restart() -> None:
            server.stop()
            starting.start()
            if not seconds:
                starting.join()

        stored = fttune.search(study, workspace=workspace, display=once(is_epoch("tiny/1", 1), restart))
        starting.join()
        assert [trial.state.name for trial in stored.trials] == ["COMPLETE"] * 4


def test_a_command_that_sleeps_past_its_lease_stores_nothing_when_it_wakes(
    database: str,
    workspace: Workspace,  # noqa: ARG001
    tmp_path: Path,
) -> None:
    file = str(write_study(tmp_path, space=LR, storage=database, budget__n_trials=30, batch=1))
    command = processes.start("search", file, cwd=tmp_path, slow="os.fsync")
    wait_for_trials(command, database, 1)
    command.send(signal.SIGSTOP, group=True)
    run(database, TAKE)  # as whoever comes after the lease's end
    before = run(database, "SELECT number, state::text FROM trials ORDER BY number")
    command.send(signal.SIGCONT, group=True)
    assert command.wait() == 1
    assert "study tiny is no longer this process's" in command.err.read_text()
    assert "process 7 on far-away" in command.err.read_text()
    assert run(database, "SELECT number, state::text FROM trials ORDER BY number") == before
