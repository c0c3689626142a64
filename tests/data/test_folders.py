import os
from pathlib import Path

import pytest

from fttune.data.folders import folder_samples
from fttune.errors import DataError


def test_class_folders_are_read_at_any_depth_and_named_by_relative_path(make_folder, write_image):
    top = make_folder({"cat": 1, "dog": 1})
    write_image(top / "dog" / "old" / "x.JPG")
    listing = folder_samples(top)
    found = {(s.name, s.label, s.split, s.image) for s in listing.samples}
    assert found == {
        ("cat/0.png", "cat", None, top / "cat/0.png"),
        ("dog/0.png", "dog", None, top / "dog/0.png"),
        ("dog/old/x.JPG", "dog", None, top / "dog/old/x.JPG"),
    }
    assert listing.notices == ()


def test_folders_named_train_val_test_are_splits(make_folder):
    listing = folder_samples(make_folder({"train/cat": 2, "val/cat": 1, "test/cat": 1}))
    assert sorted((s.name, s.label, s.split) for s in listing.samples) == [
        ("test/cat/0.png", "cat", "test"),
        ("train/cat/0.png", "cat", "train"),
        ("train/cat/1.png", "cat", "train"),
        ("val/cat/0.png", "cat", "val"),
    ]


def test_train_is_a_class_beside_other_classes(make_folder):
    listing = folder_samples(make_folder({"train": 1, "car": 1, "val": 1}))
    assert {(s.label, s.split) for s in listing.samples} == {("train", None), ("car", None), ("val", None)}


@pytest.mark.parametrize("names", [("train", "valid"), ("val", "test"), ("Train", "Test"), ("training",)])
def test_folders_that_are_nearly_splits_are_refused(make_folder, names):
    top = make_folder({f"{name}/cat": 1 for name in names})
    with pytest.raises(DataError, match=r"splits are called train, val and test.*rename the folders"):
        folder_samples(top)


def test_hidden_files_and_folders_are_not_seen(make_folder, write_image):
    top = make_folder({"cat": 1, "dog": 1})
    for hidden in (
        ".ipynb_checkpoints/a.png",
        "__MACOSX/a.png",
        "cat/.b.png",
        "cat/.hidden/c.png",
        "cat/__MACOSX/d.png",
    ):
        write_image(top / hidden)
    listing = folder_samples(top)
    assert sorted(s.name for s in listing.samples) == ["cat/0.png", "dog/0.png"]
    assert listing.notices == ()


def test_directory_links_below_a_class_are_not_followed_and_file_links_are(make_folder):
    top = make_folder({"cat": 1, "dog": 1})
    (top / "cat" / "loop").symlink_to(top, target_is_directory=True)
    (top / "cat" / "linked.png").symlink_to(top / "dog" / "0.png")
    listing = folder_samples(top)
    assert sorted(s.name for s in listing.samples) == ["cat/0.png", "cat/linked.png", "dog/0.png"]
    assert listing.notices == (f"{top}: passed over 1 that are no image file in a class folder: cat/loop",)


def test_a_class_folder_may_be_a_link(make_folder, tmp_path):
    top = make_folder({"cat": 1})
    (top / "cat").rename(tmp_path / "elsewhere")
    (top / "cat").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert [s.name for s in folder_samples(top).samples] == ["cat/0.png"]


def test_other_files_are_one_notice_with_three_names(make_folder):
    top = make_folder({"train/cat": 1})
    for name in ("readme.txt", "train/list.csv", "train/cat/a.pdf", "train/cat/b.pdf"):
        (top / name).touch()
    (notice,) = folder_samples(top).notices
    assert notice == (
        f"{top}: passed over 4 that are no image file in a class folder: "
        "readme.txt, train/cat/a.pdf, train/cat/b.pdf, and 1 more"
    )


def test_a_pipe_is_passed_over_and_a_dangling_link_is_listed(make_folder):
    top = make_folder({"cat": 1})
    os.mkfifo(top / "cat" / "pipe.png")
    (top / "cat" / "gone.png").symlink_to(top / "nowhere.png")
    listing = folder_samples(top)
    assert sorted(s.name for s in listing.samples) == ["cat/0.png", "cat/gone.png"]
    assert "cat/pipe.png" in listing.notices[0]


@pytest.mark.parametrize("folders", [["dog"], ["dog/deeper"], ["train/dog"], ["train/dog", "val/cat"]])
def test_an_empty_class_folder_is_refused_by_name(make_folder, folders):
    top = make_folder({"train/cat" if folders[0].startswith("train") else "cat": 1})
    for folder in folders:
        (top / folder).mkdir(parents=True)
    with pytest.raises(DataError, match="has no image in " + ", ".join(f.removesuffix("/deeper") for f in folders)):
        folder_samples(top)


def test_a_split_without_class_folders_is_refused(make_folder):
    top = make_folder({"train/cat": 1, "val": 1})
    with pytest.raises(DataError, match=r"val has no class folders, but a split holds"):
        folder_samples(top)


def test_a_missing_path_and_a_file_are_refused_with_the_remedy(tmp_path):
    with pytest.raises(DataError, match=r"data\.path is .*nowhere, but there is no such folder; create it"):
        folder_samples(tmp_path / "nowhere")
    (tmp_path / "table.csv").touch()
    with pytest.raises(DataError, match=r"table\.csv, but source folder needs a folder; .* source: csv"):
        folder_samples(tmp_path / "table.csv")


@pytest.mark.parametrize("where", ["top", "below"])
def test_a_folder_that_cannot_be_listed_is_refused(make_folder, monkeypatch, where):
    top = make_folder({"cat": 1})
    refusal = PermissionError(13, "Permission denied", str(top))

    def refuse(*_: object, **__: object) -> None:
        raise refusal

    monkeypatch.setattr(Path, "iterdir", refuse) if where == "top" else monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"pets cannot be listed \(Permission denied\); make the folder readable"):
        folder_samples(top)


def test_a_folder_beside_splits_is_refused_and_not_taken_for_a_class(make_folder):
    top = make_folder({"train/cat": 1, "train/dog": 1, "other": 1})
    with pytest.raises(DataError, match="has train/cat, as splits have, but also other"):
        folder_samples(top)
