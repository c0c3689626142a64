"""Ask, run, tell; resume; prune. The only room that imports optuna."""

from fttune.searching.database import open_storage
from fttune.searching.executors import Asked, Executor, Inline, Objective, Outcome
from fttune.searching.leases import Lease
from fttune.searching.nights import Aim, aim_of, next_aim, raise_total
from fttune.searching.ranking import front, ranked
from fttune.searching.retention import retained
from fttune.searching.search import Hooks, is_spent, search
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
from fttune.searching.warm_start import (
    Descriptors,
    beginning,
    describe,
    described,
    kept_starts,
    require_sources,
    source_of,
    unlike,
    warm_start,
)

__all__ = [
    "ID",
    "IDENTITY",
    "Aim",
    "Asked",
    "Descriptors",
    "Executor",
    "Hooks",
    "Inline",
    "Lease",
    "Objective",
    "Outcome",
    "aim_of",
    "beginning",
    "changed_data",
    "counted",
    "current_name",
    "describe",
    "described",
    "facts_of",
    "front",
    "is_spent",
    "kept_starts",
    "newest_generation",
    "next_aim",
    "open_storage",
    "open_study",
    "raise_total",
    "ranked",
    "require_identity",
    "require_sources",
    "retained",
    "search",
    "source_of",
    "stored_studies",
    "study_lock",
    "unlike",
    "warm_start",
]
