"""Two studies, or runs, compared: where they lie, whether they may be compared, and their recipes side by side.

Reads what was stored; trains nothing, reads no image and never opens the test split.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import pandas as pd

from fttune import searching
from fttune.app.confirm import candidates, stored_confirmation
from fttune.app.session import Session, open_session
from fttune.app.studies import is_finished, run_tags, stored_study
from fttune.config import Experiment, Study
from fttune.config.experiment import as_param
from fttune.config.fingerprint import DATA, FOLDS, NO_INFLUENCE
from fttune.config.sections import VAL_METRICS
from fttune.config.workspace import Workspace
from fttune.errors import BadInput
from fttune.report.comparison import Comparison, Contender, Side, compared
from fttune.report.confirmation import Confirmation, Confirmed
from fttune.report.statistics import METRICS

if TYPE_CHECKING:
    import optuna
    from mlflow.entities import Run

RUN_ID = re.compile(r"[0-9a-f]{32}")
CONTENT, CLASSES = "fttune.data.fingerprint", "fttune.data.class_names"
PREDICTIONS = "confirm/predictions.csv"
_SAYS_NOTHING_OF_RUNS = ("seed", *NO_INFLUENCE)  # of an experiment: what may differ between its runs


@dataclass(frozen=True)
class _Data:
    """What two must share to be compared: the data's fingerprint, and what can explain that it differs."""

    content: str
    fields: Mapping[str, str]
    classes: str | None


def compare(
    first: Study | Experiment | str, second: Study | Experiment | str, *, workspace: Workspace | None = None
) -> Comparison:
    """Compare two searched studies by their winners, or runs by their validation metric; paired where they share seeds.

    Args:
        first: a study from `load_study`; an experiment from `load_experiment`, which stands for its finished `train`
            runs under every seed; or the id of an MLflow run.
        second: likewise.
        workspace: where `mlruns/` lies; default the current directory.

    Raises:
        BadInput: data, split, classes or metric differ, each named; both are the same; one is not there or has no
            validation value.
    """
    workspace = workspace or Workspace.at()
    (ours, our_data), (theirs, their_data) = _found(first, workspace), _found(second, workspace)
    if ours.name == theirs.name:
        raise BadInput(f"both name {ours.name}; name two studies, experiments or runs")
    if different := [*_metrics(ours, theirs), *_mismatches(ours.name, our_data, theirs.name, their_data)]:
        listed = "\n".join(f"  {line}" for line in different)
        raise BadInput(f"{ours.name} and {theirs.name} cannot be compared:\n{listed}")
    return compared(ours, theirs)


def _found(what: Study | Experiment | str, workspace: Workspace) -> tuple[Side, _Data]:
    if isinstance(what, Study):
        stored = stored_study(what, workspace)
        with open_session(workspace, tracking_uri=what.tracking.uri, display=None) as session:
            return _study_side(what, stored, session)
    if not os.environ.get("MLFLOW_TRACKING_URI") and not (workspace.mlruns / "mlflow.db").is_file():
        raise BadInput(f"{workspace.mlruns}: holds no runs yet; run `fttune train` or `fttune search` first")
    with open_session(workspace, tracking_uri=None, display=None) as session:
        return _experiment_side(what, session) if isinstance(what, Experiment) else _run_side(what, session)


def _metrics(first: Side, second: Side) -> Iterator[str]:
    if first.metric != second.metric:
        yield (
            f"metric: {first.name} has {first.metric}, {second.name} has {second.metric}; give both the same "
            "`metric` (of a run: `training.monitor`)"
        )


def _mismatches(first: str, ours: _Data, second: str, theirs: _Data) -> Iterator[str]:
    """Yield a line for each field that makes data, split or classes differ; one of the content where no field does."""
    if ours.content == theirs.content:
        return
    a, b = ({name: d.fields[name] for name in d.fields if _decides_content(name)} for d in (ours, theirs))
    named = {name: (a.get(name, "none"), b.get(name, "none")) for name in sorted({*a, *b})}
    if ours.classes is not None and theirs.classes is not None and "data.classes" not in named:
        named["classes"] = ours.classes, theirs.classes
    differing = {name: values for name, values in named.items() if values[0] != values[1]}
    for name, (one, other) in differing.items():
        what = next((w for w in ("split", "classes", "evaluation") if w in name), "data")
        yield f"{name}: {first} has {one}, {second} has {other}; {_REMEDIES[what]}"
    if not differing:
        short = ours.content[:12], theirs.content[:12]
        yield f"data: {first} has content {short[0]}, {second} has {short[1]}; {_REMEDIES['data']}"


_REMEDIES = {
    "split": "samples that one trains on would judge the other; give both the same data.split",
    "evaluation": "give both the same folds",
    "classes": "give both the same data.classes",
    "data": "use the same images and labels for both",
}


def _decides_content(field: str) -> bool:
    plain = ("data.source", "data.path", "data.classes", "data.limit_per_class", "data.on_bad_image")
    return field in plain or field.startswith(("data.split.", "data.shift", "evaluation."))


def _study_side(study: Study, stored: "optuna.Study", session: Session) -> tuple[Side, _Data]:
    name, ranked, found = stored.study_name, searching.ranked(stored), stored_confirmation(stored)
    if not ranked:
        raise BadInput(f"study {name} has no complete trial yet; run `fttune search` on it first")
    best = ranked[0]
    assert best.value is not None, "a ranked trial has a value"
    facts, seed = searching.facts_of(best), study.recipe(best.params).seed
    size = facts.trainable_parameters if facts else None
    single = Contender(name, "best trial", f"trial {best.number}", best.params, size, (seed,), (best.value,))
    tags = run_tags(stored, name)
    parent = session.uploader.ask(lambda store: store.find_run(study.experiment.name, tags))
    predictions, notes = None, [] if is_finished(stored) else [f"study {name} is unfinished; `fttune search` goes on"]
    if found and found.opened:
        predictions = _predictions(parent, session)
        notes += [] if predictions is not None else [f"the test predictions of {name} are not in MLflow"]
    if found and {one.trial for one in found.candidates} != {trial.number for trial in candidates(study, stored)}:
        notes.append(f"study {name} has other candidates than those confirmed; `fttune confirm` trains the new ones")
    metric = study.metric.partition("/")[2]
    side = Side(
        name,
        study.metric,
        study.direction,
        single,
        _confirmed(found) if found else (),
        f"run `fttune confirm` on {name}" + (" with more seeds (confirm.seeds)" if found else ""),
        test_metric=metric if metric in METRICS else "accuracy",
        predictions=predictions,
        notes=tuple(notes),
    )
    fields = {key: as_param(value) for key, value in study.experiment.params().items()}
    identity = stored.user_attrs[searching.IDENTITY]
    content = str(identity[f"experiment.{DATA}"])
    if study.evaluation is not None:
        content += str(identity[FOLDS])
        fields |= {f"evaluation.{key}": str(value) for key, value in study.evaluation}
    return side, _Data(content, fields, parent.data.tags.get(CLASSES) if parent else None)


def _confirmed(found: Confirmation) -> tuple[Contender, ...]:
    """Return the winner, and after it the recommended candidate if that is another one."""
    winner = found.candidates[0]
    cheapest = next((one for one in found.candidates if one.trial == found.recommended), winner)
    chosen = {"winner": winner} | ({"recommended": cheapest} if cheapest is not winner else {})
    return tuple(_contender(found, role, one) for role, one in chosen.items())


def _contender(found: Confirmation, role: str, one: Confirmed) -> Contender:
    runs = {seed: value for seed, value in zip(found.seeds, one.val, strict=True) if value is not None}
    return Contender(
        found.study, role, one.name, one.params, one.trainable_parameters, tuple(runs), tuple(runs.values())
    )


def _predictions(parent: "Run | None", session: Session) -> pd.DataFrame | None:
    """Return what the confirmation logged of every test sample, by its name; None when it is gone."""
    file = session.uploader.ask(lambda store: store.file_of(parent, PREDICTIONS)) if parent else None
    return None if file is None else pd.read_csv(file, dtype=str, keep_default_na=False).set_index("sample")


def _experiment_side(experiment: Experiment, session: Session) -> tuple[Side, _Data]:
    """Return the finished runs of an experiment as its file stands, the newest one of each seed."""
    name = experiment.name
    wanted = {key: as_param(value) for key, value in experiment.params().items() if not _may_differ(key)}
    tags = {"fttune.kind": "train"}
    runs = session.uploader.ask(lambda store: store.find_runs(name, tags, status="FINISHED"))
    same = [run for run in runs if {k: v for k, v in run.data.params.items() if not _may_differ(k)} == wanted]
    if not same:
        raise BadInput(
            f"experiment {name} has no finished run of its file as it stands; run `fttune train` on it first"
        )
    of_same_data = [run for run in same if run.data.tags[CONTENT] == same[0].data.tags[CONTENT]]
    newest = [next(runs) for _, runs in groupby(sorted(of_same_data, key=_seed), key=_seed)]  # sorting keeps the order
    more = f"run `fttune train` on {name} with other seeds (--set seed=...)"
    return _side_of_runs(f"experiment {name}", experiment.training.monitor, newest, more), _data_of(
        newest[0], newest[0]
    )


def _may_differ(param: str) -> bool:
    return param in _SAYS_NOTHING_OF_RUNS or param.startswith("data.also_evaluate")


def _run_side(run_id: str, session: Session) -> tuple[Side, _Data]:
    if not RUN_ID.fullmatch(run_id):
        raise BadInput(f"{run_id!r} is no run id (32 hex digits); MLflow shows it on the page of the run")
    run = session.uploader.ask(lambda store: store.get_run(run_id))
    if run is None:
        raise BadInput(f"run {run_id} is not in this MLflow; check the id, and --mlruns")
    kind, owner = run.data.tags.get("fttune.kind"), run
    if kind == "study":
        raise BadInput(f"run {run_id} is that of study {run.data.tags['fttune.study']}; name the study's YAML file")
    if kind in ("trial", "confirm"):
        parent_id = run.data.tags["mlflow.parentRunId"]
        owner = session.uploader.ask(lambda store: store.get_run(parent_id)) or run
    if kind is None or CONTENT not in owner.data.tags:
        raise BadInput(f"run {run_id} is none that can be compared; name one of `fttune train` or of a trial")
    metric = owner.data.params["metric" if owner is not run else "training.monitor"]
    more = "compare the experiment's YAML file, which stands for its runs under every seed"
    return _side_of_runs(f"run {run_id[:8]}", metric, [run], more), _data_of(run, owner)


def _seed(run: "Run") -> int:
    return int(run.data.params["seed"])


def _side_of_runs(name: str, metric: str, runs: "Sequence[Run]", more: str) -> Side:
    for run in runs:
        if "value" not in run.data.metrics:
            state, about = run.data.tags.get("fttune.state", "running"), f"{run.info.run_name} ({run.info.run_id})"
            why = "it had no validation split" if state == "complete" else f"it is {state}"
            raise BadInput(f"run {about} has no value to compare, since {why}; name a complete run with one")
    found = {_seed(run): float(run.data.metrics["value"]) for run in runs}
    size = int(runs[0].data.metrics["trainable_parameters"])
    params = {"optimizer.lr": float(runs[0].data.params["optimizer.lr"])}
    one = Contender(name, "run" if len(runs) == 1 else "runs", "", params, size, tuple(found), tuple(found.values()))
    return Side(name, metric, VAL_METRICS[metric], one, (one,), more)


def _data_of(run: "Run", owner: "Run") -> _Data:
    """Return the data of a run; those of a trial stand with its study's run, the `owner`."""
    return _Data(owner.data.tags[CONTENT], run.data.params, owner.data.tags.get(CLASSES))
