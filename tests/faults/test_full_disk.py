"""A disk that is really full: a small file system in a namespace of its own, where the kernel allows one."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults import oracle
from tests.faults.test_disk_faults import BACKBONE
from tests.recipes import write_experiment, write_study

SPACE = {"optimizer.lr": {"type": "float", "low": 1.0e-3, "high": 0.1, "log": True}}
WIDE = BACKBONE.replace("nn.Flatten())", "nn.Flatten(), nn.Linear(12, 40_000))").replace("12, 10", "40_000, 10")
PROGRAM = """
import shutil, subprocess, sys
from pathlib import Path

root, disk = Path.cwd(), Path("mlruns")
subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={sys.argv[1]}k", "tmpfs", str(disk)], check=True)
shutil.copytree("empty", disk, dirs_exist_ok=True)
from tests.faults.forks import in_a_fork

COMMAND = ["search", "studies/tiny.yaml", "--plugin", "net.py"]
print(in_a_fork(COMMAND), flush=True)
shutil.copytree(disk, "full")
subprocess.run(["mount", "-o", "remount,size=200m", str(disk)], check=True)
print(in_a_fork(COMMAND), flush=True)
shutil.copytree(disk, "whole")
"""


def may_mount() -> bool:
    unshare = shutil.which("unshare")
    if unshare is None:
        return False
    trial = subprocess.run(
        [unshare, "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, check=False, timeout=20
    )
    return trial.returncode == 0


@pytest.mark.skipif(not may_mount(), reason="needs user and mount namespaces")
def test_a_study_on_a_disk_without_room_stops_with_one_message_and_goes_on_when_there_is_some(
    tmp_path: Path, empty_stores: Path
) -> None:
    (tmp_path / "net.py").write_text(WIDE)
    write_experiment(tmp_path, backbone__name="plugin:net", freeze__unfrozen_stages=0)
    write_study(tmp_path, budget__n_trials=3, space=SPACE)
    shutil.copytree(empty_stores, tmp_path / "empty")
    (tmp_path / "mlruns").mkdir()
    stores = sum(file.stat().st_size for file in (tmp_path / "empty").rglob("*") if file.is_file())
    room = stores // 1024 + 7_000  # a checkpoint takes 3.7 MB, and another is being written
    ended = subprocess.run(
        ["unshare", "-rm", sys.executable, "-c", PROGRAM, str(room)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
    )
    assert ended.stdout.split() == ["1", "0"], ended.stderr
    assert "Traceback" not in ended.stderr
    assert "checkpoints of about 3.68 MB need" in ended.stderr, "it was told before"
    assert "the disk is full" in ended.stderr
    assert "run the same command again" in ended.stderr
    whole = oracle.read(tmp_path / "whole")
    assert [trial.state for _, trial in whole.trials] == ["COMPLETE"] * 3
    assert {run.status for _, run in whole.runs} == {"FINISHED"}
    full = oracle.read(tmp_path / "full")
    oracle.require_old_or_new(full, whole)
    assert "RUNNING" in {trial.state for _, trial in full.trials}
    oracle.require_sound_checkpoints(tmp_path / "full")
    assert oracle.require_sound_checkpoints(tmp_path / "whole" / "artifacts") == 3
