"""The winner of a study, trained once more on train and val together. The test split stays closed.

Nothing validates, so the number of epochs comes from before: the last one is the model.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median_low
from typing import TYPE_CHECKING

from fttune import searching
from fttune.app.confirm import confirm_key, stored_confirmation
from fttune.app.provenance import provenance
from fttune.app.session import Display, Session, open_session
from fttune.app.studies import inputs_of, run_tags, stored_study, trained_trial
from fttune.app.train import fingerprint_of, own_run, prepare_in, tracked
from fttune.config import Experiment, Study
from fttune.config.policy import resolve
from fttune.config.workspace import Workspace
from fttune.errors import BadInput
from fttune.report.confirmation import Confirmation
from fttune.training import CheckpointFolder, FineTuneResult, Fit, Inputs, check_recipe, plan
from fttune.training.events import STUDY_ID, Event, RunOpened

if TYPE_CHECKING:
    import optuna

TRAINED_ON = ("train", "val")


@dataclass(frozen=True)
class _Chosen:
    """A trial, for how many epochs its recipe is trained again, and why these, in words."""

    trial: int
    epochs: int
    why: str


def train_final(
    study: Study, *, trial: int | None = None, workspace: Workspace | None = None, display: Display | None = None
) -> FineTuneResult:
    """Train the winner's recipe on train and val together for its best epoch count, as a run of its own in MLflow.

    The schedule is that of the whole recipe, cut off after the last epoch: so each epoch has the lr, and the phase of
    the policy, under which that count was found. Of a confirmed candidate it is the median of its best epochs over the
    seeds (the lower one of two), of any other trial its own best epoch.

    Args:
        study: a searched one.
        trial: its number; default: the winner of the confirmation, or the best trial of an unconfirmed study.
        workspace: where data and `mlruns/` lie; default the current directory.
        display: is called with every event, for progress.

    Raises:
        BadInput: the study was not searched here or is another one now (StudyChanged), the trial is not complete, or
            its recipe waits for what a validation split shows.
        Diverged: a loss became NaN or infinite.
    """
    workspace = workspace or Workspace.at()
    stored = stored_study(study, workspace)
    with open_session(workspace, tracking_uri=study.tracking.uri, display=display) as session:
        chosen = _chosen(study, stored, trial, session)
        recipe = _unwatched(study.recipe(stored.get_trials(deepcopy=False)[chosen.trial].params))
        inputs_of(session, study, stored)  # refuses data or weights that are other ones now
        inputs = prepare_in(session, recipe, train_on_val=True)
        _refuse_what_waits(recipe, inputs)
        check_recipe(recipe, inputs)
        session.uploader.open()  # refuses a store that cannot be used, before any work
        session.notice(stored.study_name, chosen.why)
        return _train(session, stored, recipe, inputs, chosen)


def final_tags(stored: "optuna.Study", trial: int | None = None) -> dict[str, str]:
    """Return the tags of a study's final runs, or of those of a trial."""
    tags = {"fttune.kind": "final", STUDY_ID: str(stored.user_attrs[searching.ID])}
    return tags if trial is None else {**tags, "fttune.trial": str(trial)}


def _train(
    session: Session, stored: "optuna.Study", recipe: Experiment, inputs: Inputs, chosen: _Chosen
) -> FineTuneResult:
    number, epochs = chosen.trial, chosen.epochs
    tags = {"fttune.study": stored.study_name, "fttune.epochs": str(epochs), "fttune.trained_on": ", ".join(TRAINED_ON)}
    tags |= final_tags(stored, number) | provenance(session.workspace.root, inputs)
    facts = {"study": stored.study_name, "trial": number, "epochs": epochs, "trained_on": TRAINED_ON}

    def train(*, emit: Callable[[Event], None], checkpoints: CheckpointFolder) -> FineTuneResult:
        training = plan([recipe], inputs)[0]()
        training.about = {**training.about, "final": facts}
        fit = Fit(training, emit=emit, checkpoints=checkpoints)
        result = fit.go_on(lambda ended: "stop" if ended.epoch == epochs else "go")
        assert result is not None, "nothing pauses it"
        return result

    name = f"final/{stored.study_name}/{number}-{epochs}-{fingerprint_of(recipe, inputs)[:12]}"
    with own_run(session, name) as run:
        cut_off = session.states_of(run).exists()
        opened = RunOpened(f"final-{number:04d}", recipe.name, params=recipe.params(), tags=tags, reopen=cut_off)
        return tracked(session, run, opened, recipe, train)


def _chosen(study: Study, stored: "optuna.Study", trial: int | None, session: Session) -> _Chosen:
    found = stored_confirmation(stored)
    if found is None:
        number = trained_trial(stored, trial)
        which = f"trial {number}, " + (
            "as asked" if trial is not None else "the best one, for the study is unconfirmed"
        )
        return _of_trial(stored, number, which)
    winner, cheapest = found.candidates[0].trial, found.recommended
    number = winner if trial is None else trial
    which = f"trial {number}, {'the winner of the confirmation' if number == winner else 'as asked'}"
    if number not in {one.trial for one in found.candidates}:
        return _of_trial(stored, trained_trial(stored, number), which)
    if trial is None and cheapest not in (None, winner):
        which += f" (trial {cheapest} is cheaper and not distinguishable: --trial {cheapest})"
    best = _best_epochs(study, stored, number, session, found)
    if not best:
        return _of_trial(stored, number, f"{which}, whose confirmation is not in this MLflow")
    epochs = median_low(best)
    return _Chosen(number, epochs, _said(which, epochs, f"the median of its best ones, {', '.join(map(str, best))}"))


def _of_trial(stored: "optuna.Study", number: int, which: str) -> _Chosen:
    facts = searching.facts_of(stored.get_trials(deepcopy=False)[number])
    if facts is None or facts.best_epoch is None:
        raise BadInput(f"trial {number} of study {stored.study_name} has no best epoch on record; name another --trial")
    return _Chosen(number, facts.best_epoch, _said(which, facts.best_epoch, "its best one"))


def _said(which: str, epochs: int, source: str) -> str:
    return f"trains {which}, on train and val together, to epoch {epochs} ({source})"


def _best_epochs(
    study: Study, stored: "optuna.Study", number: int, session: Session, found: Confirmation
) -> Sequence[int]:
    """Return the best epoch under each seed of the confirmation, from its runs."""
    name, keys = study.experiment.name, [confirm_key(stored.study_name, number, seed) for seed in found.seeds]
    wanted = [run_tags(stored, key) for key in keys]
    runs = session.uploader.ask(lambda store: [store.find_run(name, tags, status="FINISHED") for tags in wanted])
    return [int(run.data.metrics["best_epoch"]) for run in runs if run is not None]


def _unwatched(recipe: Experiment) -> Experiment:
    """Return a recipe without what only watches the validation split: all of it went into the number of epochs."""
    given = recipe.given()
    training = {
        name: value for name, value in given["training"].items() if name not in ("monitor", "early_stop_epochs")
    }
    data = {name: value for name, value in given["data"].items() if name != "also_evaluate"}
    return Experiment.model_validate({**given, "name": recipe.name, "training": training, "data": data})


def _refuse_what_waits(recipe: Experiment, inputs: Inputs) -> None:
    """Refuse a recipe whose course depends on the validation split. Raises BadInput."""
    policy = resolve(recipe.freeze, inputs.stages(recipe), epochs=recipe.training.epochs)
    waiting = "training.schedule: plateau" if recipe.training.schedule == "plateau" else None
    if any(phase.plateau for phase in policy.phases):
        waiting = "freeze.phases: until_plateau"
    if waiting:
        raise BadInput(
            f"{waiting} waits for what the validation split shows, but in a final training that trains too; search "
            "with lengths that are fixed (another schedule, phases with `epochs`), or use `fttune export`"
        )
