"""The answer says what the trials carry, and no more."""

import json
import math
from dataclasses import replace

import pytest

from fttune.report.answer import answer_of
from tests.report import examples
from tests.report.examples import complete, others, study, trial


def test_a_finished_search_names_depth_rates_and_the_command_that_confirms() -> None:
    answer = answer_of(study())
    best = max(complete(30), key=lambda row: row.value or 0)
    assert (answer.state, answer.trial, answer.value) == ("searched", best.number, best.value)
    assert answer.text.startswith(
        f"Unfreeze all 2 stages, with lr {best.setting.lr:.3g} and momentum 0.9, an effective"
    )
    assert "of a finished search (31 complete (30 distinct recipes), 1 pruned, 1 diverged" in answer.text
    assert "This is not confirmed: `fttune confirm studies/pets.yaml`" in answer.text


def test_the_margin_is_the_binomials_and_depths_within_it_are_not_told_apart() -> None:
    answer = answer_of(study())
    assert answer.value is not None
    expected = 1.959964 * math.sqrt(answer.value * (1 - answer.value) / 400)
    assert answer.margin == pytest.approx(expected, rel=1e-4)
    assert answer.undecided == ()
    few = answer_of(study(val_images=20))
    assert few.undecided == ("1", "2")
    assert "the search alone does not tell these depths apart" in few.text
    assert answer_of(study(metric="val/loss", direction="minimize")).margin is None


def test_the_best_lr_at_each_depth_is_found_and_falls() -> None:
    answer = answer_of(study(complete(90)))
    for one in answer.by_depth:
        assert one.lr is not None and one.lr_low is not None and one.lr_high is not None
        assert one.lr == pytest.approx(examples.BEST_LR[int(one.depth)], rel=0.3)
        assert one.lr_low <= one.lr <= one.lr_high
    assert answer.lr_trend == "falls"
    assert "The best lr falls with depth, from 0." in answer.text


def test_a_study_in_progress_speaks_of_so_far() -> None:
    answer = answer_of(study(is_finished=False, total_trials=100))
    assert answer.state == "searching"
    assert answer.text.startswith("So far: unfreeze all 2 stages")
    assert ", of 100)." in answer.text
    assert "The search is not at its end; `fttune search studies/pets.yaml` goes on." in answer.text


def test_one_trial_is_compared_with_nothing() -> None:
    answer = answer_of(study(complete(1)))
    assert answer.state == "single"
    assert "It is the only complete trial" in answer.text
    assert "best lr" not in answer.text


def test_only_failures_name_the_most_frequent_cause() -> None:
    rows = [trial(n, "failed", cause="out of memory") for n in range(3)] + [trial(3, "diverged", cause="nan")]
    answer = answer_of(study(rows))
    assert (answer.state, answer.trial, answer.trials) == ("failed", None, {"failed": 3, "diverged": 1})
    assert "The most frequent cause, of 3 trials: out of memory." in answer.text
    assert answer_of(study([])).state == "empty"


def test_a_confirmed_study_says_winner_recommendation_equals_and_openings() -> None:
    answer = answer_of(examples.confirmed(opened=2))
    assert (answer.state, answer.trial, len(answer.opened)) == ("confirmed", 1, 2)
    for said in (
        "Unfreeze the last 1 of 2 stages",
        "Under 3 fresh seeds (means, 95 % intervals) its val/accuracy is 0.9 (0.8752 .. 0.9248)",
        "The winner by val/accuracy is trial 2.",
        "On the test split, trial 1 is not distinguishable from it.",
        "trial 1 is the cheapest to train, and so recommended",
        "Trial 1 is 0.190 (+0.140 .. +0.240) above the baseline trial 0.",
        "The test split was opened twice.",
    ):
        assert said in answer.text
    assert "not confirmed" not in answer.text
    assert "There is no test split." in answer_of(examples.confirmed(opened=0)).text


def test_a_baseline_that_is_better_by_chance_is_said_to_be_above() -> None:
    found = examples.confirmed()
    assert found.confirmation is not None
    gaps = [replace(gap, mean=-0.02, low=-0.05, high=0.01, p=0.4) for gap in found.confirmation.differences]
    changed = replace(found.confirmation, differences=tuple(gaps), recommended=2)
    answer = answer_of(replace(found, confirmation=changed))
    assert "Trial 2 is 0.020 (-0.050 .. +0.010) below the baseline trial 0, not beyond chance." in answer.text


def test_a_space_without_depth_or_lr_has_an_answer_too() -> None:
    bare = [replace(row, setting=replace(row.setting, depth=None)) for row in complete(6)]
    assert answer_of(study(bare, depth_field=None, depths=())).text.startswith("Train with lr")
    presets = [replace(row, setting=replace(row.setting, depth="lp_ft")) for row in complete(6)]
    named = study(presets, depth_field="freeze.preset", depths=("lp_ft",))
    assert answer_of(named).text.startswith("Set freeze.preset to lp_ft, with lr")


def test_the_facts_are_json_with_the_paragraph_in_them() -> None:
    answer = answer_of(examples.confirmed())
    facts = json.loads(json.dumps(answer.facts()))
    assert facts["answer"] == answer.text
    assert facts["by_depth"][0]["depth"] == "0"
    assert facts["trials"]["complete"] == 31


def test_a_reused_trial_is_no_observation() -> None:
    reused = [*complete(9), *(trial(n, lr=0.1, reused_from=0, seconds=0.0) for n in range(9, 40))]
    assert [one.trials for one in answer_of(study(reused)).by_depth] == [3, 3, 3]
    assert others(0)[-1].has_own_value is False
