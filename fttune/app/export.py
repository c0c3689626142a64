"""A trial of a finished search, to be used elsewhere: as a recipe, as weights, or as a model that needs no fttune."""

import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fttune.app.final import final_tags
from fttune.app.session import open_session
from fttune.app.studies import checkpoint_of, lost_checkpoint, stored_study, trained_trial
from fttune.config import Study
from fttune.config.dump import experiment_yaml
from fttune.config.workspace import Workspace
from fttune.errors import BadInput
from fttune.files import new_folder, told, write_atomically, write_text
from fttune.models import load_model
from fttune.models.export import export_onnx, export_pt2
from fttune.models.files import read_sidecar

if TYPE_CHECKING:
    import optuna

Kind = Literal["experiment", "safetensors", "pt2", "onnx", "mlflow"]
SUFFIXES = {"experiment": ".yaml", "safetensors": ".safetensors", "pt2": ".pt2", "onnx": ".onnx", "mlflow": ""}


def export(
    study: Study,
    kind: Kind,
    *,
    trial: int | None = None,
    final: bool = False,
    out: Path | None = None,
    workspace: Workspace | None = None,
) -> Path:
    """Write a complete trial (default: the best one) as a file, for mlflow a folder, and return its path.

    Args:
        study: from `load_study`.
        kind: `experiment` is the recipe, `safetensors` the weights under the backbone's own names with their JSON,
            `pt2`, `onnx` and `mlflow` are the model; it takes images that are already normalised.
        trial: its number.
        final: the newest model of `train_final` in its place, of that trial where one is named.
        out: default `<study>-<number>`, or `<study>-final`, with the suffix of the kind; a recipe goes to
            `experiments/`, all else to the root.
        workspace: where `mlruns/` lies; default the current directory.

    Raises:
        BadInput: the study was not searched here, the trial is not complete, its checkpoint is gone, `out` is there,
            there is no final model, or its recipe is asked for, which is the trial's.
        WorkFailed: the exported model computes something else.
        CannotWrite: the disk is full or fails.
    """
    workspace = workspace or Workspace.at()
    stored = stored_study(study, workspace)
    if final and kind == "experiment":
        raise BadInput("--final is a model, and its recipe that of its trial; leave it out, or use --as safetensors")
    number = trained_trial(stored, None if final else trial)
    folder = workspace.root / ("experiments" if kind == "experiment" else "")
    out = out or folder / f"{study.name}-{'final' if final else number}{SUFFIXES[kind]}"
    if kind == "safetensors" and out.suffix != SUFFIXES[kind]:
        raise BadInput(f"{out}: must end with {SUFFIXES[kind]}; its JSON lies beside it")
    for file in (out, out.with_suffix(".json")) if kind == "safetensors" else (out,):
        if file.exists():
            raise BadInput(f"{file}: is there already; move it away, or name another file with --out")
    if kind == "experiment":
        _write_recipe(study, stored, number, out)
        return out
    checkpoint = _final(study, stored, trial, workspace) if final else _checkpoint(study, stored, number, workspace)
    if kind == "safetensors":
        for suffix in (".safetensors", ".json"):  # the one with the checksum last
            with told(out):
                write_atomically(out.with_suffix(suffix), partial(shutil.copyfile, checkpoint.with_suffix(suffix)))
        return out
    with told(out):
        _write_model(checkpoint, kind, out, plugins=workspace.plugins)
    return out


def _write_recipe(study: Study, stored: "optuna.Study", number: int, out: Path) -> None:
    trial = stored.get_trials(deepcopy=False)[number]
    recipe = study.recipe(trial.params).replace({"training.monitor": study.metric})
    values = zip(study.objectives, trial.values, strict=True)
    found = ", ".join(f"{objective.name} {value:.6g}" for objective, value in values)
    header = [f"Trial {number} of study {stored.study_name}: {found}."]
    text = experiment_yaml(recipe, header)
    with told(out):
        write_text(out, text)


def _checkpoint(study: Study, stored: "optuna.Study", number: int, workspace: Workspace) -> Path:
    with open_session(workspace, tracking_uri=study.tracking.uri, display=None) as session:
        found = checkpoint_of(session, study, stored, number)
        if found is None:
            raise BadInput(lost_checkpoint(session, study, stored, number))
    return found


def _final(study: Study, stored: "optuna.Study", trial: int | None, workspace: Workspace) -> Path:
    tags = final_tags(stored, trial)
    with open_session(workspace, tracking_uri=study.tracking.uri, display=None) as session:
        found = session.checkpoint(study.experiment.name, tags)
    if found is None:
        which = "" if trial is None else f" of trial {trial}"
        raise BadInput(f"study {study.name} has no final model{which}; train one with `fttune train --final`")
    return found


def _write_model(checkpoint: Path, kind: Kind, out: Path, *, plugins: Sequence[Path]) -> None:
    size = read_sidecar(checkpoint)["preprocessing"]["crop"]
    if kind == "mlflow":
        from fttune.tracking.models import save_model

        with new_folder(out) as folder:
            save_model(folder, checkpoint, image_size=size, plugins=plugins)
        return
    model = load_model(checkpoint, plugins=plugins)
    (export_pt2 if kind == "pt2" else export_onnx)(model, out, image_size=size)
