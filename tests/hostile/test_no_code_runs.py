"""Pickle is never loaded: what in fttune could unpickle or execute is listed here, and hostile files run nothing."""

import ast
import hashlib
import inspect
import io
import pickle
import re
import tarfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from torchvision import datasets

from fttune.config import known, load_experiment
from fttune.data.arrays import ArrayCache, Spec
from fttune.data.torchvision_sets import torchvision_samples
from fttune.errors import ConfigError, DataError, WeightsError
from fttune.models.files import read_tensors
from tests.hostile.payload import RunsCode
from tests.recipes import write_experiment

ROOT = Path(__file__).parents[2] / "fttune"
# Last parts of names by which imported modules, or builtins, unpickle, execute, import or start something.
SUSPICIOUS = {
    *("load", "loads", "load_all", "full_load", "unsafe_load", "read_pickle", "open_memmap", "loadmat", "Unpickler"),
    *("eval", "exec", "compile", "__import__", "import_module", "reload", "run_path", "run_module"),
    *("system", "popen", "Popen", "run", "call", "check_call", "check_output", "startfile", "CDLL", "LoadLibrary"),
    *("execl", "execle", "execlp", "execv", "execve", "execvp", "execvpe", "spawnv", "spawnl", "posix_spawn"),
}
BUILTINS = {"eval", "exec", "compile", "__import__"}
# Methods that do so on whatever object.
METHODS = {"get_state_dict", "load_state_dict_from_url", "create_model", "load_pyfunc", "exec_module", "load_module"}
HARMLESS = ("json.", "re.", "fttune.")  # of fttune itself each file is looked at
# Each such call, by file and full name, and why no input decides what it runs.
ALLOWED = {
    ("__init__.py", "importlib.import_module"): "a table of fttune's own modules",
    ("tracking/uploader.py", "importlib.import_module"): "fttune's own module, in the background",
    ("app/provenance.py", "subprocess.run"): "git, with fixed arguments and no shell",
    ("app/process.py", "subprocess.Popen"): "a worker of this very program, with fixed arguments and no shell",
    ("nightly/process.py", "subprocess.Popen"): "this very program for one study, with the words of the command line",
    ("nightly/process.py", "ctypes.CDLL"): "the C library that runs already, to end with the night",
    ("nightly/night.py", "subprocess.run"): "--on-finish, the user's own command, without a shell",
    ("cli/commands.py", "os.execve"): "mlflow's server, with fttune's own options and no shell",
    ("data/arrays.py", "numpy.lib.format.open_memmap"): "refuses arrays of objects, which alone are pickled",
    ("data/rows.py", "numpy.lib.format.open_memmap"): "as above",
    ("models/export.py", "torch.export.load"): "the file that this very call has written",
    ("models/files.py", "torch.load"): "weights_only=True",
    ("models/files.py", "safetensors.torch.load"): "a format without code",
    ("models/plugins.py", "runpy.run_path"): "a plugin, which the command line names: it is there to be run",
    ("models/timm_models.py", "timm().create_model"): "loads with weights_only=True, from timm's own hub alone",
    ("models/weights.py", "enum.get_state_dict"): "check_hash=True, weights_only=True",
}


def _calls(tree: ast.Module) -> Iterator[tuple[str, bool, ast.Call]]:
    """Yield each call with its dotted name, imported names replaced by what they stand for, and whether one was."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                first = alias.name.partition(".")[0]
                names |= {alias.asname: alias.name} if alias.asname else {first: first}
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            first, dot, rest = ast.unparse(node.func).partition(".")
            module = first in names and "(" not in rest  # not a method of what a function returned
            yield names.get(first, first) + dot + rest, module or first in BUILTINS, node


def suspicious_calls(root: Path) -> dict[tuple[str, str], list[ast.Call]]:
    """Return the calls below a folder that could run code, by file and name."""
    found: dict[tuple[str, str], list[ast.Call]] = {}
    for file in sorted(root.rglob("*.py")):
        for name, imported, call in _calls(ast.parse(file.read_text(encoding="utf-8"))):
            last = name.rpartition(".")[2]
            if (imported and last in SUSPICIOUS and not name.startswith(HARMLESS)) or last in METHODS:
                found.setdefault((file.relative_to(root).as_posix(), name), []).append(call)
    return found


def test_every_call_that_could_run_code_is_known() -> None:
    assert set(suspicious_calls(ROOT)) == set(ALLOWED)


def test_tensors_are_loaded_as_tensors_alone_and_downloads_by_their_hash() -> None:
    calls = suspicious_calls(ROOT)

    def options(file: str, name: str) -> list[dict[str, str]]:
        return [{k.arg or "**": ast.unparse(k.value) for k in call.keywords} for call in calls[file, name]]

    assert all(given["weights_only"] == "True" for given in options("models/files.py", "torch.load"))
    for given in options("models/weights.py", "enum.get_state_dict"):
        assert (given["weights_only"], given["check_hash"]) == ("True", "True")
    texts = [file.read_text(encoding="utf-8") for file in ROOT.rglob("*.py")]
    assert not any("allow_pickle" in text or "shell=True" in text for text in texts)
    assert sum("import pickle" in text for text in texts) == 1  # for the name of its error


def test_the_list_notices_what_it_is_there_for(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text(
        "import pickle as p, os, torch.hub\nfrom joblib import load as fetch\nimport numpy as np, yaml, subprocess\n"
        "p.loads(b'')\nos.system('x')\ntorch.hub.load('a', 'b')\nfetch('x')\nnp.load('x')\n"
        "yaml.load('x', yaml.Loader)\nsubprocess.Popen('x')\neval('1')\nexec('1')\nmodule.eval()\nimage.load()\n"
    )
    names = {name for _, name in suspicious_calls(tmp_path)}
    assert names == {
        *("pickle.loads", "os.system", "torch.hub.load", "joblib.load", "numpy.load", "yaml.load"),
        *("subprocess.Popen", "eval", "exec"),
    }


def _pickled_weights(payload: RunsCode, *, legacy: bool) -> bytes:
    content = io.BytesIO()
    torch.save({"a": torch.zeros(1), "b": payload}, content, _use_new_zipfile_serialization=not legacy)
    return content.getvalue()


@pytest.mark.parametrize("name", ["w.pth", "w.pt", "w.bin", "w.safetensors", "best.safetensors"])
@pytest.mark.parametrize("kind", ["zip", "legacy", "bare"])
def test_weights_that_are_a_pickle_run_nothing_even_where_torch_is_told_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: str
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    payload = RunsCode(tmp_path / "made")
    file = tmp_path / name
    file.write_bytes(pickle.dumps(payload, 2) if kind == "bare" else _pickled_weights(payload, legacy=kind == "legacy"))
    with pytest.raises(WeightsError, match=re.escape(str(file))):
        read_tensors(file)
    assert not (tmp_path / "made").exists()


def test_a_cached_array_of_objects_is_not_loaded(tmp_path: Path) -> None:
    cache, spec = ArrayCache(tmp_path), Spec((1, 1), np.dtype(np.uint8))
    with cache.writing({"images": spec}) as rows:
        rows.append("images", np.zeros((1, 1), np.uint8))
    assert cache.get("images", spec) is not None
    np.save(tmp_path / "images.npy", np.array([RunsCode(tmp_path / "made")], dtype=object), allow_pickle=True)
    assert ArrayCache(tmp_path).get("images", spec) is None
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "tag", ["!!python/object/apply:os.mkdir", "!!python/object/new:os.mkdir", "!!python/name:os.mkdir"]
)
def test_a_yaml_file_builds_no_python_objects(tmp_path: Path, tag: str) -> None:
    file = write_experiment(tmp_path)
    file.write_text(file.read_text(encoding="utf-8") + f"extra: {tag} [{tmp_path / 'made'}]\n", encoding="utf-8")
    with pytest.raises(ConfigError):
        load_experiment(file)
    assert not (tmp_path / "made").exists()


def _write_cifar(folder: Path, content: bytes) -> None:
    """Write what torchvision's CIFAR10 unpickles, each file with the same content."""
    place = folder / datasets.CIFAR10.base_folder
    place.mkdir(parents=True)
    lists = [*datasets.CIFAR10.train_list, *datasets.CIFAR10.test_list]
    for name in [name for name, _ in lists] + [datasets.CIFAR10.meta["filename"]]:
        (place / name).write_bytes(content)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """What any download brings, under the key `content`; without it there is no network."""
    content: dict[str, bytes] = {}

    def urlopen(*_: object, **__: object) -> object:
        if "content" not in content:
            raise urllib.error.URLError("no network in tests")
        return _Answer(content["content"])

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    return content


class _Answer(io.BytesIO):
    """What `urlopen` returns: readable, with a length and the address that it came from."""

    @property
    def length(self) -> int:
        return len(self.getvalue())

    headers: ClassVar[dict[str, str]] = {}
    url = "https://example.org/cifar-10-python.tar.gz"


def test_unpickling_the_payload_would_have_been_noticed(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(RunsCode(tmp_path / "made")))
    assert (tmp_path / "made").exists()


@pytest.mark.usefixtures("served")
@pytest.mark.parametrize("name", ["CIFAR10", "CIFAR100"])
def test_data_sets_that_are_pickles_are_not_read_without_their_published_checksum(tmp_path: Path, name: str) -> None:
    _write_cifar(tmp_path, pickle.dumps(RunsCode(tmp_path / "made")))
    with pytest.raises(DataError, match=f"torchvision:{name} is not complete"):
        torchvision_samples(f"torchvision:{name}", folder=tmp_path)
    assert not (tmp_path / "made").exists()


@pytest.mark.usefixtures("served")
def test_one_wrong_file_among_right_ones_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All batches have the checksum that torchvision knows; the list of class names, read last, has not."""
    right = pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": [0]})
    _write_cifar(tmp_path, right)
    md5 = hashlib.md5(right).hexdigest()
    for attribute in ("train_list", "test_list"):
        known = [[name, md5] for name, _ in getattr(datasets.CIFAR10, attribute)]
        monkeypatch.setattr(datasets.CIFAR10, attribute, known)
    meta = tmp_path / datasets.CIFAR10.base_folder / datasets.CIFAR10.meta["filename"]
    meta.write_bytes(pickle.dumps(RunsCode(tmp_path / "made")))
    with pytest.raises(DataError, match="metadata file not found or corrupted"):
        torchvision_samples("torchvision:CIFAR10", folder=tmp_path)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("there", [False, True])
def test_an_archive_of_a_wrong_checksum_is_not_unpacked(tmp_path: Path, served: dict[str, bytes], there: bool) -> None:
    """Whether it lies there already or a download brings it."""
    content = pickle.dumps(RunsCode(tmp_path / "made"))
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as packed:
        for name in ("data_batch_1", "test_batch", "batches.meta"):
            member = tarfile.TarInfo(f"{datasets.CIFAR10.base_folder}/{name}")
            member.size = len(content)
            packed.addfile(member, io.BytesIO(content))
    folder = tmp_path / "datasets"
    folder.mkdir()
    if there:
        (folder / datasets.CIFAR10.filename).write_bytes(archive.getvalue())
    else:
        served["content"] = archive.getvalue()
    with pytest.raises(DataError, match="torchvision:CIFAR10 is not complete"):
        torchvision_samples("torchvision:CIFAR10", folder=folder)
    assert not (folder / datasets.CIFAR10.base_folder).exists()
    assert not (tmp_path / "made").exists()


def test_only_cifar_is_unpickled_of_the_data_sets_that_fttune_knows() -> None:
    """By their source: whoever adds one that unpickles has to look at its checksum first."""
    unpickled = set()
    for name in known.torchvision_datasets():
        tree = ast.parse(Path(inspect.getfile(getattr(datasets, name))).read_text(encoding="utf-8"))
        for called, _, call in _calls(tree):
            options = {k.arg: ast.unparse(k.value) for k in call.keywords}
            if called.startswith("pickle.load") or (called == "torch.load" and options.get("weights_only") != "True"):
                unpickled.add(name)
            assert "allow_pickle" not in options
    assert unpickled == {"CIFAR10", "CIFAR100"}


def test_mlflow_is_told_to_unpickle_no_model() -> None:
    import mlflow.environment_variables as variables

    import fttune.tracking.store  # noqa: F401 (which says so)

    assert variables.MLFLOW_ALLOW_PICKLE_DESERIALIZATION.get() is False
