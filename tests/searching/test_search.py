import itertools
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from fttune.config import Study
from fttune.config.workspace import Workspace
from fttune.errors import TooManyFailures
from fttune.searching import Asked, Outcome, counted, facts_of, open_storage, open_study, ranked
from fttune.searching.samplers import sampler_for
from tests.recipes import STUDY, tiny_study
from tests.searching.inline import search

searching = sys.modules["fttune.searching.search"]

IDENTITY = {"a": 1}
EPOCHS = 4
NUMBERS_ONLY = {
    "optimizer.lr": {"type": "float", "low": 1e-3, "high": 0.1, "log": True},
    "optimizer.momentum": {"type": "float", "low": 0.0, "high": 0.9},
}
CONDITIONAL = {
    "optimizer.momentum": {"type": "float", "low": 0.1, "high": 0.9},
    "optimizer.name": {"type": "categorical", "choices": ["sgd", "adamw"]},
    "optimizer.lr": {"type": "float", "low": 1e-3, "high": 0.1, "log": True},
    "freeze.train": {"type": "categorical", "choices": ["all", {"first": 1}]},
}
FEW = {
    "optimizer.lr": {"type": "categorical", "choices": [0.01, 0.05]},
    "freeze.unfrozen_stages": {"type": "categorical", "choices": [4, "all", 1.0, 0]},
}
LRS = {"type": "categorical", "choices": [0.01, 0.02, 0.05]}
MOMENTA = {"type": "categorical", "choices": [0.1, 0.5]}
GRID = {
    "optimizer.lr": {"type": "float", "low": 1e-3, "high": 0.1, "log": True, "points": 3},
    "freeze.unfrozen_stages": {"type": "int", "low": 0, "high": 4},
}


def value_at(values: dict[str, object], epoch: int) -> float:
    """A smooth objective over the space, rising with the epoch."""
    lr = float(values["optimizer.lr"])  # type: ignore[arg-type]
    other: Any = values.get("freeze.unfrozen_stages", values.get("optimizer.momentum", 0))
    other = 4.0 if other in ("all", 1.0) else float(other)
    return 1 - (math.log10(lr) + 2) ** 2 - 0.1 * (other - 2) ** 2 - 1 / epoch


def objective(asked: Asked) -> Outcome:
    """Trains anew after a pause: the judge answers for earlier epochs as it did."""
    for epoch in range(1, EPOCHS + 1):
        verdict = asked.judge(epoch, value_at(dict(asked.values), epoch), epoch)
        if verdict != "go" and epoch < EPOCHS:
            return Outcome("pruned" if verdict == "prune" else "paused")
    return Outcome("complete", value_at(dict(asked.values), EPOCHS), trainable_parameters=1, best_epoch=EPOCHS)


def opened(study: Study, workspace: Workspace) -> optuna.Study:
    return open_study(study, open_storage(workspace.optuna_uri, locks=workspace.locks), IDENTITY)


def found(stored: optuna.Study) -> list[tuple[object, ...]]:
    return [(t.number, t.state, t.params, t.values, t.intermediate_values) for t in stored.trials]


def stopping(at_call: int, at_epoch: int) -> Callable[[Asked], Outcome]:
    """The objective, interrupted in its n-th call after an epoch's report (0: before the first)."""
    calls = 0

    def interrupted(asked: Asked) -> Outcome:
        nonlocal calls
        calls += 1
        if calls != at_call:
            return objective(asked)
        for epoch in range(1, at_epoch + 1):
            if asked.judge(epoch, value_at(dict(asked.values), epoch), epoch) != "go":
                break
        raise KeyboardInterrupt

    return interrupted


@pytest.mark.parametrize(
    ("sampler", "pruner"),
    [
        ("tpe", "none"),
        ("tpe", "median"),
        ("tpe", "hyperband"),
        ("tpe conditional", "median"),
        ("grid conditional", "none"),
        ("tpe few", "median"),
        ("random", "successive_halving"),
        ("grid", "median"),
        ("gp", "median"),
        ("cmaes", "none"),
    ],
)
def test_a_resumed_study_equals_one_that_was_never_interrupted(
    sampler: str, pruner: str, tmp_path: Path, workspace: Workspace
) -> None:
    sampler, _, kind = sampler.partition(" ")
    spaces = {"grid": GRID, "cmaes": NUMBERS_ONLY, "conditional": CONDITIONAL, "few": FEW}
    space = spaces.get(kind or sampler, STUDY["space"])
    if (sampler, kind) == ("grid", "conditional"):
        space = {**CONDITIONAL, "optimizer.lr": LRS, "optimizer.momentum": MOMENTA}
    fields = {"sampler__type": sampler, "pruner__type": pruner, "space": space, "budget__n_trials": 14, "batch": 4}
    study = tiny_study(tmp_path, **fields)
    uninterrupted = opened(study, workspace)
    search(study, uninterrupted, objective)

    other = Workspace.at(tmp_path, tmp_path / "other")
    stops = ((2, 2), (1, 0), (2, 1)) if kind == "few" else ((3, 2), (4, 0), (5, 1))
    for at_call, at_epoch in stops:
        with pytest.raises(KeyboardInterrupt):
            search(study, opened(study, other), stopping(at_call, at_epoch))
    resumed = opened(study, other)
    search(study, resumed, objective)

    assert found(resumed) == found(uninterrupted)
    assert counted(resumed) == 14
    assert {t.state for t in resumed.trials} <= {TrialState.COMPLETE, TrialState.PRUNED}


def test_an_interrupted_trial_keeps_its_number_and_parameters(tmp_path: Path, workspace: Workspace) -> None:
    study = tiny_study(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        search(study, opened(study, workspace), stopping(2, 1))
    running = [t for t in opened(study, workspace).trials if t.state is TrialState.RUNNING]
    assert [t.number for t in running] == [1]
    seen: list[Asked] = []
    search(study, opened(study, workspace), lambda asked: (seen.append(asked), objective(asked))[1])
    assert (seen[0].number, seen[0].resumed, dict(seen[0].values)) == (1, True, running[0].params)
    assert [(asked.number, asked.resumed) for asked in seen[1:]] == [(2, False), (3, False)]


@pytest.mark.parametrize(("sampler", "killed"), [("tpe", 1), ("random", 3)])
def test_a_trial_killed_while_it_was_asked_is_completed_with_the_same_values(
    sampler: str, killed: int, tmp_path: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = {**NUMBERS_ONLY, "freeze.unfrozen_stages": {"type": "int", "low": 0, "high": 4}}
    study = tiny_study(tmp_path, sampler__type=sampler, space=space)
    whole = opened(study, Workspace.at(tmp_path, tmp_path / "other"))
    search(study, whole, objective)

    suggest_int, calls = optuna.Trial.suggest_int, itertools.count(1)

    def dies(trial: optuna.Trial, name: str, low: int, high: int, *, step: int, log: bool) -> int:
        if next(calls) == killed:
            raise KeyboardInterrupt
        return suggest_int(trial, name, low, high, step=step, log=log)

    with monkeypatch.context() as killing:
        killing.setattr(optuna.Trial, "suggest_int", dies)
        with pytest.raises(KeyboardInterrupt):
            search(study, opened(study, workspace), objective)
    assert len(opened(study, workspace).trials[-1].params) == 2
    search(study, opened(study, workspace), objective)
    assert found(opened(study, workspace)) == found(whole)


def test_a_pruning_decision_outlives_the_process(tmp_path: Path, workspace: Workspace) -> None:
    study = tiny_study(tmp_path, pruner={"type": "successive_halving", "reduction_factor": 2}, budget__n_trials=6)

    pruned: list[int] = []

    def dies_after_deciding(asked: Asked) -> Outcome:
        outcome = objective(asked)
        if outcome.state == "pruned":
            pruned.append(asked.number)
            raise KeyboardInterrupt
        return outcome

    with pytest.raises(KeyboardInterrupt):
        search(study, opened(study, workspace), dies_after_deciding)
    running = opened(study, workspace).trials[pruned[0]]
    assert running.state is TrialState.RUNNING
    search(study, opened(study, workspace), objective)
    after = opened(study, workspace).trials[running.number]
    assert after.state is TrialState.PRUNED
    assert after.intermediate_values == running.intermediate_values


def test_failed_trials_do_not_count_and_carry_their_cause(tmp_path: Path, workspace: Workspace) -> None:
    study = tiny_study(tmp_path, budget__n_trials=5)
    stored = opened(study, workspace)
    search(study, stored, lambda asked: Outcome("failed", cause="why") if asked.number in (1, 2) else objective(asked))
    states = [t.state for t in stored.trials]
    assert states.count(TrialState.COMPLETE) == 5
    assert [t.number for t in stored.trials if t.state is TrialState.FAIL] == [1, 2]
    assert facts_of(stored.trials[1]).cause == "why"  # type: ignore[union-attr]


def test_failures_in_a_row_end_the_search_with_the_last_cause(tmp_path: Path, workspace: Workspace) -> None:
    study = tiny_study(tmp_path, budget={"n_trials": 20, "max_failed": 3}, batch=8)
    stored = opened(study, workspace)
    with pytest.raises(TooManyFailures, match=r"3 trials in a row failed.*trial 2, because: no disk"):
        search(study, stored, lambda _: Outcome("failed", cause="no disk"))
    assert {t.state for t in stored.trials} == {TrialState.FAIL}
    assert len(stored.trials) == 8


def test_a_success_between_failures_starts_the_count_again(tmp_path: Path, workspace: Workspace) -> None:
    study = tiny_study(tmp_path, budget={"n_trials": 4, "max_failed": 2})
    stored = opened(study, workspace)
    search(study, stored, lambda asked: Outcome("failed", cause="x") if asked.number % 2 == 0 else objective(asked))
    assert counted(stored) == 4


def test_a_diverged_trial_counts_as_pruned_without_a_value(tmp_path: Path, workspace: Workspace) -> None:
    study = tiny_study(tmp_path, budget__n_trials=3)
    stored = opened(study, workspace)

    def diverges_after_a_good_epoch(asked: Asked) -> Outcome:
        if asked.number != 1:
            return objective(asked)
        asked.judge(1, 1000.0, 1)
        return Outcome("diverged", cause="loss became nan")

    search(study, stored, diverges_after_a_good_epoch)
    diverged = stored.trials[1]
    assert (diverged.state, diverged.value) == (TrialState.PRUNED, None)
    assert counted(stored) == 3
    assert 1 not in [t.number for t in ranked(stored)]
    assert facts_of(diverged).state == "diverged"  # type: ignore[union-attr]


def test_baselines_come_first_and_a_new_one_is_added_later(tmp_path: Path, workspace: Workspace) -> None:
    first = {"optimizer.lr": 0.01, "freeze.unfrozen_stages": 0}
    study = tiny_study(tmp_path, baselines=[first, {"freeze.unfrozen_stages": 4}])
    stored = opened(study, workspace)
    search(study, stored, objective)
    assert stored.trials[0].params == first
    assert stored.trials[1].params["freeze.unfrozen_stages"] == 4
    second = {"optimizer.lr": 0.02, "freeze.unfrozen_stages": 1}
    more = tiny_study(tmp_path, baselines=[first, second], budget__n_trials=6)
    search(more, stored, objective)
    assert [t.params for t in stored.trials].count(first) == 1
    assert stored.trials[4].params == second
    assert counted(stored) == 6


def test_a_grid_visits_every_point_once_and_its_size_caps_the_total(tmp_path: Path, workspace: Workspace) -> None:
    study = tiny_study(tmp_path, sampler__type="grid", space=GRID, budget__n_trials=100)
    stored = opened(study, workspace)
    search(study, stored, objective)
    visited = [(t.params["optimizer.lr"], t.params["freeze.unfrozen_stages"]) for t in stored.trials]
    expected = [(lr, depth) for lr in (1e-3, 1e-2, 1e-1) for depth in range(5)]
    assert len(visited) == 15
    for lr, depth in expected:
        assert sum(depth == d and math.isclose(lr, r) for r, d in visited) == 1


def test_a_failed_grid_point_is_tried_again(tmp_path: Path, workspace: Workspace) -> None:
    study = tiny_study(tmp_path, sampler__type="grid", space=GRID, budget__n_trials=100)
    stored = opened(study, workspace)
    search(study, stored, lambda asked: Outcome("failed", cause="x") if asked.number == 3 else objective(asked))
    done = [t.params for t in stored.trials if t.state is TrialState.COMPLETE]
    assert len(done) == 15
    assert stored.trials[3].params in done


def test_the_time_budget_counts_all_invocations(tmp_path: Path, workspace: Workspace) -> None:
    study = tiny_study(tmp_path, budget={"n_trials": 50, "timeout_minutes": 1e-9}, batch=4)
    stored = opened(study, workspace)
    search(study, stored, objective)
    assert counted(stored) == 1
    assert TrialState.RUNNING not in {t.state for t in stored.trials}
    search(study, opened(study, workspace), objective)
    assert counted(stored) == 1


def test_blocks_begin_at_multiples_of_batch_whatever_came_before(tmp_path: Path, workspace: Workspace) -> None:
    study = tiny_study(tmp_path, batch=4, budget__n_trials=10)
    stored = opened(study, workspace)
    running_at: dict[int, list[int]] = {}

    def watch(asked: Asked) -> Outcome:
        running_at[asked.number] = [t.number for t in stored.trials if t.state is TrialState.RUNNING]
        return objective(asked)

    search(study, stored, watch)
    assert running_at[0] == [0, 1, 2, 3]
    assert running_at[4] == [4, 5, 6, 7]
    assert running_at[8] == [8, 9]


def test_equal_trials_rank_by_fewer_trained_parameters_then_by_number(tmp_path: Path, workspace: Workspace) -> None:
    study = tiny_study(tmp_path, budget__n_trials=4)
    stored = opened(study, workspace)
    sizes = {0: 30, 1: 10, 2: 10, 3: 20}
    search(study, stored, lambda asked: Outcome("complete", 0.5, sizes[asked.number], 1))
    assert [t.number for t in ranked(stored)] == [1, 2, 3, 0]


@pytest.mark.parametrize(
    ("pruner", "plain", "at"),
    [
        ({"type": "median", "startup_trials": 2, "warmup_epochs": 1}, optuna.pruners.MedianPruner(2, 2), {1, 2, 3, 4}),
        (
            {"type": "successive_halving", "min_epochs": 1, "reduction_factor": 2},
            optuna.pruners.SuccessiveHalvingPruner(1, 2),
            {1, 2, 4},
        ),
    ],
)
def test_a_pruner_decides_on_single_trials_as_plain_optuna_does(
    pruner: dict[str, object], plain: optuna.pruners.BasePruner, at: set[int], tmp_path: Path, workspace: Workspace
) -> None:
    study = tiny_study(tmp_path, pruner=pruner, budget__n_trials=16, batch=1)
    stored = opened(study, workspace)
    search(study, stored, objective)

    reference = optuna.create_study(direction="maximize", pruner=plain)
    for trial in stored.trials:
        copy = reference.ask()
        ended = False
        for epoch in range(1, EPOCHS + 1):
            copy.report(value_at(trial.params, epoch), step=epoch)
            if copy.should_prune():
                reference.tell(copy, state=TrialState.PRUNED)
                ended = True
                break
        if not ended:
            reference.tell(copy, value_at(trial.params, EPOCHS))
    assert [t.state for t in stored.trials] == [t.state for t in reference.trials]
    for trial, expected in zip(stored.trials, reference.trials, strict=True):
        reported = trial.intermediate_values
        assert reported == {step: expected.intermediate_values[step] for step in reported}
        assert reported.keys() == expected.intermediate_values.keys() & at


def test_without_a_pruner_every_trial_ends_complete_and_nothing_is_reported(
    tmp_path: Path, workspace: Workspace
) -> None:
    stored = opened(study := tiny_study(tmp_path, budget__n_trials=8), workspace)
    search(study, stored, objective)
    assert [(t.state, t.intermediate_values) for t in stored.trials] == [(TrialState.COMPLETE, {})] * 8


def test_a_baseline_off_the_grid_that_fails_is_tried_again(tmp_path: Path, workspace: Workspace) -> None:
    baseline = {"optimizer.lr": 0.02, "freeze.unfrozen_stages": 1}
    study = tiny_study(tmp_path, sampler__type="grid", space=GRID, baselines=[baseline], budget__n_trials=100)
    stored = opened(study, workspace)
    search(study, stored, lambda asked: Outcome("failed", cause="x") if asked.number == 0 else objective(asked))
    done = [t.params for t in stored.trials if t.state is TrialState.COMPLETE]
    assert len(done) == 16
    assert all(point in [baseline, *study.grid()] for point in done)


def test_a_known_recipe_is_told_its_value_without_running(tmp_path: Path, workspace: Workspace) -> None:
    study = tiny_study(tmp_path, space=FEW, budget__n_trials=24, batch=4)
    stored = opened(study, workspace)
    ran: list[int] = []
    reused: dict[int, int] = {}

    def run(asked: Asked) -> Outcome:
        ran.append(asked.number)
        return Outcome("complete", float(asked.number), trainable_parameters=7, best_epoch=2)

    search(study, stored, run, reuse=lambda asked, _, twin: reused.__setitem__(asked.number, twin))
    depth = {4: 4, "all": 4, 1.0: 4, 0: 0}  # of the four stages of the net
    first: dict[tuple[Any, int], int] = {}
    for trial in stored.trials:
        recipe = (trial.params["optimizer.lr"], depth[trial.params["freeze.unfrozen_stages"]])
        twin = first.setdefault(recipe, trial.number)
        facts = facts_of(trial)
        assert facts is not None
        assert (trial.state, trial.value) == (TrialState.COMPLETE, float(twin))
        assert (facts.trainable_parameters, facts.best_epoch) == (7, 2)
        assert facts.reused_from == reused.get(trial.number) == (twin if twin != trial.number else None)
    assert sorted(first.values()) == ran
    assert len(ran) == 4
    assert counted(stored) == 24


def test_a_known_recipe_that_did_not_complete_runs(tmp_path: Path, workspace: Workspace) -> None:
    one = {"optimizer.lr": {"type": "categorical", "choices": [0.01]}}
    study = tiny_study(tmp_path, space=one, budget__n_trials=5)
    stored = opened(study, workspace)
    states = {0: "failed", 1: "pruned", 2: "diverged"}
    ran: list[int] = []

    def run(asked: Asked) -> Outcome:
        ran.append(asked.number)
        return Outcome(states[asked.number]) if asked.number in states else Outcome("complete", 0.5)  # type: ignore[arg-type]

    search(study, stored, run)
    assert ran == [0, 1, 2, 3]
    assert [t.number for t in stored.trials if (f := facts_of(t)) and f.reused_from == 3] == [4, 5]


def test_more_than_three_repeats_in_a_row_make_the_next_proposal_random(
    tmp_path: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tiny_study(tmp_path, space=FEW, sampler__type="tpe", budget__n_trials=28, batch=4)
    drawn: dict[int, bool] = {}
    plain = searching.sampler_for

    def watched(study: Study, number: int, *, at_random: bool) -> optuna.samplers.BaseSampler:
        drawn[number] = at_random
        return plain(study, number, at_random=at_random)

    monkeypatch.setattr(searching, "sampler_for", watched)
    stored = opened(study, workspace)
    search(study, stored, objective)
    digests = [facts.recipe for t in stored.trials if (facts := facts_of(t))]
    repeats = [digest in digests[:number] for number, digest in enumerate(digests)]
    for number in range(28):
        assert drawn[number] == (number > 3 and all(repeats[number - 4 : number]))
    assert any(drawn.values())


def test_a_reuse_that_was_cut_off_is_repeated_by_the_next_start(tmp_path: Path, workspace: Workspace) -> None:
    study = tiny_study(tmp_path, space=FEW, budget__n_trials=12, batch=4)
    whole = opened(study, Workspace.at(tmp_path, tmp_path / "other"))
    search(study, whole, objective)

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(study, opened(study, workspace), objective, reuse=dies)
    seen: list[Asked] = []
    stored = opened(study, workspace)
    search(study, stored, objective, reuse=lambda asked, *_: seen.append(asked))
    assert seen[0].resumed
    assert found(stored) == found(whole)


def test_a_conditional_space_keeps_its_joint_proposals(tmp_path: Path) -> None:
    assert sampler_for(tiny_study(tmp_path, space=CONDITIONAL, sampler__type="tpe"), 0)._group is True  # type: ignore[attr-defined]
    assert sampler_for(tiny_study(tmp_path, sampler__type="tpe"), 0)._group is False  # type: ignore[attr-defined]


def test_an_unconditional_study_proposes_what_plain_optuna_does(tmp_path: Path, workspace: Workspace) -> None:
    study = tiny_study(tmp_path, sampler__type="tpe", budget__n_trials=14, batch=1)
    stored = opened(study, workspace)
    search(study, stored, objective)
    plain = optuna.create_study(direction="maximize", pruner=optuna.pruners.NopPruner())
    for number, trial in enumerate(stored.trials):
        seed = int(np.random.SeedSequence([0, number]).generate_state(1)[0])
        plain.sampler = optuna.samplers.TPESampler(seed=seed)
        same = plain.ask()
        same.suggest_float("optimizer.lr", 1e-3, 0.1, log=True)
        same.suggest_int("freeze.unfrozen_stages", 0, 4)
        assert same.params == trial.params
        for epoch in range(1, EPOCHS + 1):
            same.report(value_at(same.params, epoch), step=epoch)
        plain.tell(same, value_at(same.params, EPOCHS))
