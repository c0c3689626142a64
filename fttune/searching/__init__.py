"""Ask, run, tell; resume; prune. The only room that imports optuna."""

from fttune.searching.database import open_storage
from fttune.searching.executors import Asked, Executor, Inline, Objective, Outcome
from fttune.searching.ranking import front, ranked
from fttune.searching.retention import retained
from fttune.searching.search import is_spent, search
from fttune.searching.store import (
    ID,
    IDENTITY,
    changed_data,
    counted,
    current_name,
    facts_of,
    newest_generation,
    open_study,
    require_identity,
    stored_studies,
    study_lock,
)

__all__ = [
    "ID",
    "IDENTITY",
    "Asked",
    "Executor",
    "Inline",
    "Objective",
    "Outcome",
    "changed_data",
    "counted",
    "current_name",
    "facts_of",
    "front",
    "is_spent",
    "newest_generation",
    "open_storage",
    "open_study",
    "ranked",
    "require_identity",
    "retained",
    "search",
    "stored_studies",
    "study_lock",
]
