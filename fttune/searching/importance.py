"""Which parameters decide whether a trial is among the best: PED-ANOVA, over all trials or some of them."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, create_trial

EVALUATOR = "PED-ANOVA"
FEWEST = 10  # trials that say anything
BEST, FEWEST_BEST = 0.1, 5  # the share of trials that count as the best; the evaluator asks for at least five of them


@dataclass(frozen=True)
class Importances:
    """Shares of 1 by parameter; `best` of the `trials` counted as the best ones."""

    evaluator: str
    trials: int
    best: int
    shares: dict[str, float]


def importances(trials: Sequence[FrozenTrial], direction: StudyDirection) -> Importances | None:
    """Return the importance of each parameter of complete trials, None where there are too few, or all are equal.

    Of several objectives the first one counts, whose direction is given.

    PED-ANOVA (Watanabe et al., IJCAI 2023, arXiv 2304.10255) compares how the parameters of the best trials are spread
    with how those of all are. A parameter with one value has none.
    """
    if len(trials) < FEWEST:
        return None
    share = max(BEST, FEWEST_BEST / len(trials))
    values = sorted((trial.values[0] for trial in trials), reverse=direction is StudyDirection.MAXIMIZE)
    best = values[math.ceil(share * len(trials)) - 1]
    among = sum(value >= best if direction is StudyDirection.MAXIMIZE else value <= best for value in values)
    if among == len(trials):
        return None
    of = optuna.create_study(direction=direction)
    of.add_trials(
        create_trial(params=trial.params, distributions=trial.distributions, value=trial.values[0]) for trial in trials
    )
    with warnings.catch_warnings(action="ignore"):  # the evaluator is an experimental feature of Optuna's
        found = get_param_importances(of, evaluator=PedAnovaImportanceEvaluator(target_quantile=share), normalize=False)
    whole = sum(found.values())
    if not whole:
        return None
    varied = {name for name in found if len({trial.params.get(name) for trial in trials}) > 1}
    return Importances(EVALUATOR, len(trials), among, {n: v / whole for n, v in found.items() if n in varied})
