"""A study does not need its tracking server while it runs; what it logged arrives when the server does."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import fttune
from fttune.app.search import comparison_path
from fttune.cli import app
from fttune.config.workspace import Workspace
from fttune.errors import TrackingFailed
from fttune.training.events import Entry, Notice
from tests.faults.stand_in import Schedule, StandIn, free_port, serving
from tests.recipes import tiny_study


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fttune.tracking.uploader.CLOSE_SECONDS", 0.0)
    monkeypatch.setattr("fttune.app.sync.PAUSES_SECONDS", (0.01,))


def test_a_study_without_its_server_ends_as_one_with_it_and_sync_delivers_it(
    tmp_path: Path, workspace: Workspace
) -> None:
    said: list[str] = []
    port = free_port()
    study = tiny_study(tmp_path, tracking={"uri": f"http://127.0.0.1:{port}"}, budget__n_trials=2)
    stored = fttune.search(
        study,
        workspace=workspace,
        display=lambda entry: said.append(entry.event.text) if isinstance(entry.event, Notice) else None,
    )
    assert [trial.state.name for trial in stored.trials] == ["COMPLETE", "COMPLETE"]
    assert comparison_path(stored) is None
    assert "MLflow at" in said[0] and "the work goes on" in said[0]
    assert any("the best trial's model is made of the checkpoint that waits here" in text for text in said)
    assert "`fttune sync` delivers them" in said[-1]

    refused = CliRunner().invoke(app, ["sync"])
    assert isinstance(refused.exception, TrackingFailed)
    assert "Connection refused" in refused.stdout
    server = StandIn(Schedule())
    with serving(server, port):
        delivered = CliRunner().invoke(app, ["sync", "--json"])
        again = CliRunner().invoke(app, ["sync"])
    assert (delivered.exit_code, again.exit_code) == (0, 0)
    (line,) = json.loads(delivered.stdout)
    assert (line["runs"], line["left"], line["refused"], line["problem"]) == (3, 0, 0, None)
    assert again.stdout == "nothing waits to be delivered\n"
    assert {run.tags["fttune.run"]: run.info["status"] for run in server.runs.values()} == {
        "tiny": "FINISHED",
        "tiny/0": "FINISHED",
        "tiny/1": "FINISHED",
    }
    assert [model["info"]["status"] for model in server.models.values()] == ["LOGGED_MODEL_READY"]
    assert len([path for path in server.files if path.endswith("checkpoint/best.safetensors")]) == 2
    assert not list(workspace.runs.iterdir())


def test_an_opening_of_the_test_split_is_on_record_before_it_happens_though_no_server_has_it(
    tmp_path: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fttune.app import confirm as module
    from fttune.tracking.spool import entries_of, spool_files

    study = tiny_study(tmp_path, budget__n_trials=1, confirm={"top_k": 1, "seeds": 2})
    fttune.search(study, workspace=workspace)
    on_record: list[Entry] = []

    def opened(*_: object, **__: object) -> None:
        on_record.extend(entry for file in spool_files(workspace.spools) for entry in entries_of(file))
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "open_test", opened)
    with pytest.raises(KeyboardInterrupt):
        module.confirm(study, workspace=workspace)
    assert any(module.OPENED in getattr(entry.event, "tags", {}) for entry in on_record)
