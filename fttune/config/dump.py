"""An experiment back to the text of its file."""

from collections.abc import Sequence

import yaml

from fttune.config.experiment import Experiment


def experiment_yaml(experiment: Experiment, header: Sequence[str] = ()) -> str:
    """Return what `load_experiment` reads as this experiment: the fields that were given, below comment lines.

    Its name is not in it: that is the stem of the file.
    """
    given = experiment.model_dump(mode="json", exclude_unset=True)
    text: str = yaml.safe_dump(given, sort_keys=False, allow_unicode=True, width=120)
    return "".join(f"# {line}\n" for line in header) + text
