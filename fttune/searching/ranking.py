"""Which trials of a study are the best: an order of all, and the front of several objectives."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from fttune.searching.store import facts_of

Losses = npt.NDArray[np.float64]


def ranked(stored: optuna.Study) -> list[FrozenTrial]:
    """Return the complete trials, best first.

    With several objectives those of the front come first, then the others. Both are in the order of their values, the
    objectives in turn; equal values rank by fewer trained parameters, then lower number. So the first trial is the best
    one by the first objective.
    """
    return best_first(stored.get_trials(deepcopy=False, states=[TrialState.COMPLETE]), stored.directions)


def best_first(trials: Sequence[FrozenTrial], directions: Sequence[StudyDirection]) -> list[FrozenTrial]:
    """Return complete trials in the order of `ranked`."""
    if not trials:
        return []
    losses = _losses(trials, directions)
    behind = ~non_dominated(losses)

    def key(row: int) -> tuple[bool, list[float], float, int]:
        facts = facts_of(trials[row])
        size = facts.trainable_parameters if facts and facts.trainable_parameters is not None else float("inf")
        return bool(behind[row]), losses[row].tolist(), size, trials[row].number

    return [trials[row] for row in sorted(range(len(trials)), key=key)]


def front(stored: optuna.Study) -> list[FrozenTrial]:
    """Return the complete trials that no other one dominates, in the order of `ranked`.

    One dominates another when it is better in an objective and worse in none (Pareto). Equal trials do not dominate
    each other. With one objective these are all that have the best value.
    """
    best_first = ranked(stored)
    if not best_first:
        return []
    kept = non_dominated(_losses(best_first, stored.directions))
    return [trial for trial, is_kept in zip(best_first, kept, strict=True) if is_kept]


def non_dominated(losses: Losses) -> npt.NDArray[np.bool_]:
    """Return which rows of (trials, objectives) no other row dominates, (trials,); smaller is better.

    In lexicographic order the first row is never dominated, and dominates all that are smaller nowhere; what is left
    without those begins with the next one of the front.
    """
    rows, place = np.unique(losses, axis=0, return_inverse=True)
    kept = np.zeros(len(rows), dtype=bool)
    left = np.arange(len(rows))
    while len(left):
        first, left = left[0], left[1:]
        kept[first] = True
        left = left[(rows[left] < rows[first]).any(axis=1)]
    found: npt.NDArray[np.bool_] = kept[place.reshape(-1)]
    return found


def _losses(trials: Sequence[FrozenTrial], directions: Sequence[StudyDirection]) -> Losses:
    """Return the values of complete trials such that smaller is better, (trials, objectives)."""
    signs = [-1.0 if direction is StudyDirection.MAXIMIZE else 1.0 for direction in directions]
    return np.array([trial.values for trial in trials], dtype=np.float64) * signs
