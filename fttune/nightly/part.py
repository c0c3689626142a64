"""One study's part of a night: what changed in its data, trials, confirmation and champion; and what came of them."""

import time
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from datetime import date
from functools import partial

from fttune import searching
from fttune.app.attempts import Watch
from fttune.app.champion import Contest, contest, reevaluate
from fttune.app.generations import data_change, next_generation
from fttune.app.search import search
from fttune.app.session import Display
from fttune.app.studies import newest
from fttune.app.workers import gpus_of
from fttune.config import Study
from fttune.config.workspace import Workspace
from fttune.errors import FttuneError, Interrupted, TrackingFailed
from fttune.nightly.records import Records
from fttune.nightly.room import require_room
from fttune.report.night import ENDED, FAILED, UNFINISHED, StudyNight
from fttune.report.statistics import interval

CUT_OFF = "its process ended before it could say why"


def run_part(
    study: Study, night: date, *, workspace: Workspace, display: Display | None = None, watch: Watch | None = None
) -> StudyNight:
    """Run a study's part of a night, and keep what came of it however it ends; the same call goes on after a kill.

    What fails is told in what is returned. `watch` is as in `app.search`.

    Raises:
        Interrupted: its hours are over, or somebody stopped it.
    """
    part = _Part(study, night, workspace, display, Records.of(workspace))
    part.keep(state=FAILED, cause=CUT_OFF)
    try:
        part.run(watch)
        return part.keep(state=ENDED, cause=None)
    except (Interrupted, KeyboardInterrupt):
        part.look()
        part.keep(state=UNFINISHED, cause="its hours were over, or it was stopped")
        raise
    except FttuneError as error:
        part.look()
        return part.keep(state=FAILED, cause=str(error))


class _Part:
    """What is known of a study's part so far, on disk too."""

    def __init__(
        self, study: Study, night: date, workspace: Workspace, display: Display | None, records: Records
    ) -> None:
        self._study, self._night, self._workspace, self._display = study, night, workspace, display
        self._records, self._started, self._gpus = records, time.monotonic(), 0.0
        # A part that was cut off still tells, as it goes on, what it had found and how long it had taken.
        self._before = records.study(night, study.name) or self._beginning()
        self._found = replace(self._before, metric=study.metric)

    def keep(self, *, state: str, cause: str | None) -> StudyNight:
        """Write down what is known, and return it."""
        hours = (time.monotonic() - self._started) / 3600
        self._found = replace(
            self._found,
            state=state,
            cause=cause,
            hours=self._before.hours + hours,
            gpu_hours=self._before.gpu_hours + hours * self._gpus,
        )
        self._records.keep(self._night, self._found)
        return self._found

    def run(self, watch: Watch | None) -> None:
        """Run it to its end. Raises as `search` and `contest` do."""
        study, workspace, display = self._study, self._workspace, self._display
        self._gpus = gpus_of(study)
        require_room(study, workspace)
        change = data_change(study, workspace=workspace, display=display)
        if change is not None:
            self._found = replace(self._found, change=str(change))
        with suppress(TrackingFailed):  # trials need no server; the contest does, and says that it does not answer
            if alarm := reevaluate(study, self._night, workspace=workspace, display=display):
                self._found = replace(self._found, alarm=alarm)
        self.keep(state=FAILED, cause=CUT_OFF)
        begun = study if change is None else next_generation(study, workspace=workspace)
        total = partial(searching.raise_total, tonight=self._night, nightly=study.nightly)
        new = change is not None
        search(begun, workspace=workspace, new=new, display=display, watch=watch, total=total)
        self.look()
        if self._found.best is not None:
            self._judge(contest(study, workspace=workspace, display=display))

    def look(self) -> None:
        """Look at the trials, however far they came."""
        if (stored := newest(self._study, self._workspace)) is None:
            return
        first = self._found.from_trial if stored.study_name == self._found.from_generation else 0
        tonight = [trial for trial in stored.get_trials(deepcopy=False)[first:] if trial.state.is_finished()]
        facts = [found for trial in tonight if (found := searching.facts_of(trial)) is not None]
        causes = Counter(one.cause or one.state for one in facts if one.state not in ("complete", "pruned"))
        best = searching.ranked(stored)
        self._found = replace(
            self._found,
            generation=stored.study_name,
            trials=sum(one.state != "failed" for one in facts),
            total=searching.counted(stored),
            failures=dict(causes),
            best=best[0].values[0] if best else None,
            low=None,
            high=None,
        )

    def _judge(self, found: Contest) -> None:
        winner = found.confirmation.candidates[0]
        around = interval([value for value in winner.val if value is not None])
        low, high = (around.low, around.high) if len(winner.val) > 1 else (None, None)
        self._found = replace(self._found, champion=found.takeover, best=around.mean, low=low, high=high)

    def _beginning(self) -> StudyNight:
        """Return what is known before anything was done: from which trial on this night's are."""
        begun = StudyNight(self._study.name, FAILED, metric=self._study.metric)
        if (stored := newest(self._study, self._workspace)) is None:
            return begun
        trials = stored.get_trials(deepcopy=False)
        first = next((trial.number for trial in trials if not trial.state.is_finished()), len(trials))
        return replace(begun, from_generation=stored.study_name, from_trial=first)
