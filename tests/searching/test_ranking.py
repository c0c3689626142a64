"""The order of a study's trials, and the front of several objectives, against Optuna's own."""

import json

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fttune.searching import front, ranked
from fttune.searching.ranking import non_dominated

DIRECTIONS = st.sampled_from(["maximize", "minimize"])
FEW = st.integers(-3, 3).map(float)  # so that many values are equal
MANY = st.floats(-10, 10)


@st.composite
def studies(draw) -> optuna.Study:
    directions = draw(st.lists(DIRECTIONS, min_size=1, max_size=4))
    row = st.lists(draw(st.sampled_from([FEW, MANY])), min_size=len(directions), max_size=len(directions))
    stored = optuna.create_study(directions=directions)
    for values in draw(st.lists(row, max_size=25)):
        facts = {"state": "complete", "seconds": 0.0, "trainable_parameters": draw(st.integers(0, 2))}
        attributes = {"fttune": json.dumps(facts)}
        stored.add_trial(optuna.trial.create_trial(values=values, user_attrs=attributes))
    stored.add_trial(optuna.trial.create_trial(state=optuna.trial.TrialState.PRUNED))
    return stored


@given(studies())
def test_the_front_is_optunas(stored):
    assert sorted(t.number for t in front(stored)) == sorted(t.number for t in stored.best_trials)


@given(studies())
def test_the_front_comes_first_and_each_part_is_in_the_order_of_the_objectives(stored):
    best_first = ranked(stored)
    on_front = {t.number for t in stored.best_trials}
    signs = [-1 if d is optuna.study.StudyDirection.MAXIMIZE else 1 for d in stored.directions]

    def key(trial):
        losses = [sign * value for sign, value in zip(signs, trial.values, strict=True)]
        return trial.number not in on_front, losses, json.loads(trial.user_attrs["fttune"])["trainable_parameters"]

    complete = stored.get_trials(states=[optuna.trial.TrialState.COMPLETE])
    assert [t.number for t in best_first] == [t.number for t in sorted(complete, key=key)]
    if complete:
        firsts = [signs[0] * t.values[0] for t in complete]
        assert signs[0] * best_first[0].values[0] == min(firsts)


@given(st.lists(st.tuples(FEW, FEW, FEW), min_size=1, max_size=30))
def test_a_row_is_dominated_by_one_that_is_nowhere_worse_and_somewhere_better(rows):
    def dominates(a, b):
        return all(x <= y for x, y in zip(a, b, strict=True)) and a != b

    expected = [not any(dominates(other, row) for other in rows) for row in rows]
    assert non_dominated(np.array(rows)).tolist() == expected


@pytest.mark.parametrize("directions", [["maximize"], ["maximize", "minimize"]])
def test_a_study_without_a_complete_trial_has_no_front(directions):
    stored = optuna.create_study(directions=directions)
    assert (front(stored), ranked(stored)) == ([], [])
