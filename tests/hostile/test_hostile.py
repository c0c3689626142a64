"""No input that is bad on purpose ends in a traceback, runs code, hangs, steers the terminal, or changes a store."""

import shutil
from pathlib import Path

import pytest

from tests.hostile import images, settings, weights, yaml_files
from tests.hostile.places import prepare
from tests.hostile.running import Case, contents, run, steering

CASES = [
    *yaml_files.FILES,
    *yaml_files.VALUES,
    *images.CHECKS,
    *images.REFUSED,
    *images.TABLES,
    *weights.AS_WEIGHTS,
    *weights.AS_CHECKPOINT,
    *settings.OVERRIDES,
    *settings.FOLDERS,
]


def test_there_are_at_least_eighty_cases_each_with_a_name_of_its_own() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 80


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=[] if place % 3 == 0 else pytest.mark.slow, id=case.name)
        for place, case in enumerate(CASES)
    ],
)
def test_a_hostile_case_ends_with_one_message_and_changes_nothing(
    case: Case, tmp_path: Path, empty_stores: Path
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    shutil.copytree(empty_stores, root / "mlruns")
    prepare(root)
    case.make(root)
    before = contents(root / "mlruns")
    ended = run(case, root)
    message = ended.out if case.on == "stdout" else ended.err
    everything = ended.out + ended.err
    assert "Traceback" not in everything, everything
    assert ended.code == case.code, everything
    at = 0
    for part in case.says:
        assert part in message[at:], message
        at = message.index(part, at)
    assert steering(everything) == []
    assert len(everything) < 20_000, "a message is for people"
    assert contents(root / "mlruns") == before
    assert not (root / case.harmless).exists(), "code from the input ran"
