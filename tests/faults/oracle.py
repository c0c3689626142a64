"""What the stores of a study hold, read without fttune: plain sqlite3, safetensors and hashlib."""

import hashlib
import json
import sqlite3
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open

FINISHED = ("COMPLETE", "PRUNED")


@dataclass(frozen=True)
class Trial:
    """A trial of Optuna's store; `facts` are what fttune says of it, without times."""

    state: str
    params: tuple[tuple[str, float], ...]
    values: tuple[tuple[int, float], ...]
    reported: tuple[tuple[int, float], ...]
    facts: tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Run:
    """A run of MLflow's store: points by metric and step without times, params, and the sha256 of its best model."""

    status: str
    points: tuple[tuple[str, int, float], ...]
    params: tuple[tuple[str, str], ...]
    checkpoint: str | None


@dataclass(frozen=True)
class Stored:
    """All trials by number and all runs by key; a number or key that stands twice has two."""

    trials: tuple[tuple[int, Trial], ...]
    runs: tuple[tuple[str, Run], ...]
    damaged: tuple[str, ...]


def read(mlruns: Path) -> Stored:
    """Read both stores of a generated folder that nobody writes to."""
    with sqlite3.connect(mlruns / "optuna.db") as optuna, sqlite3.connect(mlruns / "mlflow.db") as mlflow:
        trials = tuple(_trials(optuna))
        runs = tuple(_runs(mlflow))
        broken = [
            f"{name} fails SQLite's integrity check"
            for name, store in (("optuna.db", optuna), ("mlflow.db", mlflow))
            if store.execute("PRAGMA integrity_check").fetchall() != [("ok",)]
        ]
    return Stored(trials, runs, (*broken, *damaged_checkpoints(mlruns)))


def states(mlruns: Path) -> Counter[str]:
    """Return how many trials of Optuna's store are in each state; another process may be writing."""
    file = f"file:{mlruns / 'optuna.db'}?mode=rw"  # what a kill cut off amid a transaction is rolled back
    store = sqlite3.connect(file, uri=True, timeout=60)
    try:
        return Counter(dict(store.execute("SELECT state, COUNT(*) FROM trials GROUP BY state").fetchall()))
    finally:
        store.close()


def is_told(mlruns: Path, number: int) -> bool:
    """Return whether a trial has ended in Optuna's store."""
    with sqlite3.connect(mlruns / "optuna.db") as store:
        found = store.execute("SELECT state FROM trials WHERE number = ?", (number,)).fetchone()
    return found is not None and found[0] in FINISHED


def damaged_checkpoints(mlruns: Path) -> Iterator[str]:
    """Yield the checkpoints whose bytes are not those that their JSON names, or that safetensors cannot read."""
    for about in mlruns.rglob("*.json"):
        file = about.with_suffix(".safetensors")
        if about.name.startswith(".") or not file.exists():
            continue
        try:
            if _sha256(file) != json.loads(about.read_text(encoding="utf-8"))["sha256"]:
                yield f"{file} is not what its JSON says"
            with safe_open(file, "pt") as opened:
                [opened.get_tensor(name) for name in opened.keys()]  # noqa: SIM118 (it is no dict)
        except Exception as error:  # noqa: BLE001 (whatever it is, the file is damaged)
            yield f"{file}: {error!r}"


def problems(stored: Stored, *, trials: int) -> list[str]:
    """Return what is wrong about a study that has ended with so many trials and no failure."""
    numbers = [number for number, _ in stored.trials]
    points = Counter(trial.params for _, trial in stored.trials)
    keys = Counter(key for key, _ in stored.runs)
    found = list(stored.damaged)
    if numbers != list(range(trials)):
        found.append(f"trials are numbered {numbers}, not 0 to {trials - 1}")
    found += [f"trial {number} is {one.state}" for number, one in stored.trials if one.state not in FINISHED]
    found += [f"{count} trials at {point}" for point, count in points.items() if count > 1]
    found += [f"{count} runs of {key}" for key, count in keys.items() if count > 1]
    found += [f"run {key} is {run.status}" for key, run in stored.runs if run.status in ("RUNNING", "FAILED")]
    if len(keys) != trials + 1:
        found.append(f"{len(keys)} runs, not one for the study and one for each of {trials} trials")
    for key, run in stored.runs:
        twice = [at for at, count in Counter((name, step) for name, step, _ in run.points).items() if count > 1]
        found += [f"run {key} has several points of {name} at {step}" for name, step in twice]
    return found


def differences(stored: Stored, other: Stored) -> list[str]:
    """Return in what the results of two runs of one study differ, to the last bit."""
    found = []
    for kind in ("trials", "runs"):
        ours, theirs = dict(getattr(stored, kind)), dict(getattr(other, kind))
        for key in sorted(ours.keys() | theirs.keys()):
            one, expected = ours.get(key), theirs.get(key)
            if one is None or expected is None:
                found.append(f"{kind} {key}: {one} is not {expected}")
                continue
            for field, value in vars(one).items():
                wanted = getattr(expected, field)
                if value != wanted:
                    apart = set(value) ^ set(wanted) if isinstance(value, tuple) else (value, wanted)
                    found.append(f"{kind} {key}: {field} differ in {sorted(apart, key=str)[:6]}")
    return found


def require_old_or_new(now: Stored, whole: Stored) -> None:
    """Fail when anything is stored that an undisturbed study does not store, or is damaged, or stands twice."""
    assert now.damaged == ()
    assert [number for number, _ in now.trials] == list(range(len(now.trials))), "numbers follow each other"
    for number, trial in now.trials:
        wanted = dict(whole.trials)[number]
        assert trial.state in ("RUNNING", wanted.state), f"trial {number} is {trial.state}"
        assert trial.params == wanted.params, f"trial {number}"
        assert trial.values == (wanted.values if trial.state == wanted.state else ()), f"trial {number}"
    assert len(dict(now.runs)) == len(now.runs), "two runs have one key"
    for key, run in now.runs:
        wanted_run = dict(whole.runs)[key]
        assert set(run.params) <= set(wanted_run.params), key
        assert len(set(run.points)) == len(run.points), f"{key} has points twice"
        assert set(run.points) <= set(wanted_run.points), key


def require_sound_checkpoints(folder: Path) -> int:
    """Fail when a checkpoint is visible under its name and is not what was written; return how many are whole."""
    for file in folder.rglob("[!.]*.safetensors"):
        with safe_open(file, "pt") as tensors:
            assert list(tensors.keys()), file
    assert list(damaged_checkpoints(folder)) == []
    return sum(file.with_suffix(".json").exists() for file in folder.rglob("[!.]*.safetensors"))


def _trials(store: sqlite3.Connection) -> Iterator[tuple[int, Trial]]:
    for trial_id, number, state in store.execute("SELECT trial_id, number, state FROM trials ORDER BY number"):
        attributes = _rows(store, "SELECT key, value_json FROM trial_user_attributes WHERE trial_id = ?", trial_id)
        facts = json.loads(json.loads(dict(attributes).get("fttune", '"{}"')))
        yield (
            number,
            Trial(
                state,
                _rows(store, "SELECT param_name, param_value FROM trial_params WHERE trial_id = ?", trial_id),
                _rows(store, "SELECT objective, value FROM trial_values WHERE trial_id = ?", trial_id),
                _rows(
                    store, "SELECT step, intermediate_value FROM trial_intermediate_values WHERE trial_id = ?", trial_id
                ),
                tuple(sorted((key, value) for key, value in facts.items() if not _is_time(key))),
            ),
        )


def _runs(store: sqlite3.Connection) -> Iterator[tuple[str, Run]]:
    runs = store.execute(
        "SELECT runs.run_uuid, status, artifact_uri, tags.value FROM runs JOIN tags USING (run_uuid) "
        "WHERE tags.key = 'fttune.run' AND lifecycle_stage = 'active' ORDER BY tags.value"
    )
    for run, status, artifacts, key in runs.fetchall():
        points = _rows(store, "SELECT key, step, value FROM metrics WHERE run_uuid = ?", run)
        file = Path(artifacts.removeprefix("file://")) / "checkpoint" / "best.safetensors"
        yield (
            key,
            Run(
                status,
                tuple(point for point in points if not _is_time(point[0])),
                _rows(store, "SELECT key, value FROM params WHERE run_uuid = ?", run),
                _sha256(file) if file.exists() else None,
            ),
        )


def _rows(store: sqlite3.Connection, query: str, key: object) -> tuple[Any, ...]:
    return tuple(sorted(store.execute(query, (key,)).fetchall()))


def _is_time(name: str) -> bool:
    return name.rpartition("/")[2].endswith("seconds")


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
