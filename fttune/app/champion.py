"""The champion of a study: the model that bears that alias in MLflow's registry, and who may take its place.

A challenger is the winner of the confirmation. The test split is opened for it only after it beat the champion on
validation, and each opening is on record, with its number, before it happens: so one that is cut off keeps its number.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import date
from functools import partial
from pathlib import Path, PurePosixPath
from statistics import fmean
from typing import TYPE_CHECKING, Any, TypeVar

from fttune import searching
from fttune.app.confirm import Confirming, candidates
from fttune.app.contenders import Contender, checkpoint_of, hits, read_hits, said, write_hits
from fttune.app.retention import expire_confirmed
from fttune.app.session import Display, Session, open_session
from fttune.app.studies import held_to_write, inputs_of, is_finished, newest, stored_study
from fttune.app.train import inputs_key, prepare_in
from fttune.config import Study
from fttune.config.workspace import Workspace
from fttune.errors import BadInput
from fttune.report.confirmation import Confirmation
from fttune.report.night import Takeover
from fttune.report.takeover import RULE, Judgement, drop, judge
from fttune.training import Inputs
from fttune.training.events import ModelSaved

if TYPE_CHECKING:
    from fttune.tracking.registry import Registry, Version

Answer = TypeVar("Answer")
FOLDER = "champion"
CROWNED = "fttune.crowned"
EVALUATED = "fttune.evaluated"  # the fingerprint of the data that a champion was judged on last
DROPPED = "fttune.drop."  # and by that: what came of it, and in which night


@dataclass(frozen=True)
class Contest:
    """What a confirmation found on validation, and what became of the champion."""

    confirmation: Confirmation
    takeover: Takeover


def contest(study: Study, *, workspace: Workspace, display: Display | None = None) -> Contest:
    """Train a searched study's candidates with fresh seeds, and let the best one challenge the champion.

    The same call goes on with what was cut off, and opens the test split for no challenger twice.

    Raises:
        BadInput: the study was not searched to its end here, or is another one now (StudyChanged), or a checkpoint of
            the champion is gone.
        StudyBusy: another process searches this study.
        WorkFailed: every candidate diverged.
        TrackingFailed: MLflow, where the registry is, does not answer.
    """
    with open_session(workspace, tracking_uri=study.tracking.uri, display=display) as session:
        stored = stored_study(study, workspace)
        inputs = inputs_of(session, study, stored)
        if not is_finished(stored):
            raise BadInput(f"study {stored.study_name} is unfinished; run `fttune search` on it to its end first")
        with held_to_write(stored, study, session) as stored:
            confirming = Confirming(study, session, stored, {inputs_key(study.experiment): inputs})
            with confirming.reopened():
                return _Contest(confirming, inputs).run()


def reevaluate(study: Study, night: date, *, workspace: Workspace, display: Display | None = None) -> str | None:
    """Judge the champion on the data as they are now, when they are other ones; return an alarm if it got worse.

    That chooses nobody; the test split is opened once for each state of the data, which is on record. Later in the same
    night the same is returned.

    Raises as `contest`.
    """
    with open_session(workspace, tracking_uri=study.tracking.uri, display=display) as session:
        if (stored := newest(study, workspace)) is None:
            return None
        inputs = prepare_in(session, study.experiment, evaluation=study.evaluation)
        with held_to_write(stored, study, session) as stored:
            confirming = Confirming(study, session, stored, {inputs_key(study.experiment): inputs})
            return _Contest(confirming, inputs).alarm(night)


@dataclass
class _Contest:
    """A study's candidates against its champion; the study's lock is held."""

    confirming: Confirming
    inputs: Inputs

    def run(self) -> Contest:
        """Confirm on validation, and let the winner challenge the champion, who stands among the candidates."""
        champion, stored = self._champion(), self.confirming.stored
        chosen = candidates(self._study, stored)
        if champion is not None and champion.model.study_id == self._id:
            own = stored.get_trials(deepcopy=False)[champion.model.trial]
            chosen += [] if own in chosen else [own]
        found = self.confirming.validated(chosen)
        takeover = self._takeover(self._challenger(found), champion, found)
        expire_confirmed(self._session, self._study, {(self._id, one.trial) for one in found.candidates})
        return Contest(found, takeover)

    def alarm(self, night: date) -> str | None:
        """Return why the champion is worse on the data as they are now, None where it is not."""
        champion = self._champion()
        if champion is None or not self.confirming.has_test:
            return None
        content, tags = self.inputs.data.fingerprint, champion.version.tags
        key = f"{DROPPED}{content[:16]}"
        if tags[EVALUATED] == content:
            kept = json.loads(tags.get(key, "{}"))
            return kept["alarm"] or None if kept.get("night") == night.isoformat() else None
        model = champion.model
        before = self._ask(lambda registry: registry.file(*model.run(), _file_of(tags[EVALUATED])))
        with self.confirming.reopened():
            self.confirming.record_opening()
            found = drop(read_hits(before), read_hits(self._record(model)))
        told = f"the champion, {model.name}, got worse on the changed data: {found}" if found.is_alarming else ""
        verdict = json.dumps({"night": night.isoformat(), "alarm": told, "figures": asdict(found)})
        more = {key: verdict, EVALUATED: content}  # in this order: without the verdict it is judged again
        self._ask(lambda registry: registry.describe(champion.version, more))
        return told or None

    def _takeover(self, challenger: Contender, champion: "_Champion | None", found: Confirmation) -> Takeover:
        if not self.confirming.has_test:
            return Takeover("there is no test split to judge by, so no champion; give data.split.test a share")
        if champion is None:
            self.confirming.record_opening()
            return self._crown(challenger, f"{challenger.name} is the first one", {})
        old, keeps = champion.model, partial(Takeover, version=champion.version.number, trial=champion.model.name)
        if challenger.key == old.key:
            return keeps(f"{old.name} still leads on validation")
        ours, theirs = self._validation(challenger, old, found)
        if not self._study.better(ours, theirs):
            figures = f"{abs(ours):.4g} against {abs(theirs):.4g}"
            return keeps(f"no candidate beats {old.name} on validation ({figures}), so the test split stays closed")
        judgement = self._judged(challenger, old)
        if judgement.takes_over:
            why = f"{challenger.name} takes over from {old.name}: {judgement}"
            return self._crown(challenger, why, tags_of(judgement))
        return keeps(f"{old.name} stays; {challenger.name} is {judgement}")

    def _challenger(self, found: Confirmation) -> Contender:
        """Return the winner, with the model of the seed that validates best."""
        winner = found.candidates[0]
        values = {seed: value for seed, value in zip(found.seeds, winner.val, strict=True) if value is not None}
        choose = max if self._study.direction == "maximize" else min
        best = choose(values, key=lambda seed: values[seed])  # the first one on ties
        experiment, content = self._study.experiment.name, self.inputs.data.fingerprint
        return Contender(experiment, found.study, self._id, winner.trial, found.seeds, best, content)

    def _validation(self, challenger: Contender, old: Contender, found: Confirmation) -> tuple[float, float]:
        """Return the mean validation of both over their seeds, the better one as the study's direction has it.

        That is the study's metric, as the confirmation measured it. Models of an earlier generation were trained on
        other data: for a champion of these, and its challenger, it is the accuracy on the validation split of now.
        """
        maximize = self._study.direction == "maximize"
        if old.study_id == self._id:
            values = {one.trial: one.val for one in found.candidates}
            worst = -math.inf if maximize else math.inf
            means = [
                fmean(worst if value is None else value for value in values[one.trial]) for one in (challenger, old)
            ]
            return means[0], means[1]
        part, classes = self.inputs.data.val, self.inputs.data.classes
        assert part is not None, "a study validates"
        shares = [float(hits(self._session, one, part, classes).mean()) for one in (challenger, old)]
        return (shares[0], shares[1]) if maximize else (-shares[0], -shares[1])

    def _judged(self, challenger: Contender, old: Contender) -> Judgement:
        """Open the test split for a challenger, or return what its opening before came to."""
        openings = self._ask(lambda registry: registry.openings())
        who = {"challenger": challenger.key, "champion": old.key, "data": self.inputs.data.fingerprint}
        before = next((one for one in openings if who.items() <= one.items()), None)
        if before and "judgement" in before:
            return Judgement(**before["judgement"])
        number = before["opening"] if before else len(openings) + 1
        (*_, now) = self.confirming.record_opening()
        facts: dict[str, Any] = {**who, "opening": number, "rule": RULE, "at": now}
        self._ask(lambda registry: registry.record_opening(number, facts))
        part, classes = self.confirming.test_part(self._study.experiment), self.inputs.data.classes
        theirs, ours = (hits(self._session, one, part, classes) for one in (old, challenger))
        judgement = judge(theirs, ours, number)
        self._ask(lambda registry: registry.tag(*challenger.run(), tags_of(judgement)))
        self._ask(lambda registry: registry.record_opening(number, {**facts, "judgement": asdict(judgement)}))
        return judgement

    def _crown(self, model: Contender, why: str, more: Mapping[str, str]) -> Takeover:
        self._record(model)
        for run in map(model.run, model.seeds):
            self._ask(partial(_pin, run))
        tags = {CROWNED: model.key, "fttune.why": why, EVALUATED: self.inputs.data.fingerprint, **model.tags(), **more}
        pixels, plugins = self._study.experiment.data.image_size, self._session.workspace.plugins
        saved = ModelSaved(checkpoint_of(self._session, model, model.seed), pixels, plugins)
        version = self._ask(lambda registry: registry.crown(*model.run(), tags, saved))
        return Takeover(why, changed=True, version=version.number, trial=model.name)

    def _record(self, model: Contender) -> Path:
        """Keep with a champion's run what it says of the test split, whose opening is on record; return the file."""
        content = self.inputs.data.fingerprint
        part, classes = self.confirming.test_part(self._study.experiment), self.inputs.data.classes
        predicted = said(self._session, model, part, seed=model.seed)
        name = PurePosixPath(_file_of(content)).name
        file = write_hits(self._session.files_of(self.confirming.stored.study_name) / name, part, predicted, classes)
        self._ask(lambda registry: registry.attach(*model.run(), file, FOLDER))
        return file

    def _champion(self) -> "_Champion | None":
        version = self._ask(lambda registry: registry.champion())
        return None if version is None else _Champion(version, Contender.of(version.tags))

    def _ask(self, query: "Callable[[Registry], Answer]") -> "Answer":
        """Return what a query finds, or does, in the registry, once MLflow has all that was logged."""
        from fttune.tracking.registry import Registry

        return self._session.uploader.ask(lambda store: query(Registry(store, self._study.name)))

    @property
    def _study(self) -> Study:
        return self.confirming.study

    @property
    def _session(self) -> Session:
        return self.confirming.session

    @property
    def _id(self) -> str:
        return str(self.confirming.stored.user_attrs[searching.ID])


@dataclass(frozen=True)
class _Champion:
    version: "Version"
    model: Contender


def tags_of(judgement: Judgement) -> dict[str, str]:
    """Return what an opening came to as tags of a run and of a version."""
    return {"fttune.rule": RULE, "fttune.openings": str(judgement.opening), "fttune.judgement": str(judgement)}


def _pin(run: tuple[str, Mapping[str, str]], registry: "Registry") -> None:
    registry.pin(*run)


def _file_of(content: str) -> str:
    """Return where a run keeps what a champion says of the test split of data with this fingerprint."""
    return f"{FOLDER}/test-{content[:16]}.csv"
