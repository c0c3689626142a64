"""Which phase an epoch belongs to, as a pure function of the monitored values so far: a restart repeats itself."""

from collections.abc import Sequence
from dataclasses import dataclass

from fttune.config.freeze import Plateau
from fttune.config.policy import Policy


@dataclass(frozen=True)
class Span:
    """One phase in the run: its place among the phases, and its epochs, counted from 1; `last` at the latest."""

    index: int
    first: int
    last: int

    @property
    def epochs(self) -> int:
        """The epochs over which the phase's schedule runs."""
        return self.last - self.first + 1


def span_of(policy: Policy, epoch: int, *, epochs: int, losses: Sequence[float]) -> Span | None:
    """Return the phase of an epoch of a run of `epochs`; None when the run is over.

    `losses` are the monitored values of the epochs before it, smaller is better (negated where larger is); without a
    validation split they are empty, and no phase waits for a plateau.
    """
    first = 1
    for index, plan in enumerate(policy.phases):
        later = sum(following.epochs or 1 for following in policy.phases[index + 1 :])
        last = first + plan.epochs - 1 if plan.epochs else epochs - later
        end: float = min(last, first - 1 + _length(plan.plateau, losses[first - 1 :])) if plan.plateau else last
        if epoch <= end:
            return Span(index, first, last)
        first = int(end) + 1
    return None


def _length(plateau: Plateau, losses: Sequence[float]) -> float:
    """Return after how many epochs a phase has stopped improving; infinity when it has not."""
    best, best_epoch = float("inf"), 0
    for epoch, loss in enumerate(losses, start=1):
        if loss < best - plateau.min_delta:
            best, best_epoch = loss, epoch
        elif epoch - best_epoch >= plateau.patience_epochs:
            return epoch
    return float("inf")
