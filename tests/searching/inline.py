"""`search` of an objective that runs in this process."""

import optuna

from fttune import searching
from fttune.config import Study
from fttune.searching import Hooks, Inline, Objective


def search(study: Study, stored: optuna.Study, objective: Objective, **callbacks) -> None:
    searching.search(study, stored, Inline(objective), Hooks(**callbacks))
