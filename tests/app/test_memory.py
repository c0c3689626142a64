"""A long search holds no more memory at its end than near its beginning."""

import gc
import os
from pathlib import Path

import pytest

import fttune
from fttune.config.workspace import Workspace
from fttune.training.events import Entry, StudyProgress
from tests.recipes import tiny_study, write_experiment

EARLY, LATE = 200, 1000


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux")
def test_memory_is_flat_over_1000_trials(tmp_path: Path, workspace: Workspace) -> None:
    write_experiment(tmp_path, training__epochs=1, data__limit_per_class=4)
    study = tiny_study(tmp_path, budget={"n_trials": LATE}, batch=8)
    held: dict[int, int] = {}

    def watch(entry: Entry) -> None:
        if isinstance(entry.event, StudyProgress) and entry.event.done in (EARLY, LATE):
            gc.collect()
            held[entry.event.done] = resident_bytes()

    fttune.search(study, workspace=workspace, display=watch)
    assert held[LATE] <= 1.02 * held[EARLY], {done: f"{size / 1e6:.0f} MB" for done, size in held.items()}


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
