"""A whole night: one at a time, study after study, each for its share of the hours; then the summary."""

import shlex
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from pathlib import Path
from typing import Protocol

from fttune.config import Study
from fttune.config.workspace import Workspace
from fttune.files import remove_leftovers, write_text
from fttune.locks import held_alone
from fttune.nightly.part import CUT_OFF
from fttune.nightly.plan import Plan, hours_of, plan
from fttune.nightly.records import Records
from fttune.nightly.room import disk_used
from fttune.nightly.standing import Folder, standings
from fttune.report.night import FAILED, Night, StudyNight
from fttune.report.night_page import as_html, as_markdown

ON_FINISH_SECONDS = 600.0
SHORTEST_HOURS = 1 / 60  # what is left of a night must be as long for another study to begin
Clock = Callable[[], datetime]


class Runner(Protocol):
    """What runs a study's part of a night: for so many hours, then it is ended in order."""

    def run(self, study: Study, night: date, hours: float) -> str | None:
        """Return what its process died of, None where it kept its own record."""


@dataclass(frozen=True)
class Written:
    """A night that ended, and its page."""

    night: Night
    page: Path


def planned(folder: Folder, budget_hours: float, *, workspace: Workspace, now: datetime) -> Plan:
    """Return the plan of the night that begins now, or goes on; nothing is changed."""
    tonight = Records.of(workspace).tonight(now)
    return plan(standings(folder, tonight, workspace), tonight, budget_hours)


def run_night(
    folder: Folder,
    budget_hours: float,
    runner: Runner,
    *,
    workspace: Workspace,
    clock: Clock = datetime.now,
    on_finish: str | None = None,
) -> Written:
    """Run the studies of a folder that are due, and return what came of the night.

    A study that fails stops no other one. A night that was cut off goes on by the same call.

    Args:
        folder: from `Folder.of`.
        budget_hours: of the night, over all of its attempts.
        runner: runs each study.
        workspace: where `mlruns/` lies.
        clock: what time it is.
        on_finish: a command that gets the night as JSON on its standard input.

    Raises:
        StudyBusy: another process runs a night here.
    """
    with held_alone(workspace.locks / "nightly.lock", "a night is being run here"):
        records = Records.of(workspace)
        tonight = records.begin(clock())
        remove_leftovers(workspace.mlruns, apart_from=workspace.artifacts)
        found = _Night(folder, budget_hours, runner, records, workspace, tonight, clock).run()
        page = _write(found, records)
        if on_finish and (problem := _finish(on_finish, found)):
            found = replace(found, problems=(*found.problems, problem))
            page = _write(found, records)
        return Written(found, page)


@dataclass
class _Night:
    folder: Folder
    budget_hours: float
    runner: Runner
    records: Records
    workspace: Workspace
    tonight: date
    clock: Clock
    _problems: list[str] = field(default_factory=list)

    def run(self) -> Night:
        """Run the studies in the order of the plan."""
        made = plan(standings(self.folder, self.tonight, self.workspace), self.tonight, self.budget_hours)
        skipped = {one.study: one.why for one in made.skipped}
        waiting = list(made.shares)
        while waiting:
            left = self.budget_hours - self._spent()
            share = waiting.pop(0)
            (hours, *_) = hours_of([share.weight, *(one.weight for one in waiting)], left)
            if hours < SHORTEST_HOURS and hours < share.hours:
                skipped[share.study] = "the hours of the night were over"
                continue
            self._run(self.folder.studies[share.study], hours)
        for name, problem in self.folder.problems.items():
            self.records.keep(self.tonight, StudyNight(name, FAILED, problem))
        begun = self.records.begun(self.tonight)
        return Night(
            self.tonight,
            begun.isoformat(" ", "seconds"),
            self.clock().isoformat(" ", "seconds"),
            self.budget_hours,
            tuple(self.records.studies(self.tonight)),
            {name: why for name, why in skipped.items() if self.records.study(self.tonight, name) is None},
            tuple(self._problems),
            disk_used(self.workspace),
        )

    def _run(self, study: Study, hours: float) -> None:
        died = self.runner.run(study, self.tonight, hours)
        known = self.records.study(self.tonight, study.name) or StudyNight(study.name, FAILED, CUT_OFF)
        if known.cause == CUT_OFF:
            self.records.keep(self.tonight, replace(known, state=FAILED, cause=died or CUT_OFF))

    def _spent(self) -> float:
        return sum(one.hours for one in self.records.studies(self.tonight))


def _write(night: Night, records: Records) -> Path:
    """Write the page, and last what makes the night an ended one; return the page."""
    place = records.of_night(night.night)
    history = [one for one in records.nights() if one.night < night.night]
    write_text(place / "summary.md", as_markdown(night, history))
    write_text(page := place / "summary.html", as_html(night, history))
    records.close(night)
    return page


def _finish(command: str, night: Night) -> str | None:
    """Give a command the night as JSON on its standard input; return what went wrong."""
    try:
        words = shlex.split(command)
        done = subprocess.run(words, input=night.as_json(), text=True, timeout=ON_FINISH_SECONDS, check=False)
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        return f"--on-finish {command}: {error}"
    return f"--on-finish {command}: ended with exit code {done.returncode}" if done.returncode else None
