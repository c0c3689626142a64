"""The claims of studies/science/, on seeds other than those of the headers."""

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.science import CLAIMS
from fttune.config.workspace import Workspace

ROOT = Path(__file__).parent.parent
OTHER_SEEDS = 10


@pytest.mark.slow
@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.__name__)
def test_a_published_claim_holds_on_other_seeds(claim: Callable[..., tuple[str, bool]], tmp_path: Path) -> None:
    line, holds = claim(Workspace.at(ROOT, mlruns=tmp_path), first_seed=OTHER_SEEDS)
    assert holds, line
