"""A study's trials, each as one run in MLflow: opened, trained, logged, closed. Knows neither Optuna nor the budget."""

import os
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain

from fttune.app.attempts import Tries, ended_by, write_traceback
from fttune.app.session import Desk
from fttune.app.states import States
from fttune.app.train import inputs_key, result_metrics, shared_inputs
from fttune.config import Experiment, Study
from fttune.config.experiment import flatten
from fttune.config.sections import COSTS, MEMORY, PARAMETERS, SECONDS
from fttune.errors import CannotWrite, Diverged, FttuneError, Interrupted, OutOfMemory, StudyBusy
from fttune.searching import Asked, Outcome
from fttune.training import (
    CheckpointFolder,
    Costs,
    FineTuneResult,
    Fit,
    Inputs,
    Training,
    Verdict,
    best_fold,
    cohort_key,
    finish,
    fold_ended,
    in_fold,
    is_member,
    memory_errors_told,
    over_folds,
    plan,
)
from fttune.training.events import STUDY_ID, EpochEnded, Event, FileSaved, RunClosed, RunOpened

Emit = Callable[[Event], None]
Begin = Callable[[], Training]
HALTS = (Interrupted, KeyboardInterrupt, CannotWrite, StudyBusy)  # end the search, and leave its trials to go on later
WRITERS = min(4, os.cpu_count() or 1)  # of a cohort's checkpoints, side by side


@dataclass
class Trials:
    """The trials of one generation of a study, called `name` in the stores, `id` its own there.

    `inputs` keeps the images and weights that trials share, by what of a recipe decides about them, `attempts` which
    attempts at trials failed, `states` what trials go on from after a crash, `costs` what recipes cost, where that is
    an objective.
    """

    study: Study
    session: Desk
    name: str
    id: str
    inputs: dict[str, Inputs]
    attempts: Tries
    states: States
    costs: Costs = field(default_factory=Costs)
    _begins: dict[tuple[int, int], Begin] = field(default_factory=dict)
    _ended: dict[int, Outcome] = field(default_factory=dict)
    _paused: dict[int, tuple[Asked, Fit]] = field(default_factory=dict)

    def run(self, asked: Asked) -> Outcome:
        """Run one trial, or go on with one that paused. All that it logged is on disk before this returns its end.

        Without a pruner nothing has to be decided between a cohort's trials: the first runs all that are left of it.
        """
        self.states.begin(asked.number, anew=not asked.resumed and asked.number not in self._paused)
        if asked.number not in self._ended:
            self._ended |= self._work_on(asked)
        return self._ended.pop(asked.number)

    def together(self, asked: Asked) -> Hashable:
        """Return what trials agree on that can train together."""
        experiment = None if self.attempts.alone(asked.number) else self._recipe(asked)
        if experiment is not None:
            with suppress(FttuneError):  # it will be the outcome when the trial runs
                if (key := cohort_key(experiment, self._inputs_of(experiment).stages(experiment))) is not None:
                    return inputs_key(experiment), key
        return asked.number

    def shares(self, asked: Asked) -> Hashable:
        """Return what trials agree on that can use the same activations."""
        recipe = self._recipe(asked)
        return None if recipe is None else (inputs_key(recipe), recipe.freeze.unfrozen_stages)

    def close(self) -> None:
        """Close the runs of trials that wait to go on, as interrupted; what they go on from is kept."""
        while self._paused:
            _, (asked, fit) = self._paused.popitem()
            with suppress(OSError, CannotWrite):
                fit.keep()
            self._log(asked, RunClosed("interrupted"))

    def abandon(self, asked: Asked, cause: str) -> None:
        """Close the run of a trial that was asked and will not run, or not go on."""
        self._paused.pop(asked.number, None)
        self._open(asked, flatten(asked.values))
        self._log(asked, RunClosed("failed", {"fttune.cause": cause}))
        self.session.deliver()

    def reuse(self, asked: Asked, outcome: Outcome, twin: int) -> None:
        """Log a trial that took over the value of another with the same recipe."""
        self._open(asked, self.study.experiment.replace(asked.values).params())
        known = {"value": outcome.value, "best_epoch": outcome.best_epoch}
        known |= {"trainable_parameters": outcome.trainable_parameters}
        metrics = {name: float(value) for name, value in known.items() if value is not None} | self._costs_in(outcome)
        self._log(asked, RunClosed("complete", {"fttune.reused_from": str(twin)}, metrics))
        self.session.deliver()

    def _work_on(self, asked: Asked) -> dict[int, Outcome]:
        """Run a trial, and where they train together those of its cohort after it; not after too many attempts."""
        if (cause := self.attempts.used_up(asked.number)) is not None:
            self.abandon(asked, cause)
            return {asked.number: Outcome("failed", cause=cause)}
        together = self.study.pruner.type == "none" and len(asked.cohort) > 1
        with self.attempts.at_work([one.number for one in _rest(asked)]):
            return self._run_together(asked) if together else {asked.number: self._run_alone(asked)}

    def _run_alone(self, asked: Asked) -> Outcome:
        with self._closed_when_interrupted([asked]):
            if asked.number not in self._paused:
                self._open(asked, self._params(asked))
            begins = [partial(self._training, asked, fold) for fold in range(self._fold_count)]
            outcome, closed = self._finished(asked, begins, partial(self._log, asked))
        if closed is None:
            return outcome
        outcome = self._settled(asked, outcome, closed)
        self.session.deliver()
        return outcome

    def _settled(self, asked: Asked, outcome: Outcome, closed: RunClosed) -> Outcome:
        """Log how a trial's work ended; begin it anew, apart from others, where that may help."""
        if closed.state == "interrupted" and not self.attempts.another(asked.number, outcome.cause):
            closed = replace(closed, state="failed")
        self._log(asked, closed)
        if closed.state == "interrupted":
            return self._run_alone(replace(asked, resumed=True, cohort=()))
        return outcome

    def _run_together(self, asked: Asked) -> dict[int, Outcome]:
        """Run a trial and those of its cohort that come after it, which train as one.

        What each logs comes in one piece at its end, which is one request to MLflow.

        All train when the first one begins; then the others have little left to do but to write their checkpoints, side
        by side, while MLflow takes those before them. If that training failed, or some cannot take part in it, they go
        on one after the other.
        """
        cohort = _rest(asked)
        logged: list[list[Event]] = [[] for _ in cohort]
        plans = [self._plan(asked, fold) for fold in range(self._fold_count)]
        begins = [[planned[one.number] for planned in plans] for one in cohort]
        works = list(zip(cohort, begins, (events.append for events in logged), strict=True))
        with self._closed_when_interrupted(cohort), ThreadPoolExecutor(WRITERS) as pool:
            self._open(cohort[0], self._params(cohort[0]))
            first = self._finished(*works[0])
            failed = first[0].state in ("failed", "out_of_memory")
            quiet = not self._measures and not failed  # nothing may disturb what is measured
            members = all(map(is_member, chain.from_iterable(begins)))
            side_by_side = pool.map if quiet and members else map
            ended = chain([first], side_by_side(lambda work: self._finished(*work), works[1:]))
            outcomes = {}
            for one, events, (outcome, closed) in zip(cohort, logged, ended, strict=True):
                if one is not cohort[0]:
                    self._open(one, self._params(one))
                assert closed is not None, "without a pruner nothing pauses"
                for event in events:
                    self._log(one, event)
                outcomes[one.number] = self._settled(one, outcome, closed)
        self.session.deliver()
        return outcomes

    def _finished(self, asked: Asked, begins: Sequence[Begin], emit: Emit) -> tuple[Outcome, RunClosed | None]:
        """Train a trial to its end, in every fold, or until it pauses; its failure is an outcome."""
        try:
            if (refusal := self.study.experiment.refusal(dict(asked.values))) is not None:
                return Outcome("failed", cause=refusal), RunClosed("failed", {"fttune.cause": refusal})
            experiment = self.study.experiment.replace(asked.values)
            if self.study.evaluation is None:
                result = self._fitted(asked, experiment, begins[0], emit)
            else:
                result = self._cross_validated(asked, begins, emit)
            if result is None:
                return Outcome("paused"), None
            outcome = self._outcome(experiment, result)
            metrics = result_metrics(experiment, result) | self._costs_in(outcome)
            return outcome, RunClosed(result.state, metrics=metrics)
        except HALTS:
            raise
        except Diverged as error:
            return Outcome("diverged", cause=str(error)), RunClosed("diverged", {"fttune.cause": "diverged"})
        except OutOfMemory as error:
            closed = RunClosed("out_of_memory", {"fttune.cause": "out_of_memory"})
            return Outcome("out_of_memory", cause=str(error)), closed
        except (Exception, SystemExit) as error:  # noqa: BLE001 (the trial boundary: recorded, the search goes on)
            with suppress(OSError):  # a full disk may be what it is about
                emit(FileSaved(write_traceback(self.session.files_of(self.key(asked.number)), error), ""))
            return ended_by(error)

    @memory_errors_told()
    def _fitted(self, asked: Asked, experiment: Experiment, begin: Begin, emit: Emit) -> FineTuneResult | None:
        """Train, or go on where the trial paused; return None when it pauses."""
        _, fit = self._paused.pop(asked.number, (asked, None))
        folder, states = self.session.files_of(self.key(asked.number)), self.states
        files = CheckpointFolder(folder, states=states.of(asked.number), saved=states.saved)
        fit = fit or Fit(begin(), emit=emit, checkpoints=files)
        result = fit.go_on(lambda ended: self._judge(asked, experiment, ended))
        if result is None:
            self._paused[asked.number] = asked, fit
        return result

    @memory_errors_told()
    def _cross_validated(self, asked: Asked, begins: Sequence[Begin], emit: Emit) -> FineTuneResult:
        """Train in fold after fold, each reported when it ends; the checkpoint is that of the best one."""
        results: list[FineTuneResult] = []
        verdict: Verdict = "go"
        for fold, begin in enumerate(begins, start=1):
            own = f"fold-{fold}"
            folder, states = self.session.files_of(self.key(asked.number)) / own, self.states.of(asked.number) / own
            files = CheckpointFolder(folder, states=states, keeps_end=True, saved=self.states.saved)
            results.append(finish(begin(), emit=in_fold(emit, fold), checkpoints=files))
            emit(fold_ended(results[-1], fold))
            value = results[-1].value
            assert value is not None, "a fold validates"
            verdict = asked.judge(fold, value, fold) if fold < len(begins) else "go"
            if verdict == "prune":
                break
        best = best_fold(results, maximize=self.study.direction == "maximize").checkpoint
        assert best is not None, "it was asked for"
        for file in (best, best.with_suffix(".json")):
            emit(FileSaved(file, "checkpoint"))
        return over_folds(results, "pruned" if verdict == "prune" else "complete")

    @memory_errors_told()
    def _outcome(self, experiment: Experiment, result: FineTuneResult) -> Outcome:
        complete = result.state == "complete"
        return Outcome(
            result.state,
            result.value if complete else None,
            result.trainable_parameters,
            result.best_epoch,
            others=self._further(experiment, result) if complete else (),
        )

    def _further(self, experiment: Experiment, result: FineTuneResult) -> tuple[float, ...]:
        """Return the values of the study's further objectives: metrics at the best epoch, and costs."""
        found = {**result.metrics, PARAMETERS: float(result.trainable_parameters)}
        if self._measures:
            cost = self.costs.of(experiment, self._inputs_of(experiment), result.epochs)
            found |= {SECONDS: cost.seconds, MEMORY: float(cost.peak_memory_bytes)}
        return tuple(found[objective.name] for objective in self.study.objectives[1:])

    @property
    def _measures(self) -> bool:
        return any(objective.name in (SECONDS, MEMORY) for objective in self.study.objectives)

    def _costs_in(self, outcome: Outcome) -> dict[str, float]:
        """Return the costs among a complete trial's objectives, by name; its metrics are in its curves."""
        further = zip(self.study.objectives[1:], outcome.others, strict=bool(outcome.others))
        return {objective.name: value for objective, value in further if objective.name in COSTS}

    def _judge(self, asked: Asked, experiment: Experiment, ended: EpochEnded) -> Verdict:
        """Report the epoch; the last one ends the trial anyway, as complete."""
        verdict = asked.judge(ended.epoch, ended.metrics[self.study.metric], ended.epoch - ended.unsettled)
        return verdict if ended.epoch < experiment.training.epochs else "go"

    @property
    def _fold_count(self) -> int:
        return 1 if self.study.evaluation is None else self.study.evaluation.count

    def _training(self, asked: Asked, fold: int) -> Training:
        """Begin a trial's training in a fold; the first of a cohort makes the plan for all that are still to run."""
        if (asked.number, fold) not in self._begins:
            later = {key: begin for key, begin in self._begins.items() if key[0] >= asked.number}
            self._begins = later | {(number, fold): begin for number, begin in self._plan(asked, fold).items()}
        return self._begins.pop((asked.number, fold))()

    def _plan(self, asked: Asked, fold: int) -> dict[int, Begin]:
        """Return what begins a trial and those of its cohort after it; those before it only train along."""
        cohort = asked.cohort or (asked,)
        experiments = [self.study.experiment.replace(one.values) for one in cohort]
        inputs = self._inputs_of(experiments[0]).of_fold(fold)
        folder = self.states.of_cohort(cohort[0].number, asked.number) / f"fold-{fold}"
        begins = plan(experiments, inputs, monitor=self.study.metric, folder=folder, saved=self.states.saved)
        return {one.number: begin for one, begin in zip(cohort, begins, strict=True) if one.number >= asked.number}

    def _recipe(self, asked: Asked) -> Experiment | None:
        """Return the recipe of a trial, None when its values make none."""
        values = dict(asked.values)
        return self.study.experiment.replace(values) if self.study.experiment.refusal(values) is None else None

    def _params(self, asked: Asked) -> dict[str, object]:
        recipe = self._recipe(asked)
        return flatten(dict(asked.values)) if recipe is None else recipe.params()

    def _inputs_of(self, experiment: Experiment) -> Inputs:
        return shared_inputs(self.session, self.study, experiment, self.inputs)

    def _open(self, asked: Asked, params: dict[str, object]) -> None:
        tags = {"fttune.kind": "trial", "fttune.study": self.name, "fttune.trial": str(asked.number), STUDY_ID: self.id}
        tags |= self.attempts.tags(asked.number)
        opened = RunOpened(
            f"trial-{asked.number:04d}",
            self.study.experiment.name,
            parent=self.name,
            params=params,
            tags=tags,
            reopen=asked.resumed,
        )
        self._log(asked, opened)

    @contextmanager
    def _closed_when_interrupted(self, trials: Sequence[Asked]) -> Iterator[None]:
        try:
            yield
        except HALTS:
            for asked in trials:
                self._log(asked, RunClosed("interrupted"))
            raise

    def _log(self, asked: Asked, event: Event) -> None:
        if isinstance(event, EpochEnded):
            self.attempts.reached(event.epoch)
        self.session.emit(self.key(asked.number), event, owner=self.name)

    def key(self, number: int) -> str:
        """Return the key of a trial's run."""
        return f"{self.name}/{number}"


def _rest(asked: Asked) -> list[Asked]:
    """Return a trial and those of its cohort that come after it."""
    return [one for one in asked.cohort if one.number >= asked.number] or [asked]
