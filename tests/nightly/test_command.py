"""The command `fttune nightly`: the plan, a part alone, and a whole night in processes of their own."""

import json
import signal
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fttune.cli import app
from fttune.config.workspace import Workspace
from fttune.errors import BadInput
from fttune.searching import counted, newest_generation, open_storage
from tests import processes
from tests.nightly.digits import write_digits, write_night_study


@pytest.fixture
def root(workspace: Workspace) -> Path:
    write_digits(workspace.root / "digits", each=40)
    write_night_study(workspace.root, confirm={"top_k": 1, "seeds": 2}, nightly={"trials_per_night": 2})
    return workspace.root


def counted_in(workspace: Workspace, study: str) -> int:
    stored = newest_generation(study, open_storage(workspace.optuna_uri, locks=workspace.locks))
    assert stored is not None
    return counted(stored)


@pytest.mark.usefixtures("root")
def test_a_plan_is_printed_and_nothing_is_done(workspace: Workspace) -> None:
    before = sorted(workspace.root.rglob("*"))
    text = CliRunner().invoke(app, ["nightly", "studies", "--plan", "--budget-hours", "4"])
    found = CliRunner().invoke(app, ["nightly", "studies", "--plan", "--budget-hours", "4", "--json"])
    assert (text.exit_code, found.exit_code) == (0, 0)
    (share,) = json.loads(found.stdout)["shares"]
    assert (share["study"], share["hours"], share["trials"], share["why"]) == ("digits", 4.0, 2, "its first night")
    assert "its first night" in text.stdout
    assert [path for path in sorted(workspace.root.rglob("*")) if "locks" not in path.parts] == before


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--study", "digit"], "must be one of digits, got 'digit'"),
        (["--study", "digits", "--night", "yesterday"], "must be a date such as 2026-11-27, got 'yesterday'"),
        (["--night", "2026-11-27"], "--night: belongs to --study"),
    ],
)
def test_a_wrong_word_is_refused(words: list[str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from contextlib import nullcontext

    monkeypatch.setattr("fttune.cli.supervisor.supervised", lambda: nullcontext(None))
    found = CliRunner().invoke(app, ["nightly", "studies", *words])
    assert isinstance(found.exception, BadInput)
    assert message in str(found.exception)


def test_a_part_alone_prints_what_came_of_it(root: Path, workspace: Workspace) -> None:
    code, out, err = processes.run("nightly", "studies", "--study", "digits", "--json", cwd=root)
    assert code == 0, err
    found = json.loads(out)
    assert (found["state"], found["trials"], found["champion"]["changed"]) == ("ended", 2, True)
    assert counted_in(workspace, "digits") == 2


@pytest.mark.slow
def test_a_night_that_was_stopped_goes_on_by_the_same_command(root: Path, workspace: Workspace) -> None:
    write_night_study(root, "second", confirm={"top_k": 1, "seeds": 2}, nightly={"trials_per_night": 1})
    words = ["nightly", "studies", "--on-finish", f"tee {root}/told.json"]
    command = processes.start(*words, cwd=root)
    command.wait_for("trial-0000")
    command.send(signal.SIGTERM)
    assert command.wait() == 143
    code, out, err = processes.run(*words, cwd=root, timeout_seconds=300)  # it starts Python three times
    assert code == 0, err
    told = json.loads((root / "told.json").read_text())
    assert [(one["study"], one["state"], one["trials"]) for one in told["studies"]] == [
        ("digits", "ended", 2),
        ("second", "ended", 1),
    ]
    assert (counted_in(workspace, "digits"), counted_in(workspace, "second")) == (2, 1)
    assert out.strip().splitlines()[-1].endswith("summary.html")
