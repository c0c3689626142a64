"""Studies whose data change: what is told of it, and how the next generation begins."""

import shutil
from pathlib import Path

import pytest

import fttune
from fttune.app.generations import data_change
from fttune.config import Study, load_study
from fttune.config.workspace import Workspace
from fttune.data import DataChange
from fttune.errors import StudyChanged
from tests.app.test_using_winners import picture_folder
from tests.recipes import tiny_study, write_experiment


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
