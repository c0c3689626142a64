"""`kill -9` at random moments, again and again: the study ends as if nothing had happened.

Runs of this file print how many kills landed in which phase. `make soak` goes on where this stops.
"""

from collections import Counter
from itertools import count
from pathlib import Path

import pytest

from tests.faults.kills import PHASES, STUDIES, TRIALS, Kill, Killed, Place, uninterrupted

KILLS = 9  # of each study


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_that_is_killed_again_and_again_ends_as_if_it_had_not_been(
    name: str, tmp_path: Path, empty_stores: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected, seconds = uninterrupted(Place.new(tmp_path / "whole", name, stores=empty_stores))
    assert len(expected.trials) == TRIALS
    kills: list[Kill] = []
    for seed in count():
        saved = any(kill.phase == "saving" for kill in kills)  # a busy machine may miss what is aimed at
        if len(kills) >= KILLS and (saved or len(kills) >= 3 * KILLS):
            break
        place = Place.new(tmp_path / f"killed-{seed}", name, stores=empty_stores)
        killed = Killed(place, seed=seed, seconds=seconds)
        killed.run(max(KILLS - len(kills), KILLS // 3), expected=expected)
        assert killed.problems == [], killed.kills
        kills += killed.kills
    tally = Counter(kill.phase for kill in kills)
    with capsys.disabled():
        print(f"\n{name}: {len(kills)} kills: " + ", ".join(f"{phase} {tally[phase]}" for phase in PHASES))  # noqa: T201
    assert tally["saving"] > 0
