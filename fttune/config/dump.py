"""An experiment back to the text of its file."""

from collections.abc import Sequence
from typing import Any

import yaml

from fttune.config.experiment import Experiment
from fttune.config.strict_yaml import is_plain_text


def experiment_yaml(experiment: Experiment, header: Sequence[str] = ()) -> str:
    """Return what `load_experiment` reads as this experiment: the fields that were given, below comment lines.

    Its name is not in it: that is the stem of the file.
    """
    return "".join(f"# {line}\n" for line in header) + as_yaml(experiment.model_dump(mode="json", exclude_unset=True))


def as_yaml(value: Any) -> str:
    """Return plain data as text that `parse_yaml` reads as the same: PyYAML itself writes the text 1e5 as a number."""
    text: str = yaml.dump(value, Dumper=_StrictDumper, sort_keys=False, allow_unicode=True, width=120)
    return text


class _StrictDumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 (PyYAML's own signature)
        return True

    def represent_text(self, text: str) -> Any:
        plain = text.isprintable() and is_plain_text(text)
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=None if plain else '"')


_StrictDumper.add_representer(str, _StrictDumper.represent_text)
