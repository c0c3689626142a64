"""The best trials of a search and its baselines, trained anew with fresh seeds; then, and only then, the test split.

The winner is named by the validation metric over those seeds. The test split reports and never chooses; each time that
it is opened is written down.
"""

import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from fttune import searching
from fttune.app.session import Display, Session, open_session
from fttune.app.studies import held_to_write, inputs_of, is_finished, run_tags, stored_study
from fttune.app.tested import FOLDER, Said, write_predictions, write_worst
from fttune.app.train import inputs_key, shared_inputs, tracked
from fttune.config import Experiment, Study
from fttune.config.distributions import encoded
from fttune.config.workspace import Workspace
from fttune.data import ArrayCache, Part, has_test, open_test
from fttune.errors import BadInput, Diverged, WorkFailed
from fttune.models import load_model
from fttune.report.confirmation import Confirmation, Confirmed
from fttune.report.statistics import METRICS, Candidate, compare, recommended, score
from fttune.training import CheckpointFolder, FineTuneResult, Inputs, Training, finish, plan
from fttune.training.device import best_device
from fttune.training.events import STUDY_ID, Described, Event, FileSaved, RunClosed, RunOpened
from fttune.training.predictions import probabilities

if TYPE_CHECKING:
    import optuna

CONFIRMATION = "fttune.confirmation"
OPENED = "fttune.test_opened"


def confirm(study: Study, *, workspace: Workspace | None = None, display: Display | None = None) -> Confirmation:
    """Confirm a searched study as its `confirm` section says, and return what was found.

    The same call continues what was interrupted; once all is confirmed it returns the stored result, and the test split
    stays closed.

    Raises:
        BadInput: the study was not searched to its end here, no trial is complete, or it is another one now
            (StudyChanged).
        StudyBusy: another process searches or confirms this study.
        WorkFailed: every candidate diverged.
    """
    workspace = workspace or Workspace.at()
    with open_session(workspace, tracking_uri=study.tracking.uri, display=display) as session:
        stored = stored_study(study, workspace)
        inputs = inputs_of(session, study, stored)
        if not is_finished(stored):
            raise BadInput(f"study {stored.study_name} is unfinished; run `fttune search` on it to its end first")
        chosen = candidates(study, stored)
        with held_to_write(stored, study, session) as stored:
            return Confirming(study, session, stored, {inputs_key(study.experiment): inputs}).run(chosen)


def stored_confirmation(stored: "optuna.Study") -> Confirmation | None:
    """Return what a confirmation of a study found, None before there was one."""
    found = stored.user_attrs.get(CONFIRMATION)
    return Confirmation.of_json(found) if found else None


def confirm_key(name: str, trial: int, seed: int) -> str:
    """Return the key of the run that trains a trial of a study with a fresh seed."""
    return f"{name}/confirm/{trial}/{seed}"


def candidates(study: Study, stored: "optuna.Study") -> "list[optuna.trial.FrozenTrial]":
    """Return the best `top_k` complete trials of different recipes, then the baselines, pruned ones too."""
    ranked = searching.ranked(stored)
    if not ranked:
        raise BadInput(f"study {stored.study_name} has no complete trial")
    best = [trial for trial in ranked if _has_trained(trial)][: study.confirm.top_k]
    others = (trial for trial in stored.get_trials(deepcopy=False) if trial not in best)
    return best + [trial for trial in others if _has_trained(trial) and _is_baseline(study, trial)]


def _has_trained(trial: "optuna.trial.FrozenTrial") -> bool:
    """Return whether a trial trained a recipe of its own, to its end or until it was pruned."""
    facts = searching.facts_of(trial)
    return facts is not None and facts.reused_from is None and facts.trainable_parameters is not None


def _is_baseline(study: Study, trial: "optuna.trial.FrozenTrial") -> bool:
    wanted = [{name: encoded(value) for name, value in baseline.items()} for baseline in study.baselines]
    return any(own.items() <= trial.params.items() for own in wanted)


@dataclass
class Confirming:
    """A searched study on its way to a confirmation; hold its lock. Nothing else opens the test split."""

    study: Study
    session: Session
    stored: "optuna.Study"
    inputs: dict[str, Inputs]
    _test: dict[str, Part] = field(default_factory=dict)

    def run(self, chosen: "Sequence[optuna.trial.FrozenTrial]") -> Confirmation:
        """Confirm the candidates and open the test split, unless that was done before; keep what was found."""
        parent, known, seeds = self.stored.study_name, stored_confirmation(self.stored), self.seeds
        if known and known.seeds == seeds and {one.trial for one in known.candidates} == {t.number for t in chosen}:
            self.session.notice(parent, f"study {parent} is confirmed: nothing to do, and the test split stays closed")
            return known
        with self.reopened():
            found = self._tested(self.validated(chosen))
        self.session.deliver()
        self.stored.set_user_attr(CONFIRMATION, found.as_json())
        return found

    @property
    def seeds(self) -> tuple[int, ...]:
        """The fresh seeds."""
        return tuple(self.study.experiment.seed + 1 + index for index in range(self.study.confirm.seeds))

    @contextmanager
    def reopened(self) -> Iterator[None]:
        """Let the study's run in MLflow go on in the block."""
        parent, tags = self.stored.study_name, {"fttune.kind": "study", STUDY_ID: self._id}
        self.session.log.append(parent, RunOpened(parent, self.study.experiment.name, tags=tags, reopen=True))
        try:
            yield
        finally:
            self.session.log.append(parent, RunClosed("complete"))  # as the search left it

    def validated(self, chosen: "Sequence[optuna.trial.FrozenTrial]") -> Confirmation:
        """Train the candidates with each seed, as far as they are not; return them, best first."""
        values = {seed: self._train(chosen, seed) for seed in self.seeds}
        return self._named(chosen, self.seeds, values)

    @property
    def _id(self) -> str:
        return str(self.stored.user_attrs[searching.ID])

    def _key(self, number: int, seed: int) -> str:
        return confirm_key(self.stored.study_name, number, seed)

    def _recipe(self, trial: "optuna.trial.FrozenTrial", seed: int) -> Experiment:
        return self.study.recipe(trial.params).replace({"seed": seed, "training.monitor": self.study.metric})

    def _train(self, chosen: "Sequence[optuna.trial.FrozenTrial]", seed: int) -> dict[int, float | None]:
        """Train all candidates with a seed, those together that can; return their values by trial.

        With folds, each seed validates on the next one.
        """
        values = {t.number: self._stored_value(t.number, seed) for t in chosen}
        groups: dict[str, list[optuna.trial.FrozenTrial]] = defaultdict(list)
        for trial in chosen:  # those that are trained already, too: what a cohort computes depends on who is in it
            groups[inputs_key(self._recipe(trial, seed))].append(trial)
        fold = (seed - self.study.experiment.seed - 1) % (self.study.evaluation.count if self.study.evaluation else 1)
        folder = self.session.states_of(f"{self.stored.study_name}/confirm/cohorts-{seed}")
        for index, trials in enumerate(groups.values()):
            if all(values[trial.number] is not None for trial in trials):
                continue
            recipes = [self._recipe(trial, seed) for trial in trials]
            inputs = self._inputs_of(recipes[0]).of_fold(fold)
            begins = plan(recipes, inputs, monitor=self.study.metric, folder=folder / str(index))
            for trial, begin in zip(trials, begins, strict=True):
                if values[trial.number] is None:
                    values[trial.number] = self._trained(trial, seed, begin)
        shutil.rmtree(folder, ignore_errors=True)
        return values

    def _inputs_of(self, recipe: Experiment) -> Inputs:
        return shared_inputs(self.session, self.study, recipe, self.inputs)

    def _stored_value(self, number: int, seed: int) -> float | None:
        name, tags = self.study.experiment.name, run_tags(self.stored, self._key(number, seed))
        run = self.session.uploader.ask(lambda store: store.find_run(name, tags, status="FINISHED"))
        return None if run is None else run.data.metrics.get("value")

    def _trained(self, trial: "optuna.trial.FrozenTrial", seed: int, begin: Callable[[], Training]) -> float | None:
        key, recipe = self._key(trial.number, seed), self._recipe(trial, seed)
        tags = {"fttune.kind": "confirm", "fttune.study": self.stored.study_name, "fttune.trial": str(trial.number)}
        opened = RunOpened(
            f"confirm-{trial.number:04d}-seed-{seed}",
            recipe.name,
            parent=self.stored.study_name,
            params=recipe.params(),
            tags={**tags, STUDY_ID: self._id},
            reopen=True,
        )

        def train(*, emit: Callable[[Event], None], checkpoints: CheckpointFolder) -> FineTuneResult:
            return finish(begin(), emit=emit, checkpoints=checkpoints)

        try:
            return tracked(self.session, key, opened, recipe, train, owner=self.stored.study_name).value
        except Diverged:
            return None

    def _named(
        self,
        chosen: "Sequence[optuna.trial.FrozenTrial]",
        seeds: Sequence[int],
        values: Mapping[int, Mapping[int, float | None]],
    ) -> Confirmation:
        """Return the candidates in the order of their means; equal ones by fewer trained parameters, then by number."""
        found = [
            Confirmed(
                trial.number,
                _is_baseline(self.study, trial),
                trial.params,
                _size(trial),
                tuple(values[seed][trial.number] for seed in seeds),
            )
            for trial in chosen
        ]
        if all(None in one.val for one in found):
            raise WorkFailed(f"study {self.stored.study_name}: every candidate diverged under a fresh seed")
        sign = -1 if self.study.direction == "maximize" else 1

        def key(one: Confirmed) -> tuple[bool, float, int, int]:
            finite = [value for value in one.val if value is not None]
            mean = float(np.mean(finite)) if len(finite) == len(one.val) else 0.0
            return None in one.val, sign * mean, one.trainable_parameters, one.trial

        metric = self.study.metric.partition("/")[2]
        test_metric = metric if metric in METRICS else "accuracy"
        return Confirmation(
            self.stored.study_name, self.study.metric, test_metric, tuple(seeds), tuple(sorted(found, key=key))
        )

    def _tested(self, found: Confirmation) -> Confirmation:
        """Open the test split, which changes no order; without one, return what was found."""
        base = self.study.experiment
        if not self.has_test:
            return found
        opened = self.record_opening()
        part = self.test_part(base)
        finite = [one for one in found.candidates if None not in one.val]
        said = {one.name: self._said(one.trial, found.seeds, part) for one in finite}
        self._keep(found, write_predictions(self._folder, part, said, classes=self._classes, seeds=found.seeds))
        truth = part.labels.numpy()
        tested = [Candidate(one.name, said[one.name].predicted, one.trainable_parameters) for one in finite]
        gaps = compare(tested, truth, metric=found.test_metric)
        best = recommended(finite[0].name, tested, gaps)
        self._keep(found, *write_worst(self._folder, part, said[best], classes=self._classes))
        scores = {name: [score(truth, row, found.test_metric) for row in one.predicted] for name, one in said.items()}
        return replace(
            found,
            candidates=tuple(replace(one, test=tuple(scores.get(one.name, ()))) for one in found.candidates),
            differences=tuple(gaps),
            recommended=next(one.trial for one in finite if one.name == best),
            opened=opened,
        )

    @property
    def has_test(self) -> bool:
        """Whether there is a test split."""
        base = self.study.experiment
        return has_test(base.data, self._inputs_of(base).data)

    def record_opening(self) -> tuple[str, ...]:
        """Put an opening of the test split on record before it happens, in the `reopened` run; return all of them."""
        opened = (*self._openings(), datetime.now().astimezone().isoformat(" ", "seconds"))
        self.session.log.append(self.stored.study_name, Described({OPENED: "; ".join(opened)}))
        self.session.deliver()
        return opened

    def _openings(self) -> list[str]:
        """Return when the test split was opened before, whatever became of what was to follow."""
        tags = run_tags(self.stored, self.stored.study_name)
        run = self.session.uploader.ask(lambda store: store.find_run(self.study.experiment.name, tags))
        stored = run.data.tags.get(OPENED) if run else None
        return stored.split("; ") if stored else []

    def test_part(self, recipe: Experiment) -> Part:
        """Return the test split as a recipe sees it; its opening is on record."""
        key, workspace = inputs_key(recipe), self.session.workspace
        if key not in self._test:
            inputs = self._inputs_of(recipe)
            self._test[key] = open_test(
                recipe.data,
                inputs.geometry,
                classes=inputs.data.classes,
                cache=workspace.cache,
                root=workspace.root,
                arrays=ArrayCache(workspace.arrays, workspace.cache_bytes),
            )
        return self._test[key]

    def _said(self, number: int, seeds: Sequence[int], part: Part) -> Said:
        """Return what a candidate says of each test sample under each seed."""
        predicted, own = [], []
        for seed in seeds:
            found = self._probabilities(number, seed)
            predicted.append(found.argmax(1).numpy())
            own.append(found[torch.arange(len(found)), part.labels].double().numpy())
        return Said(np.stack(predicted), np.stack(own))

    def _probabilities(self, number: int, seed: int) -> torch.Tensor:
        """Return the probabilities (N, classes) that a candidate gives each test sample."""
        name, tags = self.study.experiment.name, run_tags(self.stored, self._key(number, seed))
        checkpoint = self.session.checkpoint(name, tags)
        if checkpoint is None:
            raise BadInput(f"the checkpoint of {tags['fttune.run']} is not in MLflow; restore its artifacts")
        recipe = self.study.recipe(self.stored.get_trials(deepcopy=False)[number].params)
        model = load_model(checkpoint, plugins=self.session.workspace.plugins).to(best_device())
        return probabilities(model, self._inputs_of(recipe).weights.preprocessing, self.test_part(recipe).images)

    @property
    def _folder(self) -> Path:
        return self.session.files_of(self.stored.study_name)

    @property
    def _classes(self) -> tuple[str, ...]:
        return next(iter(self.inputs.values())).data.classes

    def _keep(self, found: Confirmation, *files: Path) -> None:
        """Log files on the parent run."""
        for file in files:
            self.session.log.append(found.study, FileSaved(file, FOLDER))


def _size(trial: "optuna.trial.FrozenTrial") -> int:
    facts = searching.facts_of(trial)
    return facts.trainable_parameters or 0 if facts else 0
