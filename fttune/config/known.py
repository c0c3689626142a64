"""Names that a configuration may use, known without torch: backbones with stages and weights, data sets.

The two JSON files are data: `backbones.json` is written by `python -m fttune.models` and held equal to it by a
test; `torchvision_datasets.json` says which constructor arguments give which split of each data set.
"""

import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any


@dataclass(frozen=True)
class KnownBackbone:
    """`stages` from the input to the output, without the head; `weights` are torchvision's enum members.

    `stage_parameters` counts the parameters of each stage, `parameters` all of them with the original head.
    """

    stages: tuple[str, ...]
    weights: tuple[str, ...]
    stage_parameters: tuple[int, ...]
    parameters: int


@cache
def backbones() -> Mapping[str, KnownBackbone]:
    """Return every backbone by name."""
    return {
        name: KnownBackbone(
            tuple(entry["stages"]), tuple(entry["weights"]), tuple(entry["stages"].values()), entry["parameters"]
        )
        for name, entry in _read("backbones.json").items()
    }


@cache
def torchvision_datasets() -> Mapping[str, Mapping[str, Mapping[str, Any]]]:
    """Return data set name -> split (`train`, `val`, `test` or `all`) -> arguments of its constructor."""
    datasets: Mapping[str, Mapping[str, Mapping[str, Any]]] = _read("torchvision_datasets.json")
    return datasets


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for a near name, else the empty string."""
    near = _nearest(name, known, count=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


def one_of(value: object, known: Iterable[str]) -> str:
    """Return the rule text for a name that must be one of `known`; long lists are cut to the nearest names."""
    names = list(known)
    if len(names) == 1:
        return f"must be {names[0]}, got {shown(value)}"
    if len(names) <= 12:
        return f"must be one of {', '.join(names)}, got {shown(value)}{did_you_mean(str(value), names)}"
    near = _nearest(str(value), names, count=3, cutoff=0.4)
    return f"unknown name {shown(value)}" + (f"; nearest: {', '.join(near)}" if near else "")


def shown(value: object) -> str:
    """Return a value as messages show it: on one line, and cut when it is long."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _nearest(name: str, known: Iterable[str], *, count: int, cutoff: float) -> list[str]:
    by_lower = {other.lower(): other for other in known}
    return [by_lower[near] for near in difflib.get_close_matches(name[:100].lower(), by_lower, n=count, cutoff=cutoff)]


def _read(file: str) -> Any:
    return json.loads(resources.files("fttune.config").joinpath(file).read_text(encoding="utf-8"))
