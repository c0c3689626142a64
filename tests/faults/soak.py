"""Kill studies until 1,000 kills are on record: `make soak`. Ctrl-C stops it, and the same command goes on.

The record is `.soak/kills.jsonl`, a line for each study that was killed and has ended: its kills with what they aimed
at and which phase they met, and what was wrong at its end. The folder of one that went wrong is kept beside it.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.faults.kills import PHASES, STUDIES, Killed, Place, uninterrupted
from tests.stored import empty_stores

KILLS_OF_A_STUDY = 12


def main() -> int:
    """Kill until enough kills are on record, or the time is over; return 1 when a study ended wrongly."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=1000, help="stop when so many are on record (default: 1000)")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after so long (default: never)")
    parser.add_argument("--record", type=Path, default=Path(".soak/kills.jsonl"))
    options = parser.parse_args()
    end = time.monotonic() + 60 * options.minutes
    options.record.parent.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix="soak-") as folder:
            _soak(options.record, Path(folder), kills=options.kills, end=end)
    except KeyboardInterrupt:
        print("stopped; the same command goes on")
    return report(options.record)


def _soak(record: Path, folder: Path, *, kills: int, end: float) -> None:
    rounds = list(_lines(record))
    killed = sum(len(line["kills"]) for line in rounds)
    if killed >= kills:
        return
    stores = empty_stores(folder / "empty")
    whole = {name: uninterrupted(Place.new(folder / name, name, stores=stores)) for name in STUDIES}
    seed = max((line["seed"] for line in rounds), default=-1)
    while killed < kills and time.monotonic() < end:
        seed += 1
        name = list(STUDIES)[seed % len(STUDIES)]
        expected, seconds = whole[name]
        found = Killed(Place.new(folder / str(seed), name, stores=stores), seed=seed, seconds=seconds)
        found.run(min(KILLS_OF_A_STUDY, kills - killed), expected=expected)
        killed += len(found.kills)
        own = [[kill.aim, kill.phase] for kill in found.kills]
        with record.open("a", encoding="utf-8") as opened:
            opened.write(
                json.dumps({"seed": seed, "study": name, "kills": own, "problems": sorted(set(found.problems))}) + "\n"
            )
        print(f"{killed} of {kills} kills; study {seed} ({name}): {len(found.problems)} problems", flush=True)
        if found.problems:
            shutil.move(found.place.folder, record.parent / f"failed-{seed}")
        else:
            shutil.rmtree(found.place.folder)


def report(record: Path) -> int:
    """Print how many kills met which phase, and what went wrong; return 1 when something did, or none met saving."""
    lines = list(_lines(record))
    tally = Counter(phase for line in lines for _, phase in line["kills"])
    print(f"{tally.total()} kills in {len(lines)} studies: " + ", ".join(f"{phase} {tally[phase]}" for phase in PHASES))
    failed = [line for line in lines if line["problems"]]
    for line in failed:
        print(f"study {line['seed']} ({line['study']}):", *line["problems"], sep="\n  ")
    return int(bool(failed) or not tally["saving"])


def _lines(record: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of the record; one that was cut short is left out."""
    for line in record.read_text(encoding="utf-8").splitlines() if record.exists() else []:
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue


if __name__ == "__main__":
    sys.exit(main())
