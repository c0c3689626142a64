"""Ask, run, tell; resume; prune. The only room that imports optuna."""

from fttune.searching.database import open_storage
from fttune.searching.executors import Asked, Executor, Inline, Objective, Outcome
from fttune.searching.leases import Lease
from fttune.searching.ranking import front, ranked
from fttune.searching.retention import retained
from fttune.searching.search import is_spent, search
from fttune.searching.store import (
    ID,
    IDENTITY,
    counted,
    current_name,
    facts_of,
    open_study,
    stored_studies,
    study_lock,
)

__all__ = [
    "ID",
    "IDENTITY",
    "Asked",
    "Executor",
    "Inline",
    "Lease",
    "Objective",
    "Outcome",
    "counted",
    "current_name",
    "facts_of",
    "front",
    "is_spent",
    "open_storage",
    "open_study",
    "ranked",
    "retained",
    "search",
    "stored_studies",
    "study_lock",
]
