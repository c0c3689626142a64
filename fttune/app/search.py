"""A study from its file to its winner: the only place where Optuna's trials and MLflow's runs meet."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from fttune import searching
from fttune.app.attempts import Attempts, Watch
from fttune.app.generations import beginning_of, describe, require_sources
from fttune.app.provenance import provenance
from fttune.app.retention import Retained
from fttune.app.room import prepare_disk
from fttune.app.session import TRACKING, Display, Session, open_session
from fttune.app.states import States
from fttune.app.studies import CLOSED, checkpoint_of, held, identity_of, is_finished, lost_checkpoint
from fttune.app.train import inputs_key, prepare_in
from fttune.app.trials import Trials
from fttune.app.worker import Job
from fttune.app.workers import Driver, started
from fttune.config import Experiment, Study
from fttune.config.depth import DEPTH, resolved_depth
from fttune.config.distributions import Categorical
from fttune.config.experiment import flatten
from fttune.config.fingerprint import Identity, differences, digest
from fttune.config.known import backbones
from fttune.config.sections import VAL_METRICS
from fttune.config.warm_start import NONE
from fttune.config.workers import Cluster
from fttune.config.workspace import Workspace
from fttune.errors import BadInput, FttuneError, Interrupted, TrackingFailed
from fttune.files import second_name
from fttune.report.folds import write_folds
from fttune.searching import Outcome
from fttune.searching.workers import Workers
from fttune.training import Costs, Inputs, check_recipe, choose_device, library_versions
from fttune.training.events import STUDY_ID, WARM_START, FileSaved, ModelSaved, RunClosed, RunOpened, StudyProgress
from fttune.training.training import monitored

if TYPE_CHECKING:
    import optuna

ENVIRONMENT = "fttune.environment"
COSTS = "fttune.costs"
COMPARED_RUNS = 5
MANY_STAGES = 1_000  # of a backbone whose stages are known only once it is built


def search(
    study: Study,
    *,
    workspace: Workspace | None = None,
    new: bool = False,
    display: Display | None = None,
    watch: Watch | None = None,
    total: "Callable[[optuna.Study], int] | None" = None,
) -> "optuna.Study":
    """Run a study to its budget and return it; the same call continues what was interrupted.

    Args:
        study: from `load_study`.
        workspace: where data and `mlruns/` lie; default the current directory.
        new: begin a fresh generation beside the stored one.
        display: is called with every event, for progress.
        watch: remembers what is at work, should this process die of it, and knows what the one before died of.
        total: returns how many trials the study is to come to, in place of its budget of trials and of time; it is
            asked once, before any trial is, while nobody else can.

    Raises:
        BadInput: data or weights cannot be used, or the stored study is another one (StudyChanged).
        StudyBusy: another process searches this study, or took it over from this one.
        TooManyFailures: `budget.max_failed` trials in a row failed.
        CannotWrite: a disk or database is full or fails; the same call continues when it is seen to.
    """
    workspace = workspace or Workspace.at()
    if isinstance(study.workers, Cluster):
        workspace = replace(workspace, shared=study.workers.shared)
    with open_session(workspace, tracking_uri=study.tracking.uri, display=display) as session:
        require_sources(study, workspace, new=new)
        inputs = prepare_in(session, study.experiment, evaluation=study.evaluation)
        require_searchable(study, inputs)
        identity = identity_of(study, inputs)
        with held(study, session) as lease:
            storage = searching.open_storage(study.storage or workspace.optuna_uri, locks=workspace.locks, lease=lease)
            stored = searching.open_study(
                study,
                storage,
                identity,
                manifest=inputs.data.manifest,
                new=new,
                beginning=lambda: beginning_of(study, storage, identity, inputs=inputs, session=session),
            )
            study = study if total is None else study.until(total(stored))
            _tell_of_late_warm_start(session, study, stored)
            _compare_stores(session, study, stored)
            retained = Retained(study, session, stored)
            if _is_closed(study, stored):
                retained.settle()
                session.notice(stored.study_name, f"study {stored.study_name} is finished: nothing to do")
            else:
                left = max(0, study.total_trials - searching.counted(stored))
                kept = left if study.retention.best is None else min(left, study.retention.best + study.batch)
                prepare_disk(session, stored.study_name, inputs, checkpoints=kept)
                own = {inputs_key(study.experiment): inputs}
                study_id = str(stored.user_attrs[searching.ID])
                attempts = Attempts(stored, study.retries, watch)
                states = States(session.states_of(stored.study_name), study.batch, workspace.mirror(study_id))
                costs = _costs(session, stored)
                trials = Trials(study, session, stored.study_name, study_id, own, attempts, states, costs)
                _Search(study, session, stored, trials, attempts, retained).run(identity)
    return stored


def comparison_path(stored: "optuna.Study") -> str | None:
    """Return the path, in MLflow's UI, of the page that compares the best runs of a finished study."""
    closed = stored.user_attrs.get(CLOSED)
    return json.loads(closed)["compare"] if closed else None


def best_experiment(study: Study, stored: "optuna.Study") -> Experiment:
    """Return the best trial's recipe, its best epoch chosen as there; with several objectives the best by the first.

    Raises:
        BadInput: no trial is complete.
    """
    best = searching.ranked(stored)
    if not best:
        raise BadInput(f"study {stored.study_name} has no complete trial yet")
    return study.recipe(best[0].params).replace({"training.monitor": study.metric})


def require_searchable(study: Study, inputs: Inputs) -> None:
    """Refuse what no trial of a study can train on, before anything is written. Raises BadInput."""
    if inputs.data.val is None:
        raise BadInput("a search chooses by the validation split, but data.split.val is 0; give it a share")
    for objective in study.objectives:
        if objective.name in VAL_METRICS:
            monitored(objective.name, inputs)
    check_recipe(_deepest(study), inputs, monitor=study.metric)


def _deepest(study: Study) -> Experiment:
    """Return the experiment with as many stages unfrozen as any trial may have, which is the hardest to run."""
    depth, known = study.space.get(DEPTH), backbones().get(study.experiment.backbone.name)
    stages = len(known.stages) if known else MANY_STAGES
    depths = [] if depth is None else depth.choices if isinstance(depth, Categorical) else [depth.high]
    fits = [value for value in depths if study.experiment.refusal({DEPTH: value}) is None]
    deepest = max(fits, key=lambda value: resolved_depth(value, stages), default=None)
    return study.experiment if deepest is None else study.experiment.replace({DEPTH: deepest})


def _is_closed(study: Study, stored: "optuna.Study") -> bool:
    """Return whether the budget is spent and the winner of these very trials was delivered."""
    return is_finished(stored) and searching.is_spent(study, stored)


def _costs(session: Session, stored: "optuna.Study") -> Costs:
    """Return what recipes cost, as the study has measured so far: a resumed one goes by the same figures."""
    return Costs(
        stored.user_attrs.get(COSTS),
        keep=lambda figures: stored.set_user_attr(COSTS, figures),
        settle=session.settle,
    )


def _tell_of_late_warm_start(session: Session, study: Study, stored: "optuna.Study") -> None:
    if study.warm_start.sources != NONE and searching.kept_starts(stored) is None:
        text = "warm_start has no effect on a study that was begun without it; --new begins another generation"
        session.notice(stored.study_name, text)


def _compare_stores(session: Session, study: Study, stored: "optuna.Study") -> None:
    """Say when MLflow lacks a study that Optuna holds: its store was deleted, or another one is in use."""
    tags = {"fttune.kind": "study", STUDY_ID: str(stored.user_attrs[searching.ID])}
    if not (counted := searching.counted(stored)):
        return
    with _left_out(session, "whether it has the earlier trials is not known"):
        if session.uploader.ask(lambda store: store.find_run(study.experiment.name, tags)) is None:
            session.notice(stored.study_name, f"{counted} earlier trials are not in this MLflow; --new runs them anew")


@contextmanager
def _left_out(session: Session, what: str) -> Iterator[None]:
    """Go on without what MLflow would be asked when it does not answer, and say so."""
    try:
        yield
    except TrackingFailed:
        session.tell()
        session.notice(TRACKING, f"MLflow at {session.target.label} does not answer, so {what}")


@dataclass
class _Search:
    """One invocation's search.

    `done` and `best`, by the first objective, are what people are told of the trials so far: counted from one trial to
    the next, for a look at all of them after each costs more than a trial in a long study.
    """

    study: Study
    session: Session
    stored: "optuna.Study"
    trials: Trials
    attempts: Attempts
    retained: Retained
    done: int = 0
    best: float | None = None

    def run(self, identity: Identity) -> None:
        parent, name = self.stored.study_name, self.study.experiment.name
        tags = {"fttune.kind": "study", "fttune.study": parent, "fttune.fingerprint": digest(identity)}
        tags |= {STUDY_ID: self.trials.id}
        if starts := searching.kept_starts(self.stored):
            tags |= {WARM_START: ", ".join(start.source for start in starts)}
        tags |= {"fttune.budget": self.study.budget.model_dump_json()}
        tags |= provenance(self.session.workspace.root, next(iter(self.trials.inputs.values())))
        closed = RunClosed("failed", {"fttune.cause": "an unexpected error"})
        try:
            self.session.log.append(parent, RunOpened(parent, name, params=_about(self.study), tags=tags, reopen=True))
            self._compare_environment()
            self._log_folds()
            running = [trial for trial in self.stored.get_trials(deepcopy=False) if not trial.state.is_finished()]
            self.trials.states.drop(but={trial.number for trial in running})
            self.done = searching.counted(self.stored)
            self.best = next((trial.values[0] for trial in searching.ranked(self.stored)), None)
            self._report_progress()
            self._run_trials()
            self.trials.states.drop()
            if best := searching.ranked(self.stored):
                describe(self.study, self.stored, next(iter(self.trials.inputs.values())))
            closed = self._crown(best[0]) if best else RunClosed("complete")
        except (Interrupted, KeyboardInterrupt):
            closed = RunClosed("interrupted")
            raise
        except FttuneError as error:
            closed = RunClosed("failed", {"fttune.cause": str(error)})
            raise
        finally:
            self.trials.close()
            self.session.log.append(parent, closed)
        self._remember_closed(best)

    def _run_trials(self) -> None:
        """Run the trials, here or in workers, which are ended however that ends."""
        device = choose_device(self.study.experiment.training).device.type
        job = Job(self.study, self.session.workspace, self.trials.name, self.trials.id)
        with started(job, device) as pool:
            if pool is None:
                executor: searching.Executor = searching.Inline(self.trials.run)
                abandon = self.trials.abandon
            else:
                driver = Driver(self.trials, self.session, self.attempts, self.trials.states.mirror)
                stalled = 60 * self.study.stalled_minutes
                start, count = pool
                self._tell_of_idle(count)
                executor = Workers(start, driver, count=count, stalled_seconds=stalled, shares=self.trials.shares)
                abandon = driver.abandon
            try:
                hooks = searching.Hooks(self.trials.together, abandon, self.trials.reuse, self._told)
                searching.search(self.study, self.stored, executor, hooks)
            finally:
                executor.close()

    def _tell_of_idle(self, workers: int) -> None:
        """Say when no block has a trial for all workers."""
        batch = self.study.batch
        if batch < workers:
            text = f"batch is {batch}, so {workers - batch} of {workers} workers have nothing to do"
            self.session.notice(self.trials.name, f"{text}; a study with `batch: {2 * workers}` keeps them at work")

    def _compare_environment(self) -> None:
        """Say once when library versions or the device are not those that the study was begun with."""
        device = choose_device(self.study.experiment.training).summary
        now = {**library_versions(), "device": device}
        begun = self.stored.user_attrs.get(ENVIRONMENT)
        if begun is None:
            self.stored.set_user_attr(ENVIRONMENT, now)
        elif changed := differences(begun, now):
            text = f"begun in another environment, so results may differ: {'; '.join(changed)}"
            self.session.notice(self.stored.study_name, text)

    def _log_folds(self) -> None:
        """Keep with the study which sample validates in which fold."""
        inputs = next(iter(self.trials.inputs.values()))
        if inputs.folds is None:
            return
        file = self.session.files_of(self.stored.study_name) / "folds.csv"
        write_folds(file, inputs.folds, classes=inputs.data.classes)
        self.session.log.append(self.stored.study_name, FileSaved(file, "data"))

    def _told(self, number: int, outcome: Outcome) -> None:
        """Let go of what a trial that has ended is not needed for any more, and tell people."""
        self.trials.states.forget(number)
        self.retained.update()
        self._report_progress(outcome)

    def _report_progress(self, outcome: Outcome | None = None) -> None:
        if outcome is not None:
            self.done += outcome.state != "failed"
            found = [value for value in (self.best, outcome.value) if value is not None]
            self.best = (max if self.study.direction == "maximize" else min)(found, default=None)
        self.session.log.append(self.stored.study_name, StudyProgress(self.done, self.study.total_trials, self.best))

    def _crown(self, best: "optuna.trial.FrozenTrial") -> RunClosed:
        """Log the best trial's model on the parent run."""
        parent, experiment = self.stored.study_name, self.study.recipe(best.params)
        checkpoint = self._best_checkpoint(best.number)
        if checkpoint is None:
            with _left_out(self.session, "the best trial's model is not logged"):
                why = lost_checkpoint(self.session, self.study, self.stored, best.number)
                self.session.notice(parent, f"the best trial's model is not logged: {why}")
        else:
            model = ModelSaved(checkpoint, experiment.data.image_size, self.session.workspace.plugins)
            self.session.log.append(parent, model)
        return RunClosed("complete", {"fttune.best_trial": str(best.number)}, {"best_value": best.values[0]})

    def _best_checkpoint(self, number: int) -> Path | None:
        """Return a trial's checkpoint from MLflow; while that does not answer, the file that waits for it."""
        with _left_out(self.session, "the best trial's model is made of the checkpoint that waits here"):
            return checkpoint_of(self.session, self.study, self.stored, number)
        waiting = self.session.uploader.waiting_files(f"{self.stored.study_name}/{number}")
        kept = self.session.files_of(
            self.stored.study_name
        )  # the trial's own folder is dropped before the model is made
        files = {file.name: second_name(file, kept) for file in waiting if file.stem == "best"}
        return files.get("best.safetensors")

    def _remember_closed(self, best: "list[optuna.trial.FrozenTrial]") -> None:
        runs = [f"{self.stored.study_name}/{trial.number}" for trial in best[:COMPARED_RUNS]]
        name = self.study.experiment.name
        path = None
        with _left_out(self.session, "the page that compares the best runs is not known"):
            path = self.session.uploader.ask(lambda store: store.comparison(name, runs, {STUDY_ID: self.trials.id}))
        self.session.deliver()
        self.retained.settle()
        closed = {"trials": searching.counted(self.stored), "compare": path}
        self.stored.set_user_attr(CLOSED, json.dumps(closed))


def _about(study: Study) -> dict[str, object]:
    """Return the parent run's params, which MLflow never lets change: how it searches, and from which recipe."""
    own = {"metric", "direction", "batch", "sampler", "pruner", *study.optional}
    params = flatten(study.model_dump(include=own))
    space = {f"space.{name}": d.model_dump_json(exclude_defaults=True) for name, d in study.space.items()}
    return {**params, **space, **study.experiment.params()}
