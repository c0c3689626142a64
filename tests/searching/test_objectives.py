"""Searches for several objectives: they resume, prune and count as searches for one do."""

import warnings
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from fttune.config import load_study
from fttune.config.workspace import Workspace
from fttune.searching import Asked, Inline, Outcome, counted, facts_of
from fttune.searching import search as search_with
from fttune.searching.curves import curve_of
from tests.recipes import METRICS, STUDY, study_of_several, write_study
from tests.searching.inline import search
from tests.searching.test_rungs import Curves
from tests.searching.test_search import (
    CONDITIONAL,
    EPOCHS,
    FEW,
    GRID,
    found,
    objective,
    opened,
    stopping,
    value_at,
)

LR = {"optimizer.lr": {"type": "float", "low": 0.001, "high": 0.1, "log": True}}


def both(objective: Callable[[Asked], Outcome]) -> Callable[[Asked], Outcome]:
    """An objective for one value, with a second one: larger where more stages train and at a larger lr."""

    def run(asked: Asked) -> Outcome:
        outcome = objective(asked)
        if outcome.value is None:
            return outcome
        lr, depth = asked.values["optimizer.lr"], asked.values.get("freeze.unfrozen_stages", 1)
        second = float(lr) + (4 if depth == "all" else depth)
        return Outcome("complete", outcome.value, 1, EPOCHS, others=(second,))

    return run


def curves(stored: optuna.Study) -> list[tuple[TrialState, dict[str, object], dict[int, float]]]:
    return [(t.state, t.params, dict(curve_of(t))) for t in stored.trials]


@pytest.mark.parametrize(
    ("sampler", "pruner"),
    [
        ("tpe", "hyperband"),
        ("tpe conditional", "median"),
        ("tpe few", "median"),
        ("random", "successive_halving"),
        ("grid", "none"),
        ("gp", "median"),
    ],
)
def test_a_resumed_study_of_two_objectives_equals_one_that_was_never_interrupted(
    sampler: str, pruner: str, tmp_path: Path, workspace: Workspace
) -> None:
    sampler, _, kind = sampler.partition(" ")
    space = {"grid": GRID, "conditional": CONDITIONAL, "few": FEW}.get(kind or sampler, STUDY["space"])
    fields = {"sampler__type": sampler, "pruner__type": pruner, "space": space, "budget__n_trials": 14, "batch": 4}
    study = study_of_several(tmp_path, **fields)
    whole = opened(study, workspace)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        search(study, whole, both(objective))

    other = Workspace.at(tmp_path, tmp_path / "other")
    stops = ((2, 2), (1, 0), (2, 1)) if kind == "few" else ((3, 2), (4, 0), (5, 1))
    for at_call, at_epoch in stops:
        with pytest.raises(KeyboardInterrupt):
            search(study, opened(study, other), both(stopping(at_call, at_epoch)))
    resumed = opened(study, other)
    search(study, resumed, both(objective))

    assert found(resumed) == found(whole)
    assert curves(resumed) == curves(whole)
    assert counted(resumed) == 14
    assert {len(t.values) for t in whole.trials if t.state is TrialState.COMPLETE} == {2}
    assert {len(t.values or ()) for t in whole.trials if t.state is not TrialState.COMPLETE} <= {0}


@pytest.mark.parametrize(("direction", "batch"), [("maximize", 4), ("minimize", 1)])
@pytest.mark.parametrize(
    "pruner",
    [
        {"type": "median", "startup_trials": 2, "warmup_epochs": 1},
        {"type": "successive_halving", "reduction_factor": 2},
        {"type": "hyperband", "reduction_factor": 2},
    ],
)
def test_a_pruner_decides_by_the_first_objective_as_if_it_were_the_only_one(
    pruner: dict[str, object], direction: str, batch: int, tmp_path: Path, workspace: Workspace
) -> None:
    metric = "val/accuracy" if direction == "maximize" else "val/loss"
    fields = {"pruner": pruner, "batch": batch, "budget__n_trials": 18, "sampler__type": "random", "space": LR}
    alone = load_study(write_study(tmp_path, "several", metric=metric, direction=direction, **fields))
    one = opened(alone, Workspace.at(tmp_path, tmp_path / "one"))
    search_with(alone, one, Inline(Curves(curve)))

    metrics = [{"name": metric, "direction": direction}, METRICS[1]]
    study = study_of_several(tmp_path, metrics=metrics, **fields)
    two = opened(study, workspace)  # under the same name: hyperband draws brackets by it
    search_with(study, two, Inline(both(Curves(curve))))

    assert curves(two) == curves(one)
    assert {t.state for t in two.trials} == {TrialState.COMPLETE, TrialState.PRUNED}
    assert all(t.intermediate_values == {} for t in two.trials)
    complete = [t for t in two.trials if t.state is TrialState.COMPLETE]
    assert [t.values[0] for t in complete] == [t.value for t in one.trials if t.state is TrialState.COMPLETE]


def curve(number: int, epoch: int) -> float:
    return (number * 7 % 18) + epoch * (number % 5) / 4


@pytest.mark.parametrize("pruner", ["median", "successive_halving", "hyperband"])
def test_a_pruning_decision_of_several_objectives_outlives_the_process(
    pruner: str, tmp_path: Path, workspace: Workspace
) -> None:
    study = study_of_several(tmp_path, pruner={"type": pruner}, batch=6, budget__n_trials=18)
    whole = opened(study, Workspace.at(tmp_path, tmp_path / "whole"))
    search_with(study, whole, Inline(both(Curves(curve))))
    for stop in (3, 7, 20):

        class Dies(Curves):
            def _judged(self, asked: Asked, stop: int = stop) -> str:
                verdict = super()._judged(asked)
                if len(self.trained) >= stop:
                    raise KeyboardInterrupt
                return verdict

        with pytest.raises(KeyboardInterrupt):
            search_with(study, opened(study, workspace), Inline(both(Dies(curve))))
    again = opened(study, workspace)
    search_with(study, again, Inline(both(Curves(curve))))
    assert (found(again), curves(again)) == (found(whole), curves(whole))


def test_failed_and_diverged_trials_count_as_with_one_objective(tmp_path: Path, workspace: Workspace) -> None:
    study = study_of_several(tmp_path, pruner__type="median", budget__n_trials=5)
    stored = opened(study, workspace)

    def some_end_badly(asked: Asked) -> Outcome:
        if asked.number == 1:
            asked.judge(1, 1000.0, 1)
            return Outcome("diverged", cause="loss became nan")
        return Outcome("failed", cause="why") if asked.number == 2 else both(objective)(asked)

    search(study, stored, some_end_badly)
    assert counted(stored) == 5
    assert [(t.state, t.values) for t in stored.trials[1:3]] == [(TrialState.PRUNED, None), (TrialState.FAIL, None)]
    assert facts_of(stored.trials[1]).state == "diverged"  # type: ignore[union-attr]


def test_a_known_recipe_takes_over_every_value(tmp_path: Path, workspace: Workspace) -> None:
    stored = opened(study := study_of_several(tmp_path, space=FEW, budget__n_trials=24, batch=4), workspace)
    reused: list[Outcome] = []
    search(
        study,
        stored,
        lambda asked: Outcome("complete", float(asked.number), 7, 2, others=(-float(asked.number),)),
        reuse=lambda _, outcome, __: reused.append(outcome),
    )
    twins = [(t, f.reused_from) for t in stored.trials if (f := facts_of(t)) and f.reused_from is not None]
    assert len(twins) == 20
    assert [(outcome.value, *outcome.others) for outcome in reused] == [tuple(t.values) for t, _ in twins]
    assert all(t.values == [float(twin), -float(twin)] for t, twin in twins)


@pytest.mark.parametrize("pruner", ["median", "hyperband"])
def test_plain_optuna_goes_on_from_the_store(pruner: str, tmp_path: Path, workspace: Workspace) -> None:
    study = study_of_several(tmp_path, pruner__type=pruner, budget__n_trials=16)
    search(study, opened(study, workspace), both(objective))
    plain = optuna.load_study(
        study_name="several", storage=workspace.optuna_uri, sampler=optuna.samplers.TPESampler(seed=0)
    )
    assert {t.state for t in plain.trials} == {TrialState.COMPLETE, TrialState.PRUNED}
    plain.optimize(
        lambda trial: (value_at({"optimizer.lr": trial.suggest_float("optimizer.lr", 1e-3, 0.1, log=True)}, 1), 0.0), 1
    )
    assert len(plain.trials) == 17
