"""How long does fttune's default search take to find what a plain search finds at best?

Work: searches over learning rate, momentum and depth for small tasks (`small_tasks.py`), 24 trials, over seeds that
choose both the sampler's draws and each trial's head and order of samples. Baseline: the plain loop of `plain_study.py`
with Optuna's TPE, once without pruning and once with Optuna's median pruner; of the two, the baseline of a task is the
one with the better mean validation accuracy, and where these are within half a point, the one that got there sooner.
The target is its best value of the seed. Times are wall seconds from a fresh workspace, imports done, to the moment at
which Optuna is told of the first trial that reaches the target; fttune's budget is 96 trials, which its sampler does
not see, and a search that never gets there counts with all its time. Both first winners are tested on images that
nothing has seen, by the same plain code.

    python -m benchmarks.time_to_best --tasks digits --seeds 1                  about 2 minutes on 2 cores
    python -m benchmarks.time_to_best --tasks photographs few noisy            about 50 minutes there (5 seeds)

Searches go to a file as they end (`--results`), and a later call of the same code and size continues from it.
"""

import argparse
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, median
from typing import Any

import optuna

import fttune
from benchmarks import results
from benchmarks.cold import measured
from benchmarks.plain_study import Plan, Space, checkpoint_of, run_study
from benchmarks.plain_training import Task, accuracy_on_test, tune_workers
from benchmarks.small_tasks import TASKS
from benchmarks.study_vs_plain import fttune_study
from fttune.config.workspace import Workspace

SPACE = Space(lr=(1e-3, 0.5), momentum=(0.0, 0.95), unfrozen_stages=(0, 4))
TIMES_AS_MANY = 4
VARIANTS = ("none", "median")
SAME_ACCURACY = 0.005


@dataclass(frozen=True)
class Told:
    """A complete trial: its number, its value, and the seconds after which Optuna was told of it."""

    number: int
    value: float
    seconds: float


def plain_search(task: Task, plan: Plan, root: Path) -> list[Told]:
    """Run the plain search and return its complete trials in order of time."""
    started = time.time()
    run_study(task, plan, root)
    return told(optuna.load_study(study_name="plain", storage=f"sqlite:///{root / 'optuna.db'}"), started)


def fttune_search(task: Task, plan: Plan, root: Path) -> list[Told]:
    """Run fttune's default search, longer than plain's, and return its complete trials in order of time."""
    started = time.time()
    longer = replace(plan, n_trials=TIMES_AS_MANY * plan.n_trials)
    return told(fttune.search(fttune_study(task, longer), workspace=Workspace.at(root, mlruns=root)), started)


def told(study: optuna.Study, started: float) -> list[Told]:
    """Return a study's complete trials in order of time; `started` is a Unix time."""
    trials = study.get_trials(states=[optuna.trial.TrialState.COMPLETE])
    found = [Told(t.number, t.value, t.datetime_complete.timestamp() - started) for t in trials]
    return sorted(found, key=lambda trial: trial.seconds)


def first_at(trials: Sequence[Told], target: float) -> Told | None:
    """Return the first trial in time that reaches the target."""
    return next((trial for trial in trials if trial.value >= target), None)


def run_seed(task: Task, seed: int, *, trials: int, workers: int) -> results.Record:
    """Run all three searches of a seed; return by variant of plain the times and the test accuracies."""
    plan = Plan(SPACE, trials, seed=seed, sampler_seed=seed, workers=workers)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        plain = {}
        for variant in VARIANTS:
            pruned = replace(plan, pruning=variant == "median")
            plain[variant] = measured(plain_search, task, pruned, root / variant).result
        best = {variant: max(trial.value for trial in found) for variant, found in plain.items()}
        (root / "fttune").mkdir()
        search = measured(fttune_search, task, plan, root / "fttune")
        record: results.Record = {}
        for variant, target in best.items():
            winner = first_at(plain[variant], target)
            assert winner is not None, "its own best is reached"
            reached = first_at(search.result, target)
            shown = reached or max(search.result, key=lambda trial: trial.value)
            record[variant] = {
                "target": target,
                "plain_seconds": winner.seconds,
                "fttune_seconds": reached.seconds if reached else search.seconds,
                "reached": reached is not None,
                "plain_test": accuracy_on_test(task, checkpoint_of(root / variant, winner.number)),
                "fttune_test": accuracy_on_test(task, checkpoint_of(root / "fttune", shown.number)),
            }
    return record


def run_task(name: str, key: Mapping[str, Any], *, seeds: int, folder: Path, file: Path) -> list[results.Record]:
    """Return the seeds of a task: those of the file, and new ones until there are enough."""
    key = {**key, "task": name}
    found = {record["seed"]: record for record in results.matching(file, key)}
    task = TASKS[name](folder)
    missing = [seed for seed in range(seeds) if seed not in found]
    workers = measured(tune_workers, task, [0]).result[0] if missing else 0
    for seed in missing:
        record = {**key, "seed": seed, **run_seed(task, seed, trials=key["trials"], workers=workers)}
        results.append(file, record)
        found[seed] = record
        times = ", ".join(
            f"{v}: {record[v]['plain_seconds']:.1f} s, {record[v]['fttune_seconds']:.1f} s" for v in VARIANTS
        )
        print(f"{name}, seed {seed}: plain and fttune to plain's best, by pruner: {times}", flush=True)
    return [found[seed] for seed in sorted(found)][:seeds]


def stronger(records: Sequence[results.Record]) -> str:
    """Return the variant of plain that is the baseline."""
    value = {variant: mean(record[variant]["target"] for record in records) for variant in VARIANTS}
    seconds = {variant: median(record[variant]["plain_seconds"] for record in records) for variant in VARIANTS}
    near = [variant for variant in VARIANTS if value[variant] >= max(value.values()) - SAME_ACCURACY]
    return min(near, key=lambda variant: seconds[variant])


def row_of(name: str, records: Sequence[results.Record]) -> tuple[str, list[float]]:
    """Return a line of the table, and the ratio of each seed."""
    variant = stronger(records)
    rows = [record[variant] for record in records]
    ratios = [row["plain_seconds"] / row["fttune_seconds"] for row in rows]
    plain, own, target = ([row[field] for row in rows] for field in ("plain_seconds", "fttune_seconds", "target"))
    spread = f"{median(ratios):.2f} ({min(ratios):.2f} .. {max(ratios):.2f})"
    tests = f"{mean(row['plain_test'] for row in rows):>11.3f}{mean(row['fttune_test'] for row in rows):>13.3f}"
    reached = f"{sum(row['reached'] for row in rows)}/{len(rows)}"
    line = (
        f"{name:<12}{variant:<8}{mean(target):>8.3f}{median(plain):>9.1f}{median(own):>10.1f}{spread:>25}{reached:>9}"
    )
    return line + tests, ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--results", type=Path, default=results.DEFAULT_FOLDER / "time_to_best.jsonl")
    asked = parser.parse_args()
    folder = results.DEFAULT_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    key = {"trials": asked.trials, **results.surroundings()}
    lines, ratios = [], []
    for name in asked.tasks:
        records = run_task(name, key, seeds=asked.seeds, folder=folder, file=asked.results)
        line, found = row_of(name, records)
        lines.append(line)
        ratios += found
    print(f"{asked.seeds} seeds, {asked.trials} trials of plain; on {key['device']}")
    print("task        pruner    target  plain s  fttune s       ratio (min .. max)  reached  plain test  fttune test")
    print("\n".join(lines))
    print(f"median ratio over all: {median(ratios):.2f}")


if __name__ == "__main__":
    main()
