"""What may lose its checkpoint, checked against a plain statement of the rule for random histories of trials."""

import json
from dataclasses import asdict

import optuna
from hypothesis import given
from hypothesis import strategies as st
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from fttune.searching import retained
from fttune.searching.ranking import best_first
from fttune.searching.store import FACTS, TrialFacts, facts_of

VALUES = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])


@st.composite
def histories(draw: st.DrawFn, objectives: int = 1) -> list[FrozenTrial]:
    """Ended trials by number: complete ones, some of which took over an earlier value, pruned and failed ones."""
    trials: list[FrozenTrial] = []
    for number in range(draw(st.integers(1, 14))):
        complete = [t for t in trials if t.state is TrialState.COMPLETE and _source(t) is None]
        if complete and draw(st.booleans()):
            twin = draw(st.sampled_from(complete))
            trials.append(_trial(number, "complete", list(twin.values), size=_size(twin), source=twin.number))
            continue
        state = draw(st.sampled_from(["complete", "complete", "pruned", "diverged", "failed"]))
        values = [draw(VALUES) for _ in range(objectives)] if state == "complete" else None
        trials.append(_trial(number, state, values, size=draw(st.sampled_from([10, 20]))))
    return trials


def _trial(number: int, state: str, values: list[float] | None, *, size: int, source: int | None = None) -> FrozenTrial:
    facts = TrialFacts(state, 1.0, trainable_parameters=size, best_epoch=1, reused_from=source)
    told = {"complete": TrialState.COMPLETE, "failed": TrialState.FAIL}.get(state, TrialState.PRUNED)
    trial = optuna.trial.create_trial(state=told, values=values, user_attrs={FACTS: json.dumps(asdict(facts))})
    trial.number = number
    return trial


def _size(trial: FrozenTrial) -> int:
    facts = facts_of(trial)
    assert facts is not None
    assert facts.trainable_parameters is not None
    return facts.trainable_parameters


def _source(trial: FrozenTrial) -> int | None:
    facts = facts_of(trial)
    assert facts is not None
    return facts.reused_from


def _one_by_one(
    trials: list[FrozenTrial], keep: int, directions: list[StudyDirection]
) -> tuple[list[FrozenTrial], set[int]]:
    kept: list[FrozenTrial] = []
    gone: set[int] = set()
    for trial in trials:
        kept, lost = retained([*kept, trial], keep=keep, directions=directions)
        gone |= {one.number for one in lost}
    return kept, gone


@given(histories(), st.integers(1, 6), st.sampled_from(list(StudyDirection)[1:]))
def test_the_best_that_trained_stay_and_all_else_that_trained_goes(
    trials: list[FrozenTrial], keep: int, direction: StudyDirection
) -> None:
    sign = -1 if direction is StudyDirection.MAXIMIZE else 1
    trained = [t for t in trials if _source(t) is None]
    complete = [t for t in trained if t.state is TrialState.COMPLETE]
    by_rule = sorted(complete, key=lambda t: (sign * t.value, _size(t), t.number))[:keep]
    kept, gone = _one_by_one(trials, keep, [direction])
    assert [t.number for t in kept] == [t.number for t in by_rule]
    assert gone == {t.number for t in trained} - {t.number for t in by_rule}
    at_once, lost = retained(trials, keep=keep, directions=[direction])
    assert (at_once, {t.number for t in lost}) == (kept, gone)


@given(histories(), st.integers(1, 6), st.integers(0, 14))
def test_a_cut_anywhere_changes_nothing_and_what_is_gone_stays_gone(
    trials: list[FrozenTrial], keep: int, cut: int
) -> None:
    directions = [StudyDirection.MAXIMIZE]
    kept, gone = _one_by_one(trials[:cut], keep, directions)
    later = [*kept, *trials[cut:]]
    after, more = _one_by_one(later, keep, directions)
    assert (after, gone | more) == _one_by_one(trials, keep, directions)
    assert not gone & {t.number for t in after}


@given(histories(objectives=2), st.integers(1, 6))
def test_never_the_best_nor_one_whose_value_a_trial_among_the_best_took_over(
    trials: list[FrozenTrial], keep: int
) -> None:
    for directions in ([StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE], [StudyDirection.MINIMIZE] * 2):
        kept, gone = _one_by_one(trials, keep, directions)
        ranked = best_first([t for t in trials if t.state is TrialState.COMPLETE], directions)
        assert len(kept) == min(keep, sum(_source(t) is None for t in ranked))
        assert not gone & {t.number for t in kept}
        if ranked:
            assert ranked[0].number in {t.number for t in kept}
        for place, trial in enumerate(ranked):
            source = _source(trial)
            if source is not None and not place:
                assert source not in gone


@given(histories(), st.integers(1, 6))
def test_of_one_objective_the_source_of_every_repeat_among_the_best_stays(trials: list[FrozenTrial], keep: int) -> None:
    directions = [StudyDirection.MAXIMIZE]
    _, gone = _one_by_one(trials, keep, directions)
    best = best_first([t for t in trials if t.state is TrialState.COMPLETE], directions)[:keep]
    assert not gone & ({t.number for t in best} | {_source(t) for t in best})
