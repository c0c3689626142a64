"""What fttune makes is its owner's alone, whatever the process's umask allows."""

import os
import stat
from pathlib import Path

from tests import processes
from tests.recipes import write_experiment, write_study

SEARCH = ("search", "studies/tiny.yaml", "--set", "budget.n_trials=1")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_no_other_user_can_read_a_store_that_a_search_has_made(tmp_path: Path) -> None:
    write_study(tmp_path)
    code, _, err = processes.run(*SEARCH, cwd=tmp_path)
    assert code == 0, err
    assert mode(tmp_path / "mlruns") == 0o700
    assert {file.name: mode(file) for file in (tmp_path / "mlruns").glob("*.db")} == {
        "mlflow.db": 0o600,
        "optuna.db": 0o600,
    }
    assert not [path for path in (tmp_path / "mlruns").rglob("*") if path.is_symlink()]
    assert "every user" not in err


def test_a_folder_that_is_there_stays_as_its_owner_made_it_and_a_loose_one_is_told(
    tmp_path: Path, empty_stores: Path
) -> None:
    write_experiment(tmp_path)
    loose = tmp_path / "mlruns"
    loose.mkdir()
    loose.chmod(0o777)
    (loose / "mlflow.db").write_bytes((empty_stores / "mlflow.db").read_bytes())
    (loose / "mlflow.db").chmod(0o664)
    code, _, err = processes.run("train", "experiments/tiny.yaml", cwd=tmp_path)
    assert code == 0, err
    assert (mode(loose), mode(loose / "mlflow.db")) == (0o777, 0o664)
    assert f"{os.fspath(loose)}: every user may write to it" in err
