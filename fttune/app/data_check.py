"""Check the images of a folder or of an experiment's data section, before anything trains on them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fttune.config import Experiment, Study, load
from fttune.config.data import Data
from fttune.data import Checked, check_data
from fttune.errors import BadInput


@dataclass(frozen=True)
class CheckedData:
    """What was checked, as a person names it, and what was found."""

    name: str
    found: Checked


def check(path: Path, *, root: Path | None = None, say: Callable[[str], None] = lambda _: None) -> CheckedData:
    """Check a folder of images, or the data of an experiment's (or a study's) YAML file, whose paths lie below `root`.

    `root` is by default the current directory; `say` is told how far it is.

    Raises:
        BadInput: no such folder or file, or a source that is neither a folder nor a table.
    """
    root = (root or Path.cwd()).resolve()
    data = Data(source="folder", path=str(path.absolute())) if _is_folder(path) else _data_of(path)
    if data.source not in ("folder", "csv"):
        raise BadInput(f"{path}: data.source is {data.source}, but only folders and tables are checked; name one")
    return CheckedData(str(path), check_data(data, root=root, say=say))


def _data_of(path: Path) -> Data:
    if path.suffix not in (".yaml", ".yml"):
        raise BadInput(f"{path}: must be a folder of images or a YAML file of an experiment; name one")
    loaded: Experiment | Study = load(path)
    return loaded.experiment.data if isinstance(loaded, Study) else loaded.data


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # such as a name that is too long
        return False
