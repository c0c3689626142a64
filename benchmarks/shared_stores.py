"""What does a trial cost in a PostgreSQL, against SQLite?

Work: a study of random search over lr and momentum whose trials return at once, in blocks of 8, so that what is left is
asking, telling and storing: with the study's lock, its lease and the fence around each transaction, as `fttune search`
has them. Baseline: the same study in a SQLite file. The server runs on loopback, so the network's way to and fro, of
which a trial needs about a dozen, is left out. Prints wall and CPU milliseconds of this process per trial, and ratios.
Needs PostgreSQL's programs (Debian: postgresql) and `fttune[postgres]`.

    python -m benchmarks.shared_stores     about a minute
"""

import argparse
import tempfile
import time
from pathlib import Path

from benchmarks.blocks import study_of
from fttune.searching import Asked, Inline, Outcome, open_storage, open_study, search, study_lock
from tests import postgres


def milliseconds(uri: str, trials: int, folder: Path) -> tuple[float, float]:
    """Return wall and CPU milliseconds per trial."""
    warm, study = (study_of(8, seed, count) for seed, count in ((0, 8), (1, trials)))
    marks = []
    for one in (warm, study):
        with study_lock(one.name, locks=folder, storage=uri) as lease:
            stored = open_study(one, open_storage(uri, locks=folder, lease=lease), {"shared": 1})
            marks = [time.perf_counter(), time.process_time()]
            search(one, stored, Inline(objective))
            marks = [time.perf_counter() - marks[0], time.process_time() - marks[1]]
    return 1000 * marks[0] / trials, 1000 * marks[1] / trials


def objective(asked: Asked) -> Outcome:
    """Return a value at once."""
    return Outcome("complete", float(asked.values["optimizer.lr"]), 1, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=200)
    trials = parser.parse_args().trials
    with tempfile.TemporaryDirectory() as temporary, postgres.server(fsync=True) as server:
        here = milliseconds(f"sqlite:///{temporary}/optuna.db", trials, Path(temporary) / "here")
        there = milliseconds(server.new_database(), trials, Path(temporary) / "there")
    print(f"milliseconds per trial, {trials} trials, block of 8")
    print(f"{'store':>10} {'wall':>8} {'CPU':>8}")
    for name, (wall, cpu) in (("SQLite", here), ("PostgreSQL", there)):
        print(f"{name:>10} {wall:8.1f} {cpu:8.1f}")
    print(f"ratio of PostgreSQL to SQLite: wall {there[0] / here[0]:.2f}, CPU {there[1] / here[1]:.2f}")


if __name__ == "__main__":
    main()
