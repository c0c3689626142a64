"""Deliver what commands left in `mlruns/spool/`: because MLflow did not answer, or because they were killed."""

import os
import time
from dataclasses import dataclass, replace

from fttune.app.session import TRACKING, Display, target_of
from fttune.config.workspace import Workspace
from fttune.tracking.delivery import Deliveries, Unreachable, why
from fttune.tracking.redaction import HIDDEN, redacted_text
from fttune.tracking.spool import Target, Waiting, waiting_in
from fttune.training.events import Entry, Notice

PAUSES_SECONDS = (0.5, 1.0, 2.0)  # after failures without progress in between; then what is left stays


@dataclass(frozen=True)
class Synced:
    """A spool: of how many runs events waited, and what became of these. `problem` says why some are left."""

    spool: str
    tracking: str
    runs: int
    delivered: int
    refused: int
    left: int
    problem: str | None


def sync(workspace: Workspace, *, display: Display | None = None) -> list[Synced]:
    """Deliver every spool to the MLflow that it is meant for, as far as that takes it; return a line for each.

    Passwords are not written down: a spool for a URI with one goes to `MLFLOW_TRACKING_URI`, where that is the same.

    Args:
        workspace: where `mlruns/` lies.
        display: is called with notices.
    """

    def say(text: str) -> None:
        if display is not None:
            display(Entry(TRACKING, Notice(redacted_text(text))))

    before = waiting_in(workspace.spools)
    found: dict[str, Synced] = {}
    for target in dict.fromkeys(_target(workspace, one) for one in before):
        own = [one for one in before if one.uri == target.label]
        found |= {one.spool: one for one in _synced(target, own, Deliveries(target, say))}
    return [found[one.spool] for one in before]


def _target(workspace: Workspace, waiting: Waiting) -> Target:
    known = os.environ.get("MLFLOW_TRACKING_URI", "")
    uri = known if redacted_text(known) == waiting.uri else waiting.uri
    return replace(target_of(workspace, uri), artifacts=waiting.artifacts)


def _synced(target: Target, before: list[Waiting], deliveries: Deliveries) -> list[Synced]:
    if f":{HIDDEN}@" in target.uri:
        problem: str | None = f"its password is not stored: set MLFLOW_TRACKING_URI to {target.uri} with the password"
    else:
        problem = _deliver(deliveries)
    after = {one.spool: one.events for one in waiting_in(target.spools)}
    found = []
    for one in before:
        delivered, refused = deliveries.counted(one.spool)
        left = after.get(one.spool, 0)
        why = problem or "the command that writes it is at work, and delivers it"
        found.append(Synced(one.spool, one.uri, one.runs, delivered, refused, left, why if left else None))
    return found


def _deliver(deliveries: Deliveries) -> str | None:
    """Deliver what can be; return why something is left."""
    failures, progress = 0, 0
    try:
        while True:
            try:
                deliveries.go_on()
                return None
            except Unreachable as error:
                failures, progress = 1 if deliveries.events > progress else failures + 1, deliveries.events
                if failures > len(PAUSES_SECONDS):
                    return why(error.__cause__ or error)
                time.sleep(max(PAUSES_SECONDS[failures - 1], error.late_seconds))
    finally:
        deliveries.close()
