"""The test split stays sealed: no code path of search, train or `train --final` looks at a sample of it.

One that came with the data is not opened at all. One that is drawn goes by the hashes of its contents, so its bytes are
read to be hashed, and for nothing else. Every file that Python opens is noted by an audit hook, so no reader is
trusted. Where the samples are no files, whoever asks for one of the test split, but to hash it, fails.
"""

import dataclasses
import sys
from collections.abc import Callable
from hashlib import sha256
from itertools import count
from pathlib import Path

import pandas as pd
import pytest

import fttune
from fttune.config import load_experiment
from fttune.config.data import Data
from fttune.config.workspace import Workspace
from fttune.data import load
from fttune.data.contents import with_contents
from fttune.data.images import content_hash
from fttune.data.sources import list_samples
from fttune.data.splits import split_samples
from tests.app.test_using_winners import picture_folder
from tests.data.test_torchvision_sets import write_mnist
from tests.recipes import tiny_study, write_experiment
from tests.splitting import place

SHARES = {"val": 0.3, "test": 0.3}
opened: list[tuple[str, bool]] | None = None  # a hook cannot be removed again: None turns it off


@sys.addaudithook
def _note(event: str, arguments: tuple[object, ...]) -> None:
    if opened is not None and event == "open":
        opened.append((str(arguments[0]), within(content_hash)))


def within(function: Callable[..., object]) -> bool:
    """Whether a function of the library is at work in this thread."""
    frame = sys._getframe(1)
    while frame is not None and frame.f_code is not function.__code__:
        frame = frame.f_back
    return frame is not None


@pytest.fixture
def noted() -> list[tuple[str, bool]]:
    """The paths of all files that are opened while a test runs, and whether that is to hash them."""
    global opened
    opened = []
    yield opened
    opened = None


def sealed_files(workspace: Workspace, data: dict[str, object]) -> list[Path]:
    """The files of the test split, which hold no images from now on, but still go to the test split by their hashes."""
    rule = Data.model_validate(data)
    samples = list_samples(rule, root=workspace.root, cache=workspace.cache).samples
    files = [sample.image for sample in split_samples(with_contents(samples), rule.split).test]
    contents = (f"whoever decodes this fails: {number}".encode() for number in count())
    garbage = (content for content in contents if place(sha256(content).hexdigest()) < SHARES["test"])
    for file in files:
        file.write_bytes(next(garbage))
    return files


def folder(workspace: Workspace) -> tuple[dict[str, object], list[Path]]:
    picture_folder(workspace.root / "pictures", each=6)
    data = {"source": "folder", "path": "pictures", "split": SHARES}
    return data, sealed_files(workspace, data)


def folder_with_a_test_folder(workspace: Workspace) -> tuple[dict[str, object], list[Path]]:
    for split in ("train", "test"):
        picture_folder(workspace.root / "pictures" / split, each=4)
    data = {"source": "folder", "path": "pictures", "split": SHARES}
    return data, sealed_files(workspace, data)


def table(workspace: Workspace) -> tuple[dict[str, object], list[Path]]:
    files = sorted(picture_folder(workspace.root / "pictures", each=6).rglob("*.png"))
    rows = pd.DataFrame(
        {"path": [file.relative_to(workspace.root) for file in files], "label": [file.parent.name for file in files]}
    )
    rows.to_csv(workspace.root / "table.csv", index=False)
    data = {"source": "csv", "path": "table.csv", "split": SHARES}
    return data, sealed_files(workspace, data)


def torchvision_set(workspace: Workspace) -> tuple[dict[str, object], list[Path]]:
    write_mnist(workspace.cache / "datasets")  # its test files are garbage
    files = list((workspace.cache / "datasets").rglob("t10k-*"))
    return {"source": "torchvision:MNIST", "split": {"val": 0.5, "test": 0.0}}, files


READINGS = 4  # `train_final` reads the data as the study has them, and then for its own training


def run_all(workspace: Workspace, data: dict[str, object]) -> None:
    """Search, train, and train finally, on small images."""
    write_experiment(workspace.root, data={**data, "image_size": 8, "resize": 10}, training__epochs=1)
    study = tiny_study(workspace.root, budget={"n_trials": 1}, experiment="../experiments/tiny.yaml")
    fttune.search(study, workspace=workspace)
    fttune.train(load_experiment(workspace.root / "experiments" / "tiny.yaml"), workspace=workspace)
    fttune.train_final(study, workspace=workspace)


@pytest.mark.parametrize("make", [folder, folder_with_a_test_folder, table, torchvision_set])
def test_no_file_of_the_test_split_is_opened_but_to_hash_one_that_is_drawn(
    make: Callable[[Workspace], tuple[dict[str, object], list[Path]]],
    workspace: Workspace,
    noted: list[tuple[str, bool]],
) -> None:
    data, sealed = make(workspace)
    del noted[:]
    run_all(workspace, data)
    assert sealed
    looks = [hashed for name, hashed in noted if name in {str(file) for file in sealed}]
    assert looks == [True] * (len(sealed) * READINGS if make in (folder, table) else 0)
    trained = [name for name, hashed in noted if (name.endswith(".png") or "train-images" in name) and not hashed]
    assert trained, "the hook sees what is read"


def test_no_digit_of_the_test_split_is_asked_for_once_the_splits_are_known(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    sealed: set[str] = set()

    def seal(*arguments: object) -> object:
        splits = split_samples(*arguments)
        fails = [
            dataclasses.replace(sample, image=lambda name=sample.name: pytest.fail(f"{name} was decoded"))
            for sample in splits.test
        ]
        sealed.update(sample.name for sample in fails)
        return dataclasses.replace(splits, test=tuple(fails))

    monkeypatch.setattr(load, "split_samples", seal)
    run_all(
        workspace, {"source": "digits", "classes": [0, 1, 2], "limit_per_class": 4, "split": {"val": 0.2, "test": 0.6}}
    )
    assert len(sealed) > 300
