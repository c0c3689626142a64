"""A study's `retention`: trials that have ended lose their checkpoints, but for the best; so do old confirmations."""

import json
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fttune import searching
from fttune.app.session import Session
from fttune.config import Study
from fttune.training.events import KEEP, REMOVED, STUDY_ID, CheckpointExpired

if TYPE_CHECKING:
    import optuna

SETTLED = "fttune.retention"


@dataclass
class Retained:
    """The trials of a study that keep their checkpoints, found anew as trials end.

    Each trial is set against those kept so far, in the order of the numbers, so a search that starts again decides the
    same. The study remembers below which number all is settled (`SETTLED`, with the rule that held then): a start asks
    nothing of MLflow about older trials.
    """

    study: Study
    session: Session
    stored: "optuna.Study"
    _kept: "list[optuna.trial.FrozenTrial]" = field(default_factory=list)
    _size: int = 0
    _unfinished: list[int] = field(default_factory=list)
    _settled: int = field(init=False)

    def __post_init__(self) -> None:
        rule, number = json.loads(self.stored.user_attrs.get(SETTLED, '["all", 0]'))
        self._settled = number if rule == self.study.retention.keep else 0

    def update(self) -> None:
        """Say whose checkpoints expire, now that more trials have ended."""
        keep = self.study.retention.best
        if keep is None:
            return
        if self._through - self._settled >= self.study.batch:
            self._remember()
        for trial in self._newly_ended():
            self._kept, gone = searching.retained([*self._kept, trial], keep=keep, directions=self.stored.directions)
            for expired in gone if trial.number >= self._settled else ():
                self._expire(expired.number)

    def settle(self) -> None:
        """Do that for the last trials too, and remember it. Raises CannotWrite."""
        self.update()
        if self._through > self._settled:
            self._remember()

    @property
    def _through(self) -> int:
        """The number below which every trial was looked at."""
        return min(self._unfinished, default=self._size)

    def _remember(self) -> None:
        self.session.deliver()
        self._settled = self._through
        self.stored.set_user_attr(SETTLED, json.dumps([self.study.retention.keep, self._settled]))

    def _newly_ended(self) -> "list[optuna.trial.FrozenTrial]":
        trials = self.stored.get_trials(deepcopy=False)
        looked_at = [*self._unfinished, *range(self._size, len(trials))]
        self._size = len(trials)
        self._unfinished = [number for number in looked_at if not trials[number].state.is_finished()]
        return [trials[number] for number in looked_at if trials[number].state.is_finished()]

    def _expire(self, number: int) -> None:
        study_id, why = str(self.stored.user_attrs[searching.ID]), f"retention.keep: {self.study.retention.keep}"
        event = CheckpointExpired(self.study.experiment.name, study_id, why)
        self.session.log.append(f"{self.stored.study_name}/{number}", event)


def expire_confirmed(session: Session, study: Study, kept: Collection[tuple[str, int]]) -> None:
    """Let checkpoints go as `retention` says: of confirmations that are over, and of runs that people have deleted.

    `kept` are the trials, each after the id of its generation, that are the candidates of now. Pinned runs keep theirs,
    and so do all models of a champion.
    """
    if study.retention.best is None:
        return
    from fttune.tracking.removal import remove_deleted

    name, why = study.experiment.name, f"retention.keep: {study.retention.keep}"
    runs = session.uploader.ask(lambda store: store.find_runs(name, {"fttune.kind": "confirm"}))
    for tags in (run.data.tags for run in runs):
        is_own = tags["fttune.study"].partition("@")[0] == study.name
        if is_own and not {KEEP, REMOVED} & tags.keys() and (tags[STUDY_ID], int(tags["fttune.trial"])) not in kept:
            session.log.append(tags["fttune.run"], CheckpointExpired(name, tags[STUDY_ID], why))
    if count := session.uploader.ask(lambda store: remove_deleted(store, name, study=study.name, why=why)):
        session.notice(study.name, f"the checkpoints of {count} deleted runs are gone ({why})")
