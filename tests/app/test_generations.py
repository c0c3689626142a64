"""Studies whose data change: what is told of it, and how the next generation begins."""

import shutil
from pathlib import Path

import pytest

import fttune
from fttune.app.generations import data_change, next_generation
from fttune.app.results import rows_of
from fttune.config import Study, load_study
from fttune.config.workspace import Workspace
from fttune.data import DataChange
from fttune.errors import BadInput, StudyChanged
from fttune.searching import newest_generation, open_storage
from fttune.searching.warm_start import described
from tests.app.test_using_winners import picture_folder
from tests.recipes import tiny_study, write_experiment
from tests.splitting import counts_below
from tests.stored import runs_of


@pytest.fixture
def pictures(workspace: Workspace) -> Path:
    return picture_folder(workspace.root / "pictures", each=12)


def study_of(workspace: Workspace, **fields: object) -> Study:
    data = {"source": "folder", "path": "pictures", "image_size": 8, "resize": 8, "split": {"val": 0.3, "test": 0.3}}
    write_experiment(workspace.root, data=data, training__epochs=1, freeze={"unfrozen_stages": 0})
    space = {"optimizer.lr": {"type": "float", "low": 1.0e-3, "high": 0.1, "log": True}}
    return tiny_study(workspace.root, **{"budget": {"n_trials": 2}, "space": space, **fields})


def test_changed_images_are_counted_and_refused_with_the_counts(workspace: Workspace, pictures: Path) -> None:
    study = study_of(workspace)
    assert data_change(study, workspace=workspace) is None, "it was never searched"
    fttune.search(study, workspace=workspace)
    assert data_change(study, workspace=workspace) is None
    first, second, *_ = sorted(folder for folder in pictures.iterdir() if folder.is_dir())
    moved, removed, renamed = sorted(first.iterdir())[:3]
    shutil.move(moved, second / "moved.png")
    removed.unlink()
    renamed.rename(first / "renamed.png")
    change = data_change(study, workspace=workspace)
    assert change == DataChange({}, {first.name: 1}, {(first.name, second.name): 1})
    told = (
        rf"data\.content: .*\n.*images: 1 removed \({first.name} 1\), 1 relabelled \({first.name} -> {second.name} 1\)"
    )
    with pytest.raises(StudyChanged, match=told):
        fttune.search(study, workspace=workspace)
    assert fttune.search(study, workspace=workspace, new=True).study_name == "tiny@2"
    assert data_change(study, workspace=workspace) is None


def test_images_that_are_divided_in_another_way_are_said_to_be_the_same(workspace: Workspace, pictures: Path) -> None:
    assert pictures.is_dir()
    fttune.search(study_of(workspace, budget={"n_trials": 1}), workspace=workspace)
    other = load_study(workspace.root / "studies" / "tiny.yaml", ["data.split.seed=1"])
    assert data_change(other, workspace=workspace) == DataChange()
    with pytest.raises(StudyChanged, match="the same images, divided or changed in another way"):
        fttune.search(other, workspace=workspace)


def test_a_new_generation_begins_with_the_best_configurations_of_the_last_one(
    workspace: Workspace, pictures: Path
) -> None:
    study = study_of(workspace, budget={"n_trials": 3})
    assert next_generation(study, workspace=workspace) is study, "there is none yet"
    first = fttune.search(study, workspace=workspace)
    next(pictures.glob("*/*.png")).unlink()
    told: list[str] = []
    stored = fttune.search(
        next_generation(study, workspace=workspace),
        workspace=workspace,
        new=True,
        display=lambda entry: told.append(getattr(entry.event, "text", "")),
    )
    best = [row.number for row in rows_of(first)]
    assert stored.study_name == "tiny@2"
    assert [t.params for t in stored.trials] == [first.trials[number].params for number in best]
    sources = [f"tiny/{number}" for number in best]
    assert f"warm start: begins with the configurations of {', '.join(sources)}" in told
    frame = runs_of(workspace.mlflow_uri).set_index("tags.fttune.run")
    assert frame.loc["tiny@2", "tags.fttune.warm_start"] == ", ".join(sources)
    assert [frame.loc[f"tiny@2/{n}", "tags.fttune.warm_start"] for n in range(3)] == sources


def test_a_warm_start_from_a_study_that_is_not_there_makes_nothing(workspace: Workspace, pictures: Path) -> None:
    (next(pictures.iterdir()) / "broken.png").write_bytes(b"")  # which would be told, were the images looked at first
    with pytest.raises(BadInput, match=r"warm_start\.from names tinny, but no such study was searched in this store"):
        fttune.search(study_of(workspace, warm_start={"from": ["tinny"]}), workspace=workspace)
    storage = open_storage(workspace.optuna_uri, locks=workspace.locks)
    assert newest_generation("tiny", storage) is None


def test_a_study_keeps_how_far_its_data_are_from_others(workspace: Workspace, pictures: Path) -> None:
    stored = fttune.search(study_of(workspace, budget={"n_trials": 1}), workspace=workspace)
    found = described(stored)
    counts = counts_below(pictures, val=0.3, test=0.3)
    assert found is not None and found.classes == len(list(pictures.iterdir())) == 3
    assert found.images_per_class == pytest.approx(counts["train"] / 3)
    assert found.features is not None and found.features[1] > 0


def test_a_warm_start_that_comes_late_is_said_to_have_no_effect(workspace: Workspace, pictures: Path) -> None:
    assert pictures.is_dir()
    fttune.search(study_of(workspace, budget={"n_trials": 1}), workspace=workspace)
    told: list[str] = []
    late = study_of(workspace, warm_start={"from": "auto"})
    stored = fttune.search(
        late, workspace=workspace, display=lambda entry: told.append(getattr(entry.event, "text", ""))
    )
    assert (stored.study_name, len(stored.trials)) == ("tiny", 2)
    assert "warm_start has no effect on a study that was begun without it; --new begins another generation" in told
