"""A report joins both stores, writes a page, and leaves the test split and the study as they were."""

import json
import sqlite3
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import fttune
from fttune.app import confirm as confirming
from fttune.app.confirm import confirm
from fttune.app.report import report
from fttune.config import Study
from fttune.config.workspace import Workspace
from fttune.errors import BadInput, StudyChanged
from fttune.training.events import Entry, EpochEnded
from tests import processes
from tests.app.test_confirm import made
from tests.recipes import tiny_study
from tests.stored import runs_of

FILES = {"index.html", "report.md", "trials.csv"}


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Workspace]:
    study, workspace = made(tmp_path_factory.mktemp("reported"))
    fttune.search(study, workspace=workspace)
    return study, workspace


def parent_of(workspace: Workspace) -> dict[str, object]:
    runs = runs_of(workspace.mlflow_uri)
    (parent,) = runs[runs["tags.fttune.kind"] == "study"].to_dict("records")
    return parent


def test_a_searched_study_is_written_and_logged_beside_its_run(searched: tuple[Study, Workspace]) -> None:
    study, workspace = searched
    before = parent_of(workspace)
    written = report(study, workspace=workspace)
    assert written.page == workspace.mlruns / "reports" / "tiny" / "index.html"
    assert {file.name for file in written.page.parent.iterdir()} == FILES | {"figures"}
    assert written.answer.state == "searched"
    stored = fttune.search(study, workspace=workspace)
    assert written.answer.trial == stored.best_trial.number
    frame = pd.read_csv(written.page.with_name("trials.csv"))
    assert frame["value"].tolist() == [trial.value for trial in stored.trials]
    assert frame["optimizer.lr"].tolist() == [trial.params["optimizer.lr"] for trial in stored.trials]
    after = parent_of(workspace)
    assert {k: v for k, v in after.items() if v == v} == {k: v for k, v in before.items() if v == v}
    kept = Path(str(after["artifact_uri"]).removeprefix("file://")) / "report"
    figures = {file.name for file in (kept / "figures").iterdir()}
    assert figures == {file.name for file in written.page.with_name("figures").iterdir()}
    assert "learning-curves.svg" in figures
    assert (kept / "index.html").read_text() == written.page.read_text()


def test_the_command_prints_the_page_or_the_facts(searched: tuple[Study, Workspace], tmp_path: Path) -> None:
    _, workspace = searched
    out = tmp_path / "to"
    code, said, err = processes.run("report", "studies/tiny.yaml", "--out", str(out), cwd=workspace.root)
    assert (code, said.strip()) == (0, str(out / "index.html")), err
    code, said, err = processes.run(
        "report", "studies/tiny.yaml", "--json", "--set", "budget.max_failed=4", cwd=workspace.root
    )
    facts = json.loads(said)
    assert (code, facts["study"], facts["state"]) == (0, "tiny", "searched"), err
    assert Path(facts["page"]).is_file()
    assert "fttune confirm studies/tiny.yaml --set budget.max_failed=4" in facts["answer"]


def test_what_cannot_be_reported_is_refused(searched: tuple[Study, Workspace], tmp_path: Path) -> None:
    study, workspace = searched
    with pytest.raises(BadInput, match="has not been searched here"):
        report(study, workspace=Workspace.at(tmp_path))
    with pytest.raises(StudyChanged):
        report(study.model_copy(update={"batch": 3}), workspace=workspace)
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match=r"--out: .* cannot be written"):
        report(study, out=tmp_path / "file" / "to", workspace=workspace)
    (tmp_path / "index.html").write_text("my own page")
    with pytest.raises(BadInput, match=r"index.html is there already, and no report of fttune"):
        report(study, out=tmp_path, workspace=workspace)
    assert (tmp_path / "index.html").read_text() == "my own page"
    code, _, err = processes.run("report", "studies/none.yaml", cwd=workspace.root)
    assert code == 2
    assert "Traceback" not in err


def test_a_study_in_progress_has_a_page_and_stays_as_it_is(tmp_path: Path, workspace: Workspace) -> None:
    study = tiny_study(tmp_path)
    seen: list[Entry] = []

    def interrupts(entry: Entry) -> None:
        seen.append(entry)
        if isinstance(entry.event, EpochEnded) and entry.run.endswith("/2"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fttune.search(study, workspace=workspace, display=interrupts)
    states = sorted(runs_of(workspace.mlflow_uri)["tags.fttune.state"])
    written = report(study, workspace=workspace)
    assert written.answer.state == "searching"
    assert written.answer.trials == {"complete": 2, "running": 2}
    assert sorted(runs_of(workspace.mlflow_uri)["tags.fttune.state"]) == states
    fttune.search(study, workspace=workspace)
    assert report(study, workspace=workspace).answer.state == "searched"


def test_a_lost_mlflow_store_leaves_a_page_without_curves(tmp_path: Path, workspace: Workspace) -> None:
    study = tiny_study(tmp_path, budget={"n_trials": 2})
    fttune.search(study, workspace=workspace)
    with sqlite3.connect(workspace.mlruns / "mlflow.db") as database:
        database.execute("update tags set value = 'other' where key = 'fttune.study_id'")
    notices: list[Entry] = []
    page = report(study, workspace=workspace, display=notices.append).page
    assert any("MLflow does not hold this study's run" in getattr(one.event, "text", "") for one in notices)
    assert not (page.parent / "figures" / "learning-curves.svg").exists()
    assert "Learning curves: MLflow holds no epoch" in page.read_text()


def test_a_confirmed_study_shows_its_worst_images_and_the_test_split_stays_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, workspace = made(tmp_path, confirm={"top_k": 2, "seeds": 2})
    fttune.search(study, workspace=workspace)
    found = confirm(study, workspace=workspace)
    monkeypatch.setattr(confirming, "open_test", lambda *_, **__: pytest.fail("the test split was opened"))
    written = report(study, workspace=workspace)
    assert (written.answer.state, written.answer.opened) == ("confirmed", found.opened)
    assert written.answer.trial == found.recommended
    assert parent_of(workspace)["tags.fttune.test_opened"] == found.opened[0]
    html = written.page.read_text()
    assert "opened once" in html
    assert html.count('<img src="data:image/png;base64,') == 12
    assert (written.page.parent / "figures" / "confusion.svg").is_file()
    (folder,) = (file.parent for file in workspace.artifacts.rglob("worst.csv"))
    worst = pd.read_csv(folder / "worst.csv")
    assert worst["probability"].is_monotonic_increasing
    predictions = pd.read_csv(folder / "predictions.csv").set_index("sample")
    for row in worst.to_dict("records"):
        said = predictions.loc[row["sample"], [f"trial {found.recommended} seed {seed}" for seed in found.seeds]]
        assert (said != row["class"]).sum() == row["errors"]
        assert predictions.loc[row["sample"], "class"] == row["class"]
        with Image.open(folder / row["file"]) as image:
            assert image.size == (8, 8)
            assert np.asarray(image).mean((0, 1)).argmax() == {"red": 0, "green": 1, "blue": 2}[row["class"]]
