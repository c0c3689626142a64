"""A whole night with parts that are told what becomes of them: order, hours, failures, one at a time, the page."""

import json
import sys
from collections.abc import Callable, Mapping
from datetime import date, datetime, timedelta
from pathlib import Path

import pytest

from fttune.config import Study
from fttune.config.workspace import Workspace
from fttune.errors import BadInput, StudyBusy
from fttune.locks import held_alone
from fttune.nightly import process
from fttune.nightly.night import Written, planned, run_night
from fttune.nightly.process import ProcessRunner
from fttune.nightly.records import Records
from fttune.nightly.standing import Folder
from fttune.report.night import Night, StudyNight, Takeover
from fttune.report.night_page import as_html, as_markdown
from tests.recipes import tiny_study, write_study

NOW = datetime(2026, 12, 1, 23, 30)
Given = Mapping[str, StudyNight | str]


class Told:
    """A runner whose parts end as it is told: with a record, or a cause of death and none."""

    def __init__(self, workspace: Workspace, ends: Given) -> None:
        self.records, self.ends = Records.of(workspace), ends
        self.hours: dict[str, float] = {}

    def run(self, study: Study, night: date, hours: float) -> str | None:
        self.hours[study.name] = hours
        end = self.ends[study.name]
        if isinstance(end, str):
            return end
        self.records.keep(night, end)
        return None


def ended(study: str, *, hours: float = 0.5, **facts: object) -> StudyNight:
    return StudyNight(study, "ended", hours=hours, **facts)  # type: ignore[arg-type]


@pytest.fixture
def folder(workspace: Workspace) -> Folder:
    for name, weight in (("a", 1.0), ("b", 2.0), ("c", 1.0)):
        write_study(workspace.root, name, nightly={"weight": weight})
    return Folder.of(workspace.root / "studies")


@pytest.fixture
def night(workspace: Workspace, folder: Folder) -> Callable[..., Written]:
    def run(ends: Given, *, now: datetime = NOW, hours: float = 8.0, on_finish: str | None = None) -> Written:
        runner = Told(workspace, ends)
        found = run_night(folder, hours, runner, workspace=workspace, clock=lambda: now, on_finish=on_finish)
        run.hours = runner.hours  # type: ignore[attr-defined]
        return found

    return run


ALL = {name: ended(name) for name in "abc"}


def test_what_a_study_leaves_of_its_hours_goes_to_those_after_it(night: Callable[..., Written]) -> None:
    night(ALL)
    # b is the heaviest: 2/4 of 8 hours; of the 7.5 that are left a gets 1/2, and c all of the rest.
    assert night.hours == pytest.approx({"b": 4.0, "a": 3.75, "c": 7.0})  # type: ignore[attr-defined]


def test_a_study_that_fails_or_dies_stops_no_other_one(night: Callable[..., Written]) -> None:
    failed = StudyNight("a", "failed", "the disk is full")
    found = night({**ALL, "a": failed, "b": "killed by SIGKILL (out of memory, or kill -9)"}).night
    states = {one.study: (one.state, one.cause) for one in found.studies}
    assert states == {
        "a": ("failed", "the disk is full"),
        "b": ("failed", "killed by SIGKILL (out of memory, or kill -9)"),
        "c": ("ended", None),
    }
    assert not found.is_well


def test_a_file_that_is_no_study_fails_alone(workspace: Workspace) -> None:
    write_study(workspace.root, "a")
    (workspace.root / "studies" / "broken.yaml").write_text("budget: 5\n")
    folder = Folder.of(workspace.root / "studies")
    found = run_night(folder, 8.0, Told(workspace, ALL), workspace=workspace, clock=lambda: NOW).night
    assert [(one.study, one.state) for one in found.studies] == [("a", "ended"), ("broken", "failed")]
    with pytest.raises(BadInput, match=r"broken\.yaml"):
        folder.study("broken")


def test_a_folder_without_a_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="holds no study"):
        Folder.of(tmp_path)


def test_no_study_begins_when_the_hours_are_over(night: Callable[..., Written]) -> None:
    found = night({**ALL, "b": ended("b", hours=8.2)}).night
    assert found.skipped == {"a": "the hours of the night were over", "c": "the hours of the night were over"}
    assert found.is_well


def test_a_night_that_was_cut_off_goes_on_after_midnight_with_the_hours_that_are_left(
    night: Callable[..., Written], workspace: Workspace
) -> None:
    class Stopped(BaseException):
        pass

    class Cut(Told):
        def run(self, study: Study, night: date, hours: float) -> str | None:
            if study.name == "a":
                raise Stopped
            return super().run(study, night, hours)

    folder = Folder.of(workspace.root / "studies")
    with pytest.raises(Stopped):
        run_night(folder, 8.0, Cut(workspace, ALL), workspace=workspace, clock=lambda: NOW)
    later = NOW + timedelta(hours=1)
    assert planned(folder, 8.0, workspace=workspace, now=later).night == NOW.date()
    found = night(ALL, now=later).night
    assert found.night == NOW.date()
    assert [one.study for one in found.studies] == ["a", "b", "c"]
    assert planned(folder, 8.0, workspace=workspace, now=later).night == later.date(), "it has ended"


def test_one_night_at_a_time_and_the_second_is_told_who_runs(
    night: Callable[..., Written], workspace: Workspace
) -> None:
    with (
        held_alone(workspace.locks / "nightly.lock", "a night is being run here"),
        pytest.raises(StudyBusy, match=r"by process \d+ on .*, since 2"),
    ):
        night(ALL)
    assert night(ALL).night.is_well


def test_a_command_gets_the_night_on_its_standard_input(night: Callable[..., Written], tmp_path: Path) -> None:
    script = tmp_path / "tell.py"
    script.write_text("import sys, pathlib; pathlib.Path(sys.argv[1]).write_text(sys.stdin.read())")
    written = night(ALL, on_finish=f"{sys.executable} {script} '{tmp_path}/got it.json'")
    got = (tmp_path / "got it.json").read_text()
    assert Night.of_json(got) == written.night
    assert json.loads(got)["ok"] is True


@pytest.mark.parametrize("command", ["no-such-command-anywhere", "false", "'"])
def test_a_command_that_fails_is_a_problem_of_the_night(night: Callable[..., Written], command: str) -> None:
    written = night(ALL, on_finish=command)
    assert not written.night.is_well
    assert f"--on-finish {command}" in written.page.with_suffix(".md").read_text()


def test_a_part_is_told_to_stop_when_its_hours_are_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = tiny_study(tmp_path)
    told = tmp_path / "told"
    monkeypatch.setattr(
        process,
        "START",
        "import signal, sys, time, pathlib\n"
        f"signal.signal(signal.SIGTERM, lambda *_: (pathlib.Path({str(told)!r}).write_text(' '.join(sys.argv[1:])),"
        " sys.exit(143)))\ntime.sleep(60)",
    )
    assert ProcessRunner(["studies"]).run(study, NOW.date(), 2 / 3600) is None
    assert told.read_text() == "nightly studies --study tiny --night 2026-12-01"


@pytest.mark.parametrize(
    ("start", "cause"),
    [
        ("", None),
        ("raise SystemExit(1)", "ended amid its work with exit code 1"),
        ("import os; os.kill(os.getpid(), 9)", "killed by SIGKILL (out of memory, or kill -9)"),
    ],
)
def test_how_a_part_ended_is_told(
    start: str, cause: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "START", start)
    assert ProcessRunner(["studies"]).run(tiny_study(tmp_path), NOW.date(), 1.0) == cause


def test_the_page_tells_what_deserves_a_look_and_escapes_what_others_wrote() -> None:
    one = ended(
        "pets",
        generation="pets@2",
        change="images: 3 added (<b> 3)",
        metric="val/accuracy",
        best=0.9,
        low=0.88,
        high=0.92,
        trials=4,
        total=20,
        champion=Takeover("trial 3 takes over", changed=True, version="2", trial="trial 3 of pets@2"),
        alarm="the champion got worse",
        failures={"lr too high": 2},
    )
    before = Night(date(2026, 12, 1), "", "", 8.0, (ended("pets", metric="val/accuracy", best=0.8),))
    found = Night(date(2026, 12, 2), "2026-12-02 01:00:00", "2026-12-02 05:00:00", 8.0, (one,), {"b": "not due"})
    html, markdown = as_html(found, [before]), as_markdown(found, [before])
    for text in (
        "1 raised an alarm",
        "the champion got worse",
        "lr too high",
        "0.9 (0.88 .. 0.92)",
        "trial 3 takes over",
    ):
        assert text in html
        assert text in markdown
    assert "images: 3 added (&lt;b&gt; 3)" in html
    assert "pets: best value by night" in html
    assert "default-src 'none'" in html
    assert Night.of_json(found.as_json()) == found
