"""Successive halving and hyperband in blocks: who goes on at a rung, and from where."""

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState

from fttune.config import Study
from fttune.config.workspace import Workspace
from fttune.searching import Asked, Inline, Outcome
from fttune.searching import search as search_with
from fttune.searching.pruning import is_among_best
from tests.recipes import tiny_study
from tests.searching.test_search import opened

EPOCHS = 9
LR = {"optimizer.lr": {"type": "float", "low": 0.001, "high": 0.1, "log": True}}


def halving(root: Path, *, n_trials: int = 18, **fields: object) -> Study:
    pruner = {"type": "successive_halving", "min_epochs": 1, "reduction_factor": 3}
    defaults = {"pruner": pruner, "sampler": {"type": "random"}, "space": LR, "batch": 6}
    study = tiny_study(root, **{**defaults, "budget": {"n_trials": n_trials}, **fields})
    return study.model_copy(update={"experiment": study.experiment.replace({"training.epochs": EPOCHS})})


class Curves:
    """An objective that goes on where it paused: the value of a trial at an epoch; notes every epoch that it trains."""

    def __init__(self, value: Callable[[int, int], float], *, epochs: int = EPOCHS, unsettled: int = 0) -> None:
        self.value, self.epochs, self.unsettled = value, epochs, unsettled
        self.done: dict[int, int] = defaultdict(int)
        self.trained: list[tuple[int, int]] = []

    def __call__(self, asked: Asked) -> Outcome:
        number = asked.number
        while self.done[number] < self.epochs:
            if not self.done[number] or (verdict := self._judged(asked)) == "go":
                self.done[number] += 1
                self.trained.append((number, self.done[number]))
                continue
            return Outcome("pruned" if verdict == "prune" else "paused")
        return Outcome("complete", self.value(number, self.epochs), 1, self.epochs)

    def _judged(self, asked: Asked) -> str:
        epoch = self.done[asked.number]
        return asked.judge(epoch, self.value(asked.number, epoch), max(0, epoch - self.unsettled))


def run(study: Study, workspace: Workspace, objective: Callable[[Asked], Outcome]) -> optuna.Study:
    stored = opened(study, workspace)
    search_with(study, stored, Inline(objective))
    return stored


def halved(values: list[float], *, batch: int, factor: int, epochs: int, maximize: bool) -> list[int]:
    """Return how many epochs each trial trains, from the rule in words: at a rung, of n trials that came there so far
    (all of the block count) the best n // factor go on, and at least one."""
    reached: dict[int, list[float]] = defaultdict(list)
    lengths = [0] * len(values)
    for start in range(0, len(values), batch):
        alive = list(range(start, min(start + batch, len(values))))
        rung = 1
        while alive and rung < epochs:
            reached[rung] += [values[i] for i in alive]
            room = max(1, len(reached[rung]) // factor)
            better = {i: sum((v > values[i]) if maximize else (v < values[i]) for v in reached[rung]) for i in alive}
            for i in alive:
                lengths[i] = rung
            alive = [i for i in alive if better[i] < room]
            rung *= factor
        for i in alive:
            lengths[i] = epochs
    return lengths


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=st.lists(st.integers(0, 20).map(float), min_size=1, max_size=20),
    batch=st.integers(1, 8),
    factor=st.sampled_from([2, 3, 4]),
    direction=st.sampled_from(["maximize", "minimize"]),
)
def test_who_goes_on_is_who_the_rule_says(
    tmp_path_factory: pytest.TempPathFactory, values: list[float], batch: int, factor: int, direction: str
) -> None:
    root = tmp_path_factory.mktemp("rungs")
    pruner = {"type": "successive_halving", "min_epochs": 1, "reduction_factor": factor}
    metric = "val/accuracy" if direction == "maximize" else "val/loss"
    study = halving(root, pruner=pruner, batch=batch, n_trials=len(values), metric=metric, direction=direction)
    objective = Curves(lambda number, _: values[number])
    stored = run(study, Workspace.at(root), objective)
    expected = halved(values, batch=batch, factor=factor, epochs=EPOCHS, maximize=direction == "maximize")
    assert [objective.done[number] for number in range(len(values))] == expected
    assert [t.state for t in stored.trials] == [
        TrialState.COMPLETE if length == EPOCHS else TrialState.PRUNED for length in expected
    ]


def test_no_trial_trains_an_epoch_twice_and_all_wait_at_the_rung(tmp_path: Path, workspace: Workspace) -> None:
    objective = Curves(lambda number, epoch: number + epoch / 10)
    stored = run(halving(tmp_path, n_trials=6), workspace, objective)
    assert len(objective.trained) == len(set(objective.trained))
    assert objective.trained[:6] == [(number, 1) for number in range(6)]
    assert objective.trained[6:] == [*((n, e) for n in (4, 5) for e in (2, 3)), *((5, e) for e in range(4, 10))]
    assert [t.intermediate_values for t in stored.trials[4:]] == [
        {1: 4.1, 3: 4.3},
        {1: 5.1, 3: 5.3},
    ]


def test_rungs_count_from_the_last_phase(tmp_path: Path, workspace: Workspace) -> None:
    """Half of the trials spend 4 epochs on an earlier phase: no epoch of it is a rung, and they get there later."""

    class Phased(Curves):
        def _judged(self, asked: Asked) -> str:
            self.unsettled = 4 if asked.number % 2 else 0
            return super()._judged(asked)

    objective = Phased(lambda number, _: float(number))
    stored = run(halving(tmp_path, n_trials=6), workspace, objective)
    assert [objective.done[number] for number in range(6)] == [1, 5, 1, 5, 3, EPOCHS]
    assert [sorted(t.intermediate_values) for t in stored.trials] == [[1], [1], [1], [1], [1, 3], [1, 3]]


@pytest.mark.parametrize("dies_at", [3, 7, 9, 14, 20, 31])
@pytest.mark.parametrize("pruner", ["successive_halving", "hyperband"])
def test_a_search_that_dies_between_rungs_decides_as_one_that_does_not(
    dies_at: int, pruner: str, tmp_path: Path, workspace: Workspace
) -> None:
    study = halving(tmp_path, pruner={"type": pruner, "reduction_factor": 3})

    def curve(number: int, epoch: int) -> float:
        return (number * 7 % 18) + epoch * (number % 5) / 4

    whole = run(study, Workspace.at(tmp_path / "whole"), Curves(curve))

    class Dies(Curves):
        def _judged(self, asked: Asked) -> str:
            verdict = super()._judged(asked)
            if len(self.trained) >= dies_at:
                raise KeyboardInterrupt
            return verdict

    with pytest.raises(KeyboardInterrupt):
        run(study, workspace, Dies(curve))
    again = run(study, workspace, Curves(curve))  # what was in memory is lost
    for one, expected in zip(again.trials, whole.trials, strict=True):
        assert (one.state, one.params, one.values) == (expected.state, expected.params, expected.values)
        assert one.intermediate_values == expected.intermediate_values


def test_a_trial_that_diverges_takes_no_place_at_a_rung(tmp_path: Path, workspace: Workspace) -> None:
    """Its last report is a NaN in the place of the next epoch, which is a rung here."""

    class Diverges(Curves):
        def _judged(self, asked: Asked) -> str:
            if asked.number in (1, 4) and self.done[asked.number] == 2:
                raise ArithmeticError
            return super()._judged(asked)

        def __call__(self, asked: Asked) -> Outcome:
            try:
                return super().__call__(asked)
            except ArithmeticError:
                return Outcome("diverged", cause="loss became nan")

    pruner = {"type": "successive_halving", "reduction_factor": 2}
    objective = Diverges(lambda number, _: [0.1, 0.5, 0.9, 0.7, 0.6, 0.2, 0.3, 0.8][number])
    run(halving(tmp_path, pruner=pruner, batch=8, n_trials=8), workspace, objective)
    assert [objective.done[number] for number in range(8)] == [1, 1, EPOCHS, 2, 2, 1, 1, 2]


def test_hyperband_halves_each_bracket_by_itself(tmp_path: Path, workspace: Workspace) -> None:
    study = halving(tmp_path, pruner={"type": "hyperband", "reduction_factor": 3}, n_trials=36, batch=12)
    objective = Curves(lambda number, _: float(number * 5 % 36))
    stored = run(study, workspace, objective)
    brackets: dict[int, list[int]] = defaultdict(list)
    for trial in stored.trials:
        first = min(trial.intermediate_values, default=EPOCHS)
        brackets[first].append(trial.number)
    assert sorted(brackets) == [1, 3, 9]
    for first, numbers in brackets.items():
        reached: list[float] = []
        for start in range(0, 36, 12):
            block = [n for n in numbers if start <= n < start + 12]
            reached += [float(n * 5 % 36) for n in block]
            goes_on = sorted(reached, reverse=True)[: max(1, len(reached) // 3)]
            for number in block:
                if first < EPOCHS:
                    assert (objective.done[number] > first) == (float(number * 5 % 36) in goes_on)
                else:
                    assert objective.done[number] == EPOCHS


def test_a_trial_with_the_recipe_of_one_that_waits_takes_over_its_value(tmp_path: Path, workspace: Workspace) -> None:
    space = {"optimizer.lr": {"type": "categorical", "choices": [0.01, 0.02]}}
    objective = Curves(lambda number, _: float(number))
    stored = run(halving(tmp_path, space=space, n_trials=6), workspace, objective)
    first = {t.params["optimizer.lr"]: t.number for t in reversed(stored.trials)}
    best = max(first.values())
    for trial in stored.trials:
        same = first[trial.params["optimizer.lr"]]
        if same == best and trial.number != best:
            assert (trial.state, trial.value) == (TrialState.COMPLETE, stored.trials[best].value)
            assert objective.done[trial.number] == 0


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=30), st.integers(2, 5), st.booleans())
def test_the_best_and_equal_ones_are_among_the_best(values: list[float], share: int, maximize: bool) -> None:
    best = [v for v in values if is_among_best(v, values, share=share, maximize=maximize)]
    assert (max if maximize else min)(values) in best
    assert len(set(best)) <= max(1, len(values) // share)
