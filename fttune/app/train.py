"""One recipe, trained and tracked; and the recipes that begin where another one ended (`experiment:<name>`)."""

import math
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from fttune.app.depths import boundaries
from fttune.app.provenance import provenance
from fttune.app.room import prepare_disk
from fttune.app.session import Desk, Display, Session, open_session
from fttune.config import Experiment, Study, load_experiment
from fttune.config.data import CrossValidation
from fttune.config.fingerprint import digest, experiment_identity
from fttune.config.load import find_experiment
from fttune.config.workspace import Workspace
from fttune.errors import BadInput, Diverged, FttuneError, Interrupted, OutOfMemory
from fttune.files import private_folder
from fttune.training import CheckpointFolder, FineTuneResult, Inputs, check_recipe, prepare
from fttune.training import fine_tune as run_recipe
from fttune.training.events import EpochEnded, Event, EventLog, Notice, RunClosed, RunOpened

if TYPE_CHECKING:
    from torch import nn

_STATES: dict[type[FttuneError], str] = {Diverged: "diverged", OutOfMemory: "out_of_memory"}  # others failed


def fine_tune(
    experiment: Experiment,
    *,
    workspace: Workspace | None = None,
    backbone: "nn.Module | None" = None,
    prune: Callable[[EpochEnded], bool] = lambda _: False,
) -> FineTuneResult:
    """Train a recipe and return what it found, without tracking.

    Only `weights: experiment:<name>` needs MLflow: it is looked up there, and trained first when it is missing.

    Args:
        experiment: the recipe.
        workspace: where data and `mlruns/` lie; default the current directory.
        backbone: a model of one's own in place of the recipe's backbone and its weights. It carries `stages` (names to
            lists of dotted paths, from the input to the output) and `head` (the dotted path of its last layer). A copy
            of it trains, from the weights that it has now.
        prune: is told every epoch with its metrics; True ends the training, as `pruned`.

    Raises:
        BadInput: data, weights or device cannot be used.
        Diverged: a loss or metric became NaN or infinite.
        OutOfMemory: the recipe does not fit into memory, nor does it in micro-batches.
    """
    workspace = workspace or Workspace.at()
    if backbone is not None:
        inputs = prepare(experiment, workspace, module=backbone)
        assert inputs.architecture is not None, "a module brings its own"
        own = {"backbone.name": inputs.architecture.name, "backbone.weights": "none"}
        return run_recipe(experiment.replace(own), inputs, prune=prune)
    return run_recipe(experiment, untracked_inputs(experiment, workspace), prune=prune)


def untracked_inputs(experiment: Experiment, workspace: Workspace, *, display: Display | None = None) -> Inputs:
    """Return a recipe's inputs for work that is not tracked; MLflow is opened for `experiment:<name>` alone."""
    if not experiment.backbone.weights.startswith("experiment:"):
        inputs = prepare(experiment, workspace)
        log = EventLog(*([display] if display else []))
        for text in inputs.data.notices:
            log.append(experiment.name, Notice(text))
        return inputs
    with open_session(workspace, tracking_uri=None, display=display) as session:
        return prepare_in(session, experiment)


def train(
    experiment: Experiment, *, workspace: Workspace | None = None, display: Display | None = None
) -> FineTuneResult:
    """Train a recipe as a run of its own in MLflow, with its best and last checkpoint. Raises as `fine_tune`."""
    with open_session(workspace or Workspace.at(), tracking_uri=None, display=display) as session:
        inputs = prepare_in(session, experiment)
        check_recipe(experiment, inputs)
        session.uploader.open()  # refuses a store that cannot be used, before any work
        prepare_disk(session, experiment.name, inputs, checkpoints=2)  # the best and the last
        with own_run(session, f"train/{experiment.name}/{fingerprint_of(experiment, inputs)[:12]}") as run:
            return _train_in(session, experiment, inputs, run=run, reopen=session.states_of(run).exists())


@contextmanager
def own_run(session: Session, key: str) -> Iterator[str]:
    """Hold the run of a key, whose states are there when it was cut off; beside a process that holds it, a new one."""
    private_folder(session.workspace.locks)
    lock = FileLock(session.workspace.locks / f"{key.replace('/', '-')}.lock", blocking=False)
    try:
        lock.acquire()
    except Timeout:
        key = f"{key}-{uuid.uuid4().hex[:12]}"
    try:
        yield key
    finally:
        lock.release()


def prepare_in(
    session: Desk,
    experiment: Experiment,
    *,
    evaluation: CrossValidation | None = None,
    train_on_val: bool = False,
    before: tuple[str, ...] = (),
) -> Inputs:
    """Return a recipe's inputs, `evaluation` and `train_on_val` as in `prepare`.

    `before` are the experiments that wait for this one as their weights.
    """
    weights_file = None
    if experiment.backbone.weights.startswith("experiment:"):
        weights_file = _checkpoint_of(session, experiment.backbone.weights.partition(":")[2], before)
    inputs = prepare(
        experiment, session.workspace, evaluation=evaluation, train_on_val=train_on_val, weights_file=weights_file
    )
    for text in inputs.data.notices:
        session.notice(experiment.name, text)
    return inputs


def inputs_key(experiment: Experiment) -> str:
    """Return what decides about images and weights, and nothing else of a recipe."""
    return experiment.model_dump_json(include={"data", "backbone"})


def shared_inputs(session: Desk, study: Study, experiment: Experiment, known: dict[str, Inputs]) -> Inputs:
    """Return the inputs of a recipe of a study, whose activations are kept wherever the study can cut.

    Those of `known` where they are there; new ones join it and share its device images.
    """
    key = inputs_key(experiment)
    if key not in known:
        first = next(iter(known.values()))
        known[key] = replace(prepare_in(session, experiment, evaluation=study.evaluation), on_device=first.on_device)
    inputs = known[key]
    inputs.workbench.activations.wanted = boundaries(study, len(inputs.stages(experiment)))
    return inputs


def _checkpoint_of(session: Desk, name: str, before: tuple[str, ...]) -> Path:
    """Return the best checkpoint of the finished run of an experiment as its file stands, trained now if need be."""
    if name in before:
        raise BadInput(f"backbone.weights: experiments wait for each other: {' -> '.join((*before, name))}")
    source = load_experiment(find_experiment(name, session.workspace.root))
    inputs = prepare_in(session, source, before=(*before, name))
    wanted = {"fttune.kind": "train", "fttune.fingerprint": fingerprint_of(source, inputs)}
    private_folder(session.workspace.locks)
    with FileLock(session.workspace.locks / f"experiment-{name}.lock"):
        found = session.checkpoint(name, wanted)
        if found is None:
            session.notice(name, f"experiment {name} has no finished run yet: training it first")
            check_recipe(source, inputs)
            _train_in(session, source, inputs, run=f"train/{name}/{wanted['fttune.fingerprint'][:12]}", reopen=True)
            found = session.checkpoint(name, wanted)
    assert found is not None, "the run was just delivered"
    return found


def _train_in(
    session: Desk, experiment: Experiment, inputs: Inputs, *, run: str, reopen: bool = False
) -> FineTuneResult:
    tags = {"fttune.kind": "train", "fttune.fingerprint": fingerprint_of(experiment, inputs)}
    tags |= provenance(session.workspace.root, inputs)
    opened = RunOpened(experiment.name, experiment.name, params=experiment.params(), tags=tags, reopen=reopen)

    def train(*, emit: Callable[[Event], None], checkpoints: CheckpointFolder) -> FineTuneResult:
        return run_recipe(experiment, inputs, emit=emit, checkpoints=replace(checkpoints, keep_last=True))

    return tracked(session, run, opened, experiment, train)


def tracked(
    session: Desk,
    run: str,
    opened: RunOpened,
    recipe: Experiment,
    train: Callable[..., FineTuneResult],
    *,
    owner: str | None = None,
) -> FineTuneResult:
    """Train a recipe as a run, closed by how that ends, with all that it logged on disk. Raises what `train` raises.

    `train` takes `emit` and `checkpoints`, as `training.finish` does; notices are told as those of `owner`.
    """
    closed = RunClosed("failed", {"fttune.cause": "an unexpected error"})
    states = session.states_of(run)  # there as long as the run may go on
    try:
        private_folder(states)
        session.emit(run, opened)
        result = train(
            emit=lambda event: session.emit(run, event, owner=owner),
            checkpoints=CheckpointFolder(session.files_of(run), states=states),
        )
        closed = RunClosed(result.state, metrics=result_metrics(recipe, result))
    except (Interrupted, KeyboardInterrupt):
        closed = RunClosed("interrupted")
        raise
    except FttuneError as error:
        closed = RunClosed(_STATES.get(type(error), "failed"), {"fttune.cause": str(error)})
        raise
    finally:
        session.emit(run, closed)
        if closed.state != "interrupted":
            shutil.rmtree(states, ignore_errors=True)
    session.deliver()
    return result


def result_metrics(experiment: Experiment, result: FineTuneResult) -> dict[str, float]:
    """Return what a run's own row in MLflow says beside its curves. MLflow draws lr on a linear axis: hence its log.

    `elr` is the effective lr, lr / (1 - momentum) (Li et al., ICLR 2020, arXiv 2002.11770).
    """
    optimizer, lr = experiment.optimizer, experiment.optimizer.learning_rate
    metrics = {
        "best_epoch": float(result.best_epoch),
        "trainable_parameters": float(result.trainable_parameters),
        "trainable_fraction": result.trainable_parameters / result.parameters,
        "log10_lr": math.log10(lr),
        "elr": optimizer.elr or lr / (1 - (optimizer.momentum or 0.0)),
        "weight_decay_over_lr": optimizer.weight_decay / lr,
        "mean_step_seconds": sum(ended.metrics["step_seconds"] for ended in result.epochs) / len(result.epochs),
    }
    return {"value": result.value, **metrics} if result.value is not None and result.state == "complete" else metrics


def fingerprint_of(experiment: Experiment, inputs: Inputs) -> str:
    """Return the digest of all that decides what a training of a recipe comes to."""
    identity = experiment_identity(experiment, data=inputs.data.fingerprint, weights=inputs.weights.identity)
    return digest(identity)
