import hashlib

import pytest
from PIL import Image

from fttune.config.data import Split
from fttune.data import imbalance, look
from fttune.data.image_data import Geometry
from fttune.data.images import Unreadable, decode, header
from fttune.errors import DataError


def test_counts_are_those_of_readable_images_per_class_and_split(make_folder):
    top = make_folder({"train/cat": 3, "train/dog": 2, "val/cat": 1, "val/dog": 1})
    (top / "train" / "dog" / "bad.png").write_bytes(b"no image")
    survey = look(top)
    assert survey.classes == ("cat", "dog")
    assert survey.splits == ("train", "val")
    assert survey.counts("train") == {"cat": 3, "dog": 2}
    assert survey.counts() == {"cat": 4, "dog": 3}
    assert survey.unreadable == {"train/dog/bad.png": "not an image, whatever its name says"}


def test_imbalance_is_largest_over_smallest():
    assert imbalance({"a": 9, "b": 3, "c": 5}) == 3
    assert imbalance({"a": 9, "b": 0}) == float("inf")


def test_sizes_come_in_the_order_of_the_shorter_side(tmp_path, write_image):
    sizes = [(90, 20), (30, 30), (25, 80), (40, 41)]
    for index, size in enumerate(sizes):
        write_image(tmp_path / "pets" / "ab"[index % 2] / f"{index}.png", index, size)
    found = look(tmp_path / "pets").sizes()
    assert (found.smallest, found.median, found.largest) == ((90, 20), (25, 80), (40, 41))


def test_images_of_test_do_not_count_where_they_must_not(tmp_path, write_image):
    for split, side in (("train", 20), ("test", 90)):
        for label in "ab":
            write_image(tmp_path / "pets" / split / label / "0.png", side + ord(label), (side, side))
    survey = look(tmp_path / "pets")
    assert survey.sizes().largest == (90, 90)
    assert survey.sizes(with_test=False).largest == (20, 20)


def test_copies_are_files_of_the_same_bytes_within_and_across_classes_and_splits(make_folder):
    top = make_folder({"train/cat": 3, "train/dog": 2, "val/cat": 1, "val/dog": 1})
    first = (top / "train/cat/0.png").read_bytes()
    for copy in ("train/cat/9.png", "train/dog/9.png", "val/cat/9.png"):
        (top / copy).write_bytes(first)
    (copies,) = look(top).copies
    assert copies.names == ("train/cat/0.png", "train/cat/9.png", "train/dog/9.png", "val/cat/9.png")
    assert (copies.labels, copies.splits) == (("cat", "dog"), ("train", "val"))


def test_a_header_holds_the_stored_size_and_the_sha256_of_the_bytes(write_image, tmp_path):
    file = write_image(tmp_path / "x.jpg", size=(70, 31))
    found = header(file)
    assert (found.size, found.sha256) == ((70, 31), hashlib.sha256(file.read_bytes()).hexdigest())


@pytest.mark.parametrize("kind", ["jpg", "png", "cut.jpg", "cut.png", "empty.png", "float.tiff", "tiny.jpg"])
def test_a_file_is_unreadable_exactly_when_it_cannot_be_decoded(kind, write_image, tmp_path):
    file = tmp_path / f"x.{kind}"
    if kind == "float.tiff":
        Image.new("F", (8, 8), 0.5).save(file)
    else:
        write_image(file, size=(3, 2) if kind == "tiny.jpg" else (64, 48))
    if "cut" in kind or "empty" in kind:
        file.write_bytes(file.read_bytes()[: 0 if "empty" in kind else 400])
    decoded = decode(file, Geometry(10, 8, "bilinear"), 8)
    assert isinstance(header(file), Unreadable) == isinstance(decoded, Unreadable)
    assert isinstance(decoded, Unreadable) == (kind not in ("jpg", "png", "tiny.jpg"))


@pytest.mark.parametrize("top", [{"cat": 7, "dog": 4}, {"train/cat": 6, "train/dog": 5, "test/cat": 2, "test/dog": 1}])
def test_the_division_is_that_of_the_loader(top, make_folder, load):
    folder = make_folder(top)
    (folder / next(iter(top)) / "0.png").write_bytes(b"broken")
    divided = look(folder).divided(Split())
    loaded = load(on_bad_image="skip")
    assert sum(divided["train"].values()) == len(loaded.train.labels)
    assert list(divided["val"].values()) == loaded.val.labels.bincount().tolist()
    assert sum(divided["test"].values()) == loaded.n_test


def test_a_class_without_a_readable_image_left_is_refused(make_folder):
    top = make_folder({"cat": 4, "dog": 3})
    for file in (top / "dog").iterdir():
        file.write_bytes(f"broken {file.name}".encode())
    with pytest.raises(DataError, match="no readable image of dog is left in train"):
        look(top).divided(Split())
