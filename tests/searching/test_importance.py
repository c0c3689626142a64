"""Importances say which parameter decided, and nothing where there is nothing to say."""

import optuna
import pytest
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from fttune.searching.importance import importances


def trials(count: int, direction: str = "maximize") -> list[FrozenTrial]:
    """Random trials whose value hangs on `a` alone; `fixed` never changes."""
    study = optuna.create_study(direction=direction, sampler=optuna.samplers.RandomSampler(seed=0))

    def objective(trial: optuna.Trial) -> float:
        a, _ = trial.suggest_float("a", 0, 1), trial.suggest_float("b", 1e-4, 1, log=True)
        trial.suggest_int("fixed", 3, 3)
        return a if direction == "maximize" else 1 - a

    study.optimize(objective, count)
    return study.trials


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
@pytest.mark.parametrize("count", [12, 60])
def test_the_parameter_that_decides_has_the_larger_share(direction: str, count: int) -> None:
    found = importances(trials(count, direction), StudyDirection[direction.upper()])
    assert found is not None
    assert found.evaluator == "PED-ANOVA"
    assert (found.trials, found.best) == (count, max(5, count // 10))
    assert set(found.shares) == {"a", "b"}
    assert found.shares["a"] > 0.7
    assert sum(found.shares.values()) == pytest.approx(1)


def test_too_few_or_equal_trials_say_nothing() -> None:
    made = trials(20)
    assert importances(made[:9], StudyDirection.MAXIMIZE) is None
    for trial in made:
        trial.value = 0.5
    assert importances(made, StudyDirection.MAXIMIZE) is None
