import builtins
import hashlib
import io
import json
import os
import shutil
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torchvision import transforms

from fttune.config.data import Shift, Views
from fttune.data import ArrayCache, Geometry, store, with_views
from fttune.data.shift import shift_images
from fttune.errors import DataError
from tests.splitting import counts_below, part_at, place


@pytest.fixture
def opened(monkeypatch):
    """Record every path that is opened, however it is opened."""
    paths: list[str] = []

    def recording(original):
        def opening(file, *args, **kwargs):
            if isinstance(file, str | os.PathLike):
                paths.append(os.fspath(file))
            return original(file, *args, **kwargs)

        return opening

    for module, name in ((builtins, "open"), (io, "open"), (os, "open"), (Image, "open")):
        monkeypatch.setattr(module, name, recording(getattr(module, name)))
    return paths


def test_digits_load_with_ten_classes_and_stratified_splits(load):
    found = load(source="digits", path=None)
    assert found.classes == tuple("0123456789")
    assert found.train.images.shape[1:] == (12, 12, 3)
    counts = Counter(found.val.labels.tolist())
    assert all(20 <= counts[label] <= 50 for label in range(10))  # of 174 to 183: a binomial share of 0.2
    assert len(found.train.labels) + len(found.val.labels) + found.n_test == 1797
    pixels = [np.rint(image * (255 / 16)).astype(np.uint8) for image in load_digits().images]
    places = [place(hashlib.sha256(b"L (8, 8):" + image.tobytes()).hexdigest()) for image in pixels]
    assert set(found.val.names) == {f"digits[{i}]" for i, u in enumerate(places) if 0.2 <= u < 0.4}
    assert found.n_test == sum(u < 0.2 for u in places)


def test_parts_hold_what_the_files_hold(make_folder, load):
    top = make_folder({"train/cat": 3, "train/dog": 2, "val/cat": 1, "val/dog": 1, "test/dog": 4})
    found = load()
    assert found.classes == ("cat", "dog") and found.n_test == 4 and found.notices == ()
    assert found.train.names == (
        "train/cat/0.png",
        "train/cat/1.png",
        "train/cat/2.png",
        "train/dog/0.png",
        "train/dog/1.png",
    )
    assert found.train.labels.tolist() == [0, 0, 0, 1, 1] and found.train.labels.dtype == torch.int64
    view = transforms.Compose([transforms.Resize(14), transforms.CenterCrop(12)])
    for part in (found.train, found.val):
        assert isinstance(part.images, np.memmap)
        for name, pixels in zip(part.names, part.images, strict=True):
            assert np.array_equal(pixels, np.asarray(view(Image.open(top / name))))


@pytest.mark.parametrize(("augment", "side"), [("none", 12), ("flip", 12), ("standard", 14)])
def test_training_images_leave_room_for_the_random_crop(make_folder, load, augment, side):
    top = make_folder({"cat": 20, "dog": 20})
    found = load(augment=augment)
    counts = counts_below(top, val=0.2, test=0.2)
    assert found.train.images.shape == (counts["train"], side, side, 3)
    assert found.val.images.shape == (counts["val"], 12, 12, 3)


@pytest.mark.parametrize(("kind", "side"), [("flip", 12), ("standard", 14)])
def test_only_training_images_have_views_which_are_those_of_what_would_be_augmented(
    make_folder, load, tmp_path, kind, side
):
    make_folder({"cat": 5, "dog": 5})
    plain, found = (
        load(augment=kind, shift={"contrast": 0.5}),
        load(augment={"views": 3, "kind": kind}, shift={"contrast": 0.5}),
    )
    trained = len(plain.train.names)
    assert plain.train.images.shape == (trained, side, side, 3)
    assert found.train.images.shape == (3 * trained, 12, 12, 3) and found.train.views == 3
    views = with_views(plain.train, Views(views=3, kind=kind), image_size=12, arrays=ArrayCache(tmp_path / "own"))
    assert np.array_equal(found.train.images, views.images) and found.train.key == views.key != plain.train.key
    assert torch.equal(found.train.labels, plain.train.labels) and found.train.names == plain.train.names
    assert np.array_equal(found.val.images, plain.val.images) and found.val.views == 1
    assert (found.val.key, found.fingerprint) == (plain.val.key, plain.fingerprint)


def test_a_share_of_zero_means_no_such_split(make_folder, load):
    make_folder({"cat": 4, "dog": 4})
    found = load(split={"val": 0.0, "test": 0.0})
    assert found.val is None and found.n_test == 0 and len(found.train.labels) == 8


def test_the_test_split_is_never_opened(make_folder, load, opened):
    top = make_folder({f"{split}/{label}": 2 for split in ("train", "val", "test") for label in ("cat", "dog")})
    for file in (top / "test").rglob("*.png"):
        file.write_bytes(b"garbage that no one may see")
    opened.clear()
    found = load()
    load()
    assert found.n_test == 4
    assert not {path for path in opened if "/test/" in path}
    assert {path for path in opened if "/train/" in path} == {str(p) for p in (top / "train").rglob("*.png")}


def test_a_drawn_test_split_is_read_once_for_its_hashes_and_never_decoded(make_folder, load, opened):
    top = make_folder({"cat": 6, "dog": 6})
    opened.clear()
    found = load()
    assert times_read(opened, top) == {
        file.relative_to(top).as_posix(): 2 if file.relative_to(top).as_posix() in seen_by_training(found) else 1
        for file in top.rglob("*.png")
    }
    assert found.n_test == 12 - len(seen_by_training(found)) > 0


def times_read(opened: list[str], top) -> Counter[str]:
    return Counter(os.path.relpath(path, top) for path in opened if path.startswith(str(top)) and path.endswith(".png"))


def seen_by_training(found) -> set[str]:
    return {*found.train.names, *found.val.names}


def test_the_limit_applies_to_training_images_only(make_folder, load):
    make_folder({"cat": 10, "dog": 5})
    everything, limited = load(), load(limit_per_class=2)
    assert Counter(limited.train.labels.tolist()) == {0: 2, 1: 2}
    assert set(limited.train.names) < set(everything.train.names)
    assert limited.val.names == everything.val.names and limited.n_test == everything.n_test
    assert limited.fingerprint != everything.fingerprint


@pytest.mark.parametrize("shift", [{"contrast": 0.4}, {"rotate": 20}, {"permute_pixels": 3}, {"label_flip": True}])
def test_a_shift_changes_train_and_val_and_the_fingerprint(make_folder, load, shift):
    make_folder({"cat": 5, "dog": 5, "emu": 5})
    plain, shifted = load(), load(shift=shift)
    rule = Shift(**shift)
    for before, after in ((plain.train, shifted.train), (plain.val, shifted.val)):
        assert isinstance(after.images, np.memmap) and not after.images.flags.writeable
        assert np.array_equal(after.images, shift_images(np.array(before.images), rule))
        assert after.names == before.names
        assert after.labels.tolist() == [2 - y if rule.label_flip else y for y in before.labels.tolist()]
    prints = {plain.fingerprint, shifted.fingerprint, load(shift={"rotate": 21}).fingerprint}
    assert len(prints) == 3 and load(shift=shift).fingerprint == shifted.fingerprint
    assert shifted.classes == plain.classes and shifted.n_test == plain.n_test


def test_no_shift_leaves_the_fingerprint_of_plain_data(make_folder, load):
    top = make_folder({f"{split}/{label}": 1 for split in ("train", "val") for label in ("cat", "dog")})
    found = {
        split: [[x, hashlib.sha256((top / split / x / "0.png").read_bytes()).hexdigest()] for x in ("cat", "dog")]
        for split in ("train", "val")
    }
    text = json.dumps({"classes": ["cat", "dog"], **found, "test": []})
    assert load(shift="none").fingerprint == hashlib.sha256(text.encode()).hexdigest()


def test_a_second_load_shifts_and_decodes_nothing(make_folder, load, monkeypatch, tmp_path):
    make_folder({"cat": 5, "dog": 5})
    fields = {"shift": {"rotate": 20}, "also_evaluate": {"ood": {"shift": {"contrast": 0.5}}}}
    load()
    arrays = tmp_path / "cache" / "arrays"
    stores = sorted((arrays / "decoded").iterdir())
    monkeypatch.setattr(store, "decode", None)
    first = load(**fields)
    assert sorted((arrays / "decoded").iterdir()) == stores, "the decoded images serve every shift"
    assert len(list((arrays / "shifted").glob("*.npy"))) == 3
    monkeypatch.setattr(sys.modules["fttune.data.load"], "shift_images", lambda *_, **__: pytest.fail("shifted again"))
    second = load(**fields)
    assert np.array_equal(first.train.images, second.train.images)
    assert np.array_equal(first.also["ood"].images, second.also["ood"].images)


def test_validation_images_under_other_shifts_come_from_the_plain_ones_and_leave_the_fingerprint(make_folder, load):
    make_folder({"cat": 5, "dog": 5})
    also = {"ood": {"shift": {"contrast": 0.3}}, "clean": {"shift": "none"}, "wrong": {"shift": {"label_flip": True}}}
    plain, shifted = load(), load(shift={"rotate": 20}, also_evaluate=also)
    assert list(shifted.also) == ["ood", "clean", "wrong"] and plain.also == {}
    assert np.array_equal(shifted.also["ood"].images, shift_images(np.array(plain.val.images), Shift(contrast=0.3)))
    assert np.array_equal(shifted.also["clean"].images, plain.val.images)
    assert shifted.also["wrong"].labels.tolist() == [1 - y for y in plain.val.labels.tolist()]
    assert {part.names for part in shifted.also.values()} == {plain.val.names}
    assert load(also_evaluate=also).fingerprint == plain.fingerprint


def test_other_shifts_need_a_validation_split(make_folder, load):
    make_folder({"cat": 4, "dog": 4})
    with pytest.raises(DataError, match=r"data\.also_evaluate needs a validation split, but data\.split\.val is 0"):
        load(split={"val": 0}, also_evaluate={"ood": {"shift": {"rotate": 5}}})


def test_shifts_open_no_image_of_the_test_split(make_folder, load, opened):
    top = make_folder({"cat": 6, "dog": 6})
    opened.clear()
    found = load(shift={"rotate": 9}, also_evaluate={"ood": {"shift": {"permute_pixels": 1}}})
    decoded = {name for name, times in times_read(opened, top).items() if times > 1}
    assert decoded == seen_by_training(found)
    assert set(found.also["ood"].names) == set(found.val.names)


def test_only_the_named_classes_load(make_folder, load):
    make_folder({"cat": 4, "dog": 4, "emu": 4})
    assert load(classes=["emu", "cat"]).classes == ("cat", "emu")


def test_the_fingerprint_knows_content_and_not_place_or_geometry(make_folder, load, tmp_path):
    top = make_folder({f"{split}/{label}": 2 for split in ("train", "val", "test") for label in ("cat", "dog")})
    first = load().fingerprint
    assert len(first) == 64 and load(Geometry(9, 8, "bicubic")).fingerprint == first
    assert load(augment="standard").fingerprint == first
    shutil.copytree(top, tmp_path / "elsewhere")
    assert load(path="elsewhere").fingerprint == first
    (top / "train/cat/0.png").rename(top / "train/cat/renamed.png")
    assert load().fingerprint == first


@pytest.mark.parametrize("change", ["train content", "val label", "test name"])
def test_the_fingerprint_changes_with_the_data(make_folder, load, write_image, change):
    top = make_folder({f"{split}/{label}": 3 for split in ("train", "val", "test") for label in ("cat", "dog")})
    first = load().fingerprint
    if change == "train content":
        write_image(top / "train/cat/0.png", seed=999)
    elif change == "val label":
        (top / "val/cat/0.png").rename(top / "val/dog/9.png")
    else:
        (top / "test/cat/0.png").rename(top / "test/cat/9.png")
    assert load().fingerprint != first


def test_the_fingerprint_of_test_does_not_know_content(make_folder, load):
    top = make_folder({f"{split}/{label}": 2 for split in ("train", "val", "test") for label in ("cat", "dog")})
    first = load().fingerprint
    (top / "test/cat/0.png").write_bytes(b"other")
    assert load().fingerprint == first


def break_images(top: Path) -> None:
    (top / "train/cat/0.png").write_bytes(b"")
    (top / "val/dog/1.png").write_bytes((top / "val/dog/1.png").read_bytes()[:100])
    (top / "train/dog/gone.png").symlink_to(top / "nowhere.png")


@pytest.mark.parametrize("warm", [False, True])
def test_unreadable_images_of_train_and_val_are_refused_together(make_folder, load, warm):
    break_images(make_folder({f"{split}/{label}": 3 for split in ("train", "val") for label in ("cat", "dog")}))
    if warm:
        load(on_bad_image="skip")
    with pytest.raises(DataError) as error:
        load()
    head, *rest = str(error.value).splitlines()
    assert head == (
        "3 images cannot be read, but all of train and val must be; "
        "repair or remove them, or set data.on_bad_image: skip"
    )
    assert sorted(rest)[:2] == [
        "  train/cat/0.png: the file is empty",
        "  train/dog/gone.png: No such file or directory",
    ]
    assert "val/dog/1.png" in sorted(rest)[2]


@pytest.mark.parametrize("warm", [False, True])
def test_unreadable_images_are_left_out_with_a_notice(make_folder, load, warm):
    break_images(make_folder({f"{split}/{label}": 3 for split in ("train", "val") for label in ("cat", "dog")}))
    if warm:
        load(on_bad_image="skip")
    found = load(on_bad_image="skip")
    assert found.train.names == (
        "train/cat/1.png",
        "train/cat/2.png",
        "train/dog/0.png",
        "train/dog/1.png",
        "train/dog/2.png",
    )
    assert found.val.names == ("val/cat/0.png", "val/cat/1.png", "val/cat/2.png", "val/dog/0.png", "val/dog/2.png")
    assert len(found.train.images) == len(found.train.labels) == 5
    (notice,) = found.notices
    assert notice.startswith("left out 3 unreadable images: ") and "train/cat/0.png" in notice


def test_a_long_list_of_unreadable_images_is_cut(make_folder, load):
    top = make_folder({"cat": 30, "dog": 30})
    for file in top.rglob("*.png"):
        file.write_bytes(f"broken {file}".encode())
    with pytest.raises(DataError) as error:
        load()
    assert len(str(error.value).splitlines()) == 22
    counts = counts_below(top, val=0.2, test=0.2)
    assert str(error.value).endswith(f"and {counts['train'] + counts['val'] - 20} more")


@pytest.mark.parametrize("split", ["train", "val"])
def test_skipping_may_not_take_a_whole_class(make_folder, load, split):
    top = make_folder({f"{split}/{label}": 2 for split in ("train", "val") for label in ("cat", "dog", "emu")})
    for file in (top / split / "dog").iterdir():
        file.write_bytes(b"broken")
    with pytest.raises(DataError, match=f"no readable image of dog is left in {split}"):
        load(on_bad_image="skip")


def test_val_of_only_unreadable_images_is_refused(make_folder, load):
    top = make_folder({f"{split}/{label}": 1 for split in ("train", "val") for label in ("cat", "dog")})
    for file in (top / "val").rglob("*.png"):
        file.unlink()
        file.symlink_to(top / "nowhere")
    with pytest.raises(DataError, match="no readable image of cat, dog is left in val"):
        load(on_bad_image="skip")


def test_a_second_load_decodes_nothing(make_folder, load, monkeypatch):
    make_folder({"cat": 5, "dog": 5})
    first = load()
    monkeypatch.setattr(store, "decode", None)
    assert np.array_equal(load().train.images, first.train.images)


def test_a_damaged_store_is_a_notice(make_folder, load, tmp_path):
    make_folder({"cat": 5, "dog": 5})
    load()
    for file in (tmp_path / "cache" / "arrays" / "decoded").glob("*.npy"):
        file.write_bytes(b"junk")
    assert [notice.partition(" was ")[2] for notice in load().notices] == ["damaged and is made anew"] * 2
    assert load().notices == ()


def test_a_table_loads_like_the_folder_that_it_describes(make_folder, load, tmp_path):
    top = make_folder({f"{split}/{label}": 2 for split in ("train", "val") for label in ("cat", "dog")})
    rows = [f"{p.relative_to(tmp_path)},{p.parent.name},{p.parent.parent.name}" for p in sorted(top.rglob("*.png"))]
    (tmp_path / "table.csv").write_text("\n".join(["path,label,split", *reversed(rows)]))
    folder, table = load(), load(source="csv", path="table.csv")
    assert table.fingerprint == folder.fingerprint
    assert np.array_equal(table.train.images, folder.train.images)
    assert table.train.names == tuple(f"pets/{name}" for name in folder.train.names)


def test_groups_of_a_table_stay_together(make_folder, load, tmp_path):
    top = make_folder({"cat": 30, "dog": 30})
    rows = [f"{p.relative_to(tmp_path)},{p.parent.name},{p.parent.name}{int(p.stem) // 2}" for p in top.rglob("*.png")]
    (tmp_path / "table.csv").write_text("\n".join(["path,label,animal", *rows]))
    found = load(source="csv", path="table.csv", split={"group_by": "animal"})
    animal = {row.split(",")[0]: row.split(",")[2] for row in rows}
    assert not {animal[n] for n in found.train.names} & {animal[n] for n in found.val.names}
    counts = Counter(part_at(place(name), val=0.2, test=0.2) for name in set(animal.values()))
    assert min(counts.values()) > 0 and len(counts) == 3
    assert (len(found.train.names), len(found.val.names)) == (2 * counts["train"], 2 * counts["val"])
    assert found.n_test == 2 * counts["test"]


def test_a_missing_path_is_named_from_the_root(load, tmp_path):
    with pytest.raises(DataError, match=str(tmp_path / "pets")):
        load()
