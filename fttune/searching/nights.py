"""How many trials a study is to come to by the end of a night, kept with the study: so a night is exact.

A study's total is a total over all invocations. A night raises it once, before it asks its first trial, and one that
was killed finds the same total again.
"""

import json
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

from fttune.config.nightly import Nightly
from fttune.searching.store import counted

if TYPE_CHECKING:
    import optuna

NIGHT = "fttune.night"


@dataclass(frozen=True)
class Aim:
    """How many trials that count a study is to come to by the end of a night, which is called by its first day."""

    night: date
    total: int


def aim_of(stored: "optuna.Study") -> Aim | None:
    """Return the aim of a study's last night, None where it had none."""
    kept = stored.user_attrs.get(NIGHT)
    if kept is None:
        return None
    fields = json.loads(kept)
    return Aim(date.fromisoformat(fields["night"]), fields["total"])


def next_aim(before: Aim | None, counted: int, tonight: date, nightly: Nightly) -> Aim:
    """Return the aim of a night, from that of the last one and the number of trials that count now.

    The same night keeps its aim, and so does a study that is not due: it gets what was left. A later night adds its
    own trials to what the last one left; of that at most as many again, so that what is left does not pile up.
    """
    if before is None:
        return Aim(tonight, counted + nightly.trials_per_night)
    if (tonight - before.night).days < nightly.days:
        return before
    left = min(max(0, before.total - counted), nightly.trials_per_night)
    return Aim(tonight, counted + left + nightly.trials_per_night)


def raise_total(stored: "optuna.Study", tonight: date, nightly: Nightly) -> int:
    """Return the total that a study is to come to tonight, stored before anything is asked; hold the study's lock."""
    before = aim_of(stored)
    aim = next_aim(before, counted(stored), tonight, nightly)
    if aim != before:
        stored.set_user_attr(NIGHT, json.dumps({"night": aim.night.isoformat(), "total": aim.total}))
    return aim.total
