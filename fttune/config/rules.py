"""Rules between the sections of an experiment, as generators of problems.

They take only what is valid by itself, so that a file shows its broken fields and its contradictions together.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from fttune.config import known
from fttune.config.freeze import Freeze
from fttune.config.policy import resolve
from fttune.errors import PolicyRefused, Problem

MANY_EPOCHS = 100_000  # stands in for a broken number of epochs where lengths do not matter


def experiment_problems(tree: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield every broken rule between sections; `tree` is nested as in the file, and may be incomplete or broken."""
    backbone, data, training = (_section(tree, name) for name in ("backbone", "data", "training"))
    name, epochs = backbone.get("name"), training.get("epochs")
    entry = known.backbones().get(name) if isinstance(name, str) else None
    freeze = _valid_freeze(_section(tree, "freeze"))
    length = epochs if isinstance(epochs, int) and epochs > 0 else MANY_EPOCHS
    if entry and freeze and (length is epochs or freeze.phases is None):
        try:
            resolve(freeze, entry.stages, epochs=length)
        except PolicyRefused as refused:
            yield Problem(refused.field, refused.rule)
    source, column = str(data.get("source")).partition(":")[0], _section(data, "split").get("group_by")
    if column is not None and source in ("digits", "folder", "torchvision"):
        rule = f"names a column of a CSV file, but the source is {source}, got {known.shown(column)}"
        yield Problem("data.split.group_by", rule)


def _section(tree: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = tree.get(name)
    return section if isinstance(section, Mapping) else {}


def _valid_freeze(section: Mapping[str, Any]) -> Freeze | None:
    """Return what is valid of the section."""
    try:
        return Freeze.model_validate(section)
    except ValidationError as error:
        broken = {item["loc"][0] for item in error.errors(include_url=False)}
        rest = {name: value for name, value in section.items() if name not in broken}
        return _valid_freeze(rest) if len(rest) < len(section) else None
