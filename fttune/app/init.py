"""A folder of images to a first experiment and study: look, choose, write. Trains nothing and needs no network."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fttune.app.first_study import FirstStudy, propose
from fttune.config.sections import NAME, NAME_RULE
from fttune.data import Survey, look
from fttune.errors import BadInput
from fttune.files import obstacle, write_text
from fttune.models.weights import missing_download

FOLDERS = ("experiments", "studies")


@dataclass(frozen=True)
class Begun:
    """What was seen, what was chosen from it, and the files that were written: the experiment, then the study."""

    survey: Survey
    chosen: FirstStudy
    experiment: Path
    study: Path


def init(
    folder: Path, *, root: Path | None = None, name: str | None = None, say: Callable[[str], None] = lambda _: None
) -> Begun:
    """Look at a folder of images and write `experiments/<name>.yaml` and `studies/<name>.yaml` below `root`.

    `root` is by default the current directory, `name` that of the folder; `say` is told what else people should know.

    Raises:
        BadInput: the folder holds no images of two classes, or a file cannot or must not be written.
    """
    root = (root or Path.cwd()).resolve()
    _require_folder(folder, root)
    top = folder.resolve()
    name = top.name if name is None else name
    experiment, study = _places(root, name)
    path = _data_path(top, root)
    survey = look(top)
    _require_classes(survey, folder)
    for text in survey.notices:
        say(text)
    chosen = propose(survey, name=name, path=path)
    for file, text in ((experiment, chosen.experiment), (study, chosen.study)):
        _write(file, text)
    if missing := missing_download(chosen.backbone.value, "DEFAULT"):
        say(
            f"the weights are not on this machine yet: the first training fetches {missing.url}; without a network, "
            f"put that file into {missing.folder}, or name one by --set backbone.weights=FILE"
        )
    return Begun(survey, chosen, experiment, study)


def _require_folder(folder: Path, root: Path) -> None:
    if not folder.exists():
        raise BadInput(f"{folder}: there is no such folder; name one that holds <class>/<image>")
    if not folder.is_dir():
        table = "; for a table, copy experiments/resnet50_folder.yaml and set data.source: csv"
        raise BadInput(f"{folder}: must be a folder of images{table if folder.suffix == '.csv' else ''}")
    if root.is_relative_to(folder.resolve()):
        raise BadInput(
            f"{folder}: holds the current directory, so experiments/ and studies/ would count as classes; "
            "put the images into a folder of their own"
        )


def _places(root: Path, name: str) -> tuple[Path, Path]:
    """Return where the two files go; refuse a name that is taken, and a place that cannot be written."""
    if not re.fullmatch(NAME, name):
        raise BadInput(f"--name: {NAME_RULE}, got {name!r}; give another one")
    for folder in FOLDERS:
        if taken := sorted((root / folder).rglob(f"{name}.yaml")):
            raise BadInput(
                f"{taken[0].relative_to(root)}: is there already; give another name by --name, or move it away"
            )
        if nearest := obstacle(root / folder):
            raise BadInput(f"{root / folder}: cannot be written, since {nearest} is no folder that can")
    experiment, study = (root / folder / f"{name}.yaml" for folder in FOLDERS)
    return experiment, study


def _data_path(top: Path, root: Path) -> str:
    """Return how `data.path` names the folder: from the root when it lies below it."""
    path = top.relative_to(root).as_posix() if top.is_relative_to(root) else str(top)
    if not path.isprintable():
        raise BadInput(f"{path!a}: cannot stand in a YAML file; rename the folder")
    return path


def _require_classes(survey: Survey, folder: Path) -> None:
    if not survey.files:
        raise BadInput(f"{folder}: has no image in a class folder; put images into {folder}/<class>/")
    if len(survey.classes) < 2:
        raise BadInput(
            f"{folder}: has one class, {survey.classes[0]!r}, but a classifier needs two; "
            "add a folder for another class, or name the folder above"
        )


def _write(file: Path, text: str) -> None:
    try:
        write_text(file, text)
    except OSError as error:
        raise BadInput(f"{file}: cannot be written ({error.strerror}); make room, or the folder writable") from error
