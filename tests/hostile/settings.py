"""Overrides, options, environment variables and generated folders that cannot be used."""

import os
from pathlib import Path

from tests.hostile.places import EXPERIMENT, STUDY
from tests.hostile.running import Case

TRAIN, SEARCH = ("train", EXPERIMENT), ("search", STUDY)


def put(field: str) -> tuple[str, ...]:
    return (*TRAIN, "--set", field)


def mlruns(path: str) -> tuple[str, ...]:
    return (*TRAIN, "--mlruns", path)


OVERRIDES = [
    Case(
        "--set without =",
        Path.exists,
        put("optimizer.lr"),
        (
            "--set",
            "must be dotted.field=value",
        ),
    ),
    Case(
        "--set of nothing",
        Path.exists,
        put("=1"),
        (
            "--set",
            "must be dotted.field=value",
        ),
    ),
    Case(
        "--set of an unknown field",
        Path.exists,
        put("optimizer.lrr=1"),
        ("optimizer.lrr: unknown key; did you mean 'lr'",),
    ),
    Case("--set that climbs", Path.exists, put("../../x=1"), ("--set", "must be dotted.field=value")),
    Case("--set of dunder fields", Path.exists, put("__class__.__init__=1"), ("__class__: unknown key",)),
    Case("--set with control", Path.exists, put("a\x1bb=1"), ("--set", "\\x1b")),
    Case(
        "--set to an alias",
        Path.exists,
        put("seed=*a"),
        (
            "--set seed",
            "anchors and aliases",
        ),
    ),
    Case("--set to a tag", Path.exists, put("seed=!!python/name:os.system x"), ("--set seed", "tags are not")),
    Case("--set to a nest", Path.exists, put("seed=" + "[" * 5000), ("nested deeper than",)),
    Case("--set to NaN", Path.exists, put("optimizer.lr=.nan"), ("optimizer.lr: must be a finite number",)),
    Case("--set a mapping over a number", Path.exists, put("seed={a: 1}"), ("seed: must be a whole number",)),
    Case("--set below a number", Path.exists, put("seed.deep.er=1"), ("seed: must be a whole number",)),
    Case("--set the name", Path.exists, put("name=../../x"), ("name: unknown key",)),
    Case(
        "--set in the space",
        Path.exists,
        (*SEARCH, "--set", "space.optimizer.lr.low=0"),
        ("must be > 0 on a log scale",),
    ),
    Case("unknown command", Path.exists, ("trian", EXPERIMENT), ("No such command 'trian'",)),
    Case("number that is none", Path.exists, (*TRAIN, "--final", "--trial", "x"), ("'--trial'", "valid integer")),
]
FOLDERS = [
    Case("mlruns is a file", lambda r: (r / "m").touch(), mlruns("m"), ("m: cannot be written", "use --mlruns")),
    Case("mlruns below a file", lambda r: (r / "m").touch(), mlruns("m/deep"), ("cannot be written",)),
    Case("mlruns is a pipe", lambda r: os.mkfifo(r / "m"), mlruns("m"), ("m: cannot be written",)),
    Case("mlruns is a link to itself", lambda r: (r / "m").symlink_to("m"), mlruns("m"), ("m", "use --mlruns")),
    Case("mlruns is a device", Path.exists, mlruns("/dev/null"), ("/dev/null: cannot be written",)),
    Case("mlruns has a long name", Path.exists, mlruns("x" * 5000), ("use --mlruns",)),
    Case(
        "FTTUNE_MLRUNS where nothing can be",
        Path.exists,
        TRAIN,
        ("/dev/null/x: cannot be written", "--mlruns"),
        environment={"FTTUNE_MLRUNS": "/dev/null/x"},
    ),
    Case(
        "FTTUNE_MLRUNS with control",
        lambda r: (r / "a\x1bb").touch(),
        TRAIN,
        ("a\\x1bb: cannot be",),
        environment={"FTTUNE_MLRUNS": "a\x1bb"},
    ),
    Case(
        "FTTUNE_CACHE_GB of words",
        Path.exists,
        TRAIN,
        ("FTTUNE_CACHE_GB", "valid number"),
        environment={"FTTUNE_CACHE_GB": "lots"},
    ),
    Case(
        "FTTUNE_CACHE_GB below 0",
        Path.exists,
        TRAIN,
        ("cache is '-1.0' GB, but must be a number from 0",),
        environment={"FTTUNE_CACHE_GB": "-1"},
    ),
    Case(
        "FTTUNE_CACHE_GB of NaN",
        Path.exists,
        TRAIN,
        ("must be a number from 0",),
        environment={"FTTUNE_CACHE_GB": "nan"},
    ),
    Case(
        "FTTUNE_CACHE_GB without end",
        Path.exists,
        TRAIN,
        ("must be a number from 0",),
        environment={"FTTUNE_CACHE_GB": "1e999"},
    ),
    Case(
        "MLFLOW_TRACKING_URI of an unknown kind",
        Path.exists,
        TRAIN,
        ("MLFLOW_TRACKING_URI: of a URL the kind", "'nonsense'", "unset it"),
        environment={"MLFLOW_TRACKING_URI": "nonsense://x"},
    ),
    Case(
        "MLFLOW_TRACKING_URI of words",
        Path.exists,
        TRAIN,
        ("MLFLOW_TRACKING_URI: must be a URL", "unset it"),
        environment={"MLFLOW_TRACKING_URI": "my server"},
    ),
]
