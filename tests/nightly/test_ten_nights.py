"""Ten nights of one study over handwritten digits, the time passed in: what changes, what breaks, and who is champion.

Each learning rate of the grid is a night's trial: three that are as good as each other, and then a better one.
"""

import json
from collections.abc import Callable
from datetime import datetime

import pytest
from mlflow.tracking import MlflowClient

from fttune.config.workspace import Workspace
from fttune.nightly import room
from fttune.nightly.night import run_night
from fttune.nightly.standing import Folder
from fttune.report.night import StudyNight
from fttune.searching import counted, newest_generation, open_storage
from tests import processes
from tests.nightly.digits import Inline, write_digits, write_night_study

Nights = Callable[[int], StudyNight]
REFUSING = "http://127.0.0.1:9"  # the discard port, where nobody listens


@pytest.fixture
def night(workspace: Workspace) -> Nights:
    """Run the night of a day in December, in this process; return what came of the study."""
    write_digits(workspace.root / "digits", each=60)
    write_night_study(workspace.root)

    def run(day: int) -> StudyNight:
        folder = Folder.of(workspace.root / "studies")
        written = run_night(
            folder, 8.0, Inline(workspace), workspace=workspace, clock=lambda: datetime(2026, 12, day, 1)
        )
        (found,) = written.night.studies
        return found

    return run


def relabel(workspace: Workspace) -> None:
    """Let the threes be called nines."""
    (workspace.root / "digits" / "3").rename(workspace.root / "digits" / "9")


def version(workspace: Workspace) -> object:
    return MlflowClient(workspace.mlflow_uri).get_model_version_by_alias("digits", "champion")


def trials(workspace: Workspace) -> tuple[str, int]:
    stored = newest_generation("digits", open_storage(workspace.optuna_uri, locks=workspace.locks))
    assert stored is not None
    return stored.study_name, counted(stored)


def test_nights_of_unchanged_new_and_relabelled_images(workspace: Workspace, night: Nights) -> None:
    first = night(1)
    assert (first.state, first.trials, first.champion and first.champion.changed) == ("ended", 1, True)
    assert version(workspace).tags["fttune.study"] == "digits"
    second = night(2)
    assert (second.state, second.generation, second.trials, second.total) == ("ended", "digits", 1, 2)
    assert night(2) == second, "a night that ended runs nothing twice"
    write_digits(workspace.root / "digits", first=60, each=70)
    third = night(3)
    assert third.change is not None and third.change.startswith("images: 50 added")
    assert (third.generation, third.trials, third.alarm) == ("digits@2", 1, None)
    relabel(workspace)
    seventh = night(7)
    assert seventh.generation == "digits@3"
    assert seventh.change is not None and "70 relabelled (3 -> 9 70)" in seventh.change
    assert seventh.alarm is not None and "got worse on the changed data" in seventh.alarm
    assert not seventh.is_well


@pytest.mark.slow
def test_ten_nights(workspace: Workspace, night: Nights, monkeypatch: pytest.MonkeyPatch) -> None:
    assert night(1).is_well
    assert night(2).total == 2
    write_digits(workspace.root / "digits", first=60, each=70)
    assert night(3).generation == "digits@2"
    crowned = version(workspace).version

    # Night 4: killed amid its trial.
    words = ["nightly", "studies", "--study", "digits", "--night", "2026-12-04"]
    command = processes.start(*words, cwd=workspace.root, slow="os.fsync")
    command.wait_for("trial-0001")
    command.kill()
    fourth = night(4)
    assert (fourth.cause, fourth.state, fourth.trials) == (None, "ended", 1), "no trial twice, none lost"
    assert trials(workspace) == ("digits@2", 2)

    with monkeypatch.context() as full:
        full.setattr(room, "free_bytes", lambda _: 1_000_000)
        fifth = night(5)
    assert fifth.state == "failed" and "0.001 GB are free" in str(fifth.cause)
    assert trials(workspace) == ("digits@2", 2)

    write_night_study(workspace.root, tracking={"uri": REFUSING})
    sixth = night(6)
    assert sixth.state == "failed" and "does not answer" in str(sixth.cause)
    assert (sixth.trials, trials(workspace)) == (1, ("digits@2", 3)), "trials wait for no server"
    write_night_study(workspace.root)

    relabel(workspace)
    seventh = night(7)
    assert seventh.alarm is not None and "got worse on the changed data" in seventh.alarm
    assert seventh.generation == "digits@3"

    before = version(workspace)
    write_night_study(workspace.root, nightly={"trials_per_night": 2})
    eighth = night(8)
    assert (eighth.is_well, eighth.trials, eighth.champion and eighth.champion.changed) == (True, 2, False)
    assert version(workspace).version == before.version, "an equal challenger"

    write_night_study(workspace.root)
    ninth = night(9)
    assert ninth.is_well and ninth.champion is not None and ninth.champion.changed
    after = version(workspace)
    assert (after.tags["fttune.study"], after.tags["fttune.trial"]) == ("digits@3", "3")
    assert after.tags["fttune.openings"] in ninth.champion.why
    assert night(10).is_well
    assert int(after.version) > int(before.version) >= int(crowned)
    page = workspace.mlruns / "nightly" / "2026-12-10" / "summary.html"
    assert "All well" in page.read_text()
    states = [json.loads(file.read_text())["ok"] for file in sorted(workspace.mlruns.glob("nightly/*/night.json"))]
    assert states == [True, True, True, True, False, False, False, True, True, True]
