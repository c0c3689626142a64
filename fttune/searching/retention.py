"""Which trials of a search keep their checkpoints. A function of trials; others know how they are deleted."""

from collections.abc import Sequence

from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from fttune.searching.ranking import best_first
from fttune.searching.store import facts_of


def retained(
    ended: Sequence[FrozenTrial], *, keep: int, directions: Sequence[StudyDirection]
) -> tuple[list[FrozenTrial], list[FrozenTrial]]:
    """Divide trials that have ended into those whose checkpoints stay, best first, and those whose may go.

    The `keep` best complete ones stay, of those that trained: a trial that took over the value of another has no
    checkpoint. That other one is its equal with a lower number, so it ranks before it, and stays whenever the trial is
    among the best. Of one objective, the trials that stay may take the place of all so far, as more end.
    """
    trained = [trial for trial in ended if not _is_repeat(trial)]
    complete = [trial for trial in trained if trial.state is TrialState.COMPLETE]
    staying = best_first(complete, directions)[:keep]
    numbers = {trial.number for trial in staying}
    return staying, [trial for trial in trained if trial.number not in numbers]


def _is_repeat(trial: FrozenTrial) -> bool:
    facts = facts_of(trial)
    return facts is not None and facts.reused_from is not None
