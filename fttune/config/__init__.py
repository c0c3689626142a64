"""YAML in, validated immutable experiments and studies out. Imports pydantic and yaml only."""

from fttune.config.experiment import Experiment
from fttune.config.load import load, load_experiment, load_study
from fttune.config.study import Study

__all__ = ["Experiment", "Study", "load", "load_experiment", "load_study"]
