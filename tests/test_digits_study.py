"""The shipped study, run as a user runs it: whole, and killed at three moments."""

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import optuna
import pytest

from tests import processes
from tests.stored import history_of, runs_of

ROOT = Path(__file__).parent.parent
COMMAND = ("search", "studies/digits.yaml", "--json")


def workplace(folder: Path, stores: Path) -> Path:
    """Make a folder with the shipped recipes and empty stores."""
    for name in ("experiments", "studies"):
        shutil.copytree(ROOT / name, folder / name)
    (folder / "mlruns").mkdir()
    for name in ("optuna.db", "mlflow.db"):
        shutil.copy(stores / name, folder / "mlruns" / name)
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, empty_stores: Path) -> tuple[Path, dict[str, Any]]:
    """The folder and the result of the study, run without interruption."""
    folder = workplace(tmp_path_factory.mktemp("whole"), empty_stores)
    code, out, err = processes.run(*COMMAND, cwd=folder)
    assert code == 0, err
    return folder, json.loads(out)


def trials_of(result: dict[str, Any]) -> list[dict[str, Any]]:
    return [{k: v for k, v in trial.items() if k != "seconds"} for trial in result["trials"]]


def uri_of(folder: Path) -> str:
    return f"sqlite:///{folder / 'mlruns' / 'mlflow.db'}"


def test_plain_tools_read_one_parent_and_24_children(whole: tuple[Path, dict[str, Any]]) -> None:
    folder, result = whole
    frame = runs_of(uri_of(folder), "digits")
    assert frame["tags.fttune.kind"].value_counts().to_dict() == {"trial": 24, "study": 1}
    study = optuna.load_study(study_name="digits", storage=f"sqlite:///{folder / 'mlruns' / 'optuna.db'}")
    assert len(study.trials) == 24
    assert {t.state.name for t in study.trials} <= {"COMPLETE", "PRUNED"}
    assert study.best_value == max(t["value"] for t in result["trials"] if t["state"] == "complete")


def test_the_baselines_are_the_first_trials(whole: tuple[Path, dict[str, Any]]) -> None:
    by_number = {trial["number"]: trial for trial in whole[1]["trials"]}
    assert [by_number[n]["freeze.unfrozen_stages"] for n in (0, 1)] == [0, 4]
    assert [by_number[n]["optimizer.lr"] for n in (0, 1)] == [0.03, 0.03]


@pytest.mark.slow
def test_a_search_killed_three_times_ends_as_if_it_had_never_been(
    whole: tuple[Path, dict[str, Any]], tmp_path: Path, empty_stores: Path
) -> None:
    folder = workplace(tmp_path / "killed", empty_stores)
    for moment in ("trial-0000: trainable", "trial-0009:", "trial-0017: trainable"):
        command = processes.start(*COMMAND, cwd=folder)
        command.wait_for(moment)
        command.send(signal.SIGKILL)
        assert command.wait() == -signal.SIGKILL
    code, out, err = processes.run(*COMMAND, cwd=folder)
    assert code == 0, err
    assert trials_of(json.loads(out)) == trials_of(whole[1])

    frame = runs_of(uri_of(folder), "digits")
    assert frame["tags.fttune.kind"].value_counts().to_dict() == {"trial": 24, "study": 1}
    assert "RUNNING" not in set(frame["status"])
    for run_id in frame[frame["tags.fttune.kind"] == "trial"]["run_id"]:
        steps = [point.step for point in history_of(uri_of(folder), run_id, "val/accuracy")]
        assert steps == list(range(1, len(steps) + 1))
