"""The k-th write, flush or rename of a study fails: nothing is damaged, and the same command finishes the study.

Of fttune's own files every k is tried, of SQLite's a seeded choice; each with both errors by `pytest -m slow`.
"""

import errno
import random
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults import oracle
from tests.faults.forks import Ended, Fault, Forks
from tests.recipes import write_experiment, write_study

SOURCE = Path(__file__).with_name("disk.c")
BACKBONE = """
from torch import nn

class Net(nn.Module):
    stages = {"stem": ["stem"]}
    head = "last"

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.AvgPool2d(4), nn.Flatten())
        self.last = nn.Linear(12, 10)

    def forward(self, x):
        return self.last(self.stem(x))

BACKBONES = {"net": Net}
"""
SPACE = {"optimizer.lr": {"type": "float", "low": 1.0e-3, "high": 0.1, "log": True}}
COMMAND = ("search", "studies/tiny.yaml", "--plugin", "net.py")
CHANGING = ("write", "fsync", "rename", "link")
SEEDED = 60  # of SQLite's calls
PARTS = range(4)  # of each family, side by side


def write_tiny(root: Path) -> Path:
    """Write a study of one trial of a head of 130 parameters, one epoch long: the next would make the same calls."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "net.py").write_text(BACKBONE)
    write_experiment(root, backbone__name="plugin:net", freeze__unfrozen_stages=0, training__epochs=1)
    return write_study(root, budget__n_trials=1, space=SPACE)


@dataclass
class Disturbed:
    """A study whose disk fails, in a new folder each time, against what an undisturbed one stores."""

    forks: Forks
    root: Path
    empty: Path
    whole: oracle.Stored
    calls: dict[str, tuple[str, ...]]

    def chosen(self, family: str, kinds: tuple[str, ...]) -> list[int]:
        """Return which calls of an undisturbed study, counted from 1, are of some kinds."""
        return [k for k, call in enumerate(self.calls[family], start=1) if call.startswith(kinds)]

    def fails_at(self, fault: Fault) -> Ended:
        """Run the study with a fault, then without; return how the first run ended."""
        root = self.root / "case"
        shutil.rmtree(root, ignore_errors=True)
        begin(root, self.empty)
        fault = Fault(str(root / "mlruns"), fault.family, fault.k, fault.code)
        ended = self.forks.run(*COMMAND, cwd=root, fault=fault)
        at = f"{fault} at {ended.calls[fault.k - 1] if len(ended.calls) >= fault.k else 'nothing'}\n{ended.err}"
        assert ended.code in (0, 1), at
        assert "Traceback" not in ended.err, at
        if ended.code == 1:
            last = ended.err.splitlines()[-1]
            assert "run the same command again" in last, at
            assert str(root / "mlruns") in last, at
        try:
            stored = oracle.read(root / "mlruns")
            oracle.require_old_or_new(stored, self.whole)
            oracle.require_sound_checkpoints(root / "mlruns")
            if ended.code == 1 or stored != self.whole:
                again = self.forks.run(*COMMAND, cwd=root, fault=Fault(fault.folder, fault.family))
                assert again.code == 0, again.err
                assert oracle.read(root / "mlruns") == self.whole
            assert oracle.require_sound_checkpoints(root / "mlruns" / "artifacts") == len(self.whole.trials)
        except Exception as error:
            raise AssertionError(f"{at}\n{error}") from error
        assert not list((root / "mlruns").rglob(".*.tmp*")), f"{at}: leftovers"
        return ended


def begin(root: Path, empty: Path) -> None:
    """Write the study beside empty stores: making them takes longer than all else."""
    write_tiny(root)
    (root / "mlruns").mkdir()
    for name in ("optuna.db", "mlflow.db"):
        shutil.copy(empty / name, root / "mlruns" / name)


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    if compiler is None or not Path("/proc/self/fd").is_dir():
        pytest.skip("needs a C compiler, and Linux")
    built = tmp_path_factory.mktemp("library") / "disk.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(built), str(SOURCE), "-ldl"], check=True)
    return built


@pytest.fixture(scope="session")
def disturbed(library: Path, empty_stores: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disturbed]:
    root = tmp_path_factory.mktemp("disturbed")
    write_tiny(root / "warm")
    forks = Forks(library, root / "warm", plugin=root / "warm" / "net.py")
    calls = {}
    for family in ("own", "sqlite"):
        begin(root / family, empty_stores)
        ended = forks.run(*COMMAND, cwd=root / family, fault=Fault(str(root / family / "mlruns"), family))
        assert ended.code == 0, ended.err
        calls[family] = ended.calls
    whole = oracle.read(root / "own" / "mlruns")
    assert [trial.state for _, trial in whole.trials] == ["COMPLETE"]
    assert {run.status for _, run in whole.runs} == {"FINISHED"}
    yield Disturbed(forks, root, empty_stores, whole, calls)
    forks.close()


def codes(seed: int) -> Iterator[int]:
    """Yield what a failing disk says, full or broken, in a seeded order."""
    draws = random.Random(seed)
    while True:
        yield draws.choice((errno.ENOSPC, errno.EIO))


@pytest.mark.parametrize("part", PARTS)
def test_every_write_flush_and_rename_of_fttunes_own_may_fail(part: int, disturbed: Disturbed) -> None:
    found = disturbed.chosen("own", CHANGING)
    assert {disturbed.calls["own"][k - 1].split()[0] for k in found} == set(CHANGING)
    faults = [Fault("", "own", k, code) for k, code in zip(found, codes(0), strict=False)]
    ends = [disturbed.fails_at(fault).code for fault in faults[part :: len(PARTS)]]
    assert set(ends) == {0, 1}, "some faults are tolerated, and some are not"


@pytest.mark.parametrize("part", PARTS)
def test_sqlites_writes_and_flushes_may_fail(part: int, disturbed: Disturbed) -> None:
    found = random.Random(1).sample(disturbed.chosen("sqlite", CHANGING), SEEDED)
    faults = [Fault("", "sqlite", k, code) for k, code in zip(found, codes(1), strict=False)]
    assert 1 in [disturbed.fails_at(fault).code for fault in faults[part :: len(PARTS)]]


@pytest.mark.slow
@pytest.mark.parametrize("family", ["own", "sqlite"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_every_call_of_both_may_fail(family: str, code: int, disturbed: Disturbed) -> None:
    for k in range(1, len(disturbed.calls[family]) + 1):
        disturbed.fails_at(Fault("", family, k, code))
