import shutil

import numpy as np
import pytest
from PIL import Image

from fttune.config.data import Data
from fttune.data import check_data
from fttune.data.facts import look_at
from fttune.data.findings import RULES
from fttune.errors import DataError


@pytest.fixture
def check(tmp_path):
    """Check `tmp_path/pets`, or what the keywords of `Data` say."""

    def run(say=lambda _: None, **fields):
        return check_data(Data.model_validate({"source": "folder", "path": "pets", **fields}), root=tmp_path, say=say)

    return run


def found(checked):
    return {(one.severity, one.rule, one.file) for one in checked.findings}


def test_sound_images_have_no_findings_and_are_counted_by_class(make_folder, check):
    make_folder({"train/cat": 4, "train/dog": 3, "val/cat": 1, "val/dog": 1})
    checked = check()
    assert checked.findings == ()
    assert checked.classes == {"cat": 5, "dog": 4}


def test_errors_come_first_and_every_finding_has_a_remedy(make_folder, check, write_image):
    top = make_folder({"cat": 5, "dog": 5})
    (top / "cat" / "x.png").write_bytes(b"text")
    write_image(top / "cat" / "small.png", 99, (5, 40))
    (top / ".hidden").mkdir()
    checked = check()
    assert [(one.severity, one.rule) for one in checked.findings] == [
        ("error", "no-image"),
        ("warning", "tiny"),
        ("note", "hidden"),
    ]
    assert all(one.remedy and one.remedy == RULES[one.rule].remedy for one in checked.findings)
    assert [checked.count(severity) for severity in ("error", "warning", "note")] == [1, 1, 1]


@pytest.mark.parametrize(
    "spoil", ["broken", "empty", "name", "loop", "empty class", "one class", "val differs", "tiny"]
)
def test_what_the_loader_refuses_is_an_error_and_what_it_takes_is_none(spoil, make_folder, check, load, write_image):
    split = {"val": 0.3, "test": 0.0}
    top = make_folder({"train/cat": 4, "train/dog": 4} if spoil == "val differs" else {"cat": 4, "dog": 4})
    load(split=split)
    assert check(split=split).count("error") == 0
    if spoil == "one class":
        shutil.rmtree(top / "dog")
    elif spoil == "tiny":
        for index in (1, 2, 3):
            (top / "dog" / f"{index}.png").unlink()
    elif spoil == "val differs":
        write_image(top / "val" / "bird" / "0.png")
    elif spoil == "empty class":
        (top / "bird").mkdir()
    elif spoil == "loop":
        (top / "bird").symlink_to(".")
    elif spoil == "name":
        write_image(top / "cat" / "a\nb.png", 77)
    else:
        (top / "cat" / "x.png").write_bytes(b"" if spoil == "empty" else b"no image")
    with pytest.raises(DataError):
        load(split=split)
    assert check(split=split).count("error") > 0


def test_left_out_images_are_a_warning_where_the_recipe_leaves_them_out(make_folder, check):
    top = make_folder({"cat": 5, "dog": 5})
    (top / "cat" / "x.png").write_bytes(b"text")
    assert found(check(on_bad_image="skip")) == {("warning", "no-image", "cat/x.png")}


def test_copies_in_given_splits_are_errors_and_none_that_is_drawn_divides_them(make_folder, check):
    top = make_folder({"train/cat": 2, "train/dog": 2, "val/cat": 2, "val/dog": 2})
    shutil.copy(top / "train/cat/0.png", top / "val/cat/1.png")
    (one,) = check().findings
    assert (one.severity, one.rule, one.file) == ("error", "copies-across-splits", "train/cat/0.png")
    drawn = make_folder({"cat": 6, "dog": 6})
    shutil.rmtree(top / "train")
    shutil.rmtree(top / "val")
    for name in range(10, 20):
        shutil.copy(drawn / "cat/0.png", drawn / f"cat/{name}.png")
    (one,) = check().findings
    assert (one.severity, one.rule, one.file) == ("warning", "copies", "cat/0.png")


def test_a_table_is_checked_row_by_row_and_its_other_rows_all_the_same(tmp_path, make_folder, check):
    make_folder({"cat": 5, "dog": 5})
    rows = "".join(f"pets/{label}/{index}.png,{label}\n" for label in ("cat", "dog") for index in range(5))
    (tmp_path / "t.csv").write_text(f"path,label\n{rows}../x.png,cat\nno.png,dog\n")
    (tmp_path / "pets" / "cat" / "0.png").write_bytes(b"")
    checked = check(source="csv", path="t.csv")
    assert found(checked) == {("error", "row", "t.csv"), ("error", "empty", "pets/cat/0.png")}
    assert checked.count("error") == 3


def test_progress_is_told_while_many_images_are_read(make_folder, check, monkeypatch):
    make_folder({"cat": 5, "dog": 5})
    monkeypatch.setattr("fttune.data.check.SAY_SECONDS", 0.0)
    told = []
    check(say=told.append)
    assert told[-1] == "10 of 10 images"


def test_a_look_at_a_file_tells_format_mode_bits_turn_and_pictures(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 8
    Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=exif)
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(tmp_path / "b.png")
    Image.fromarray(pixels).convert("RGBA").save(tmp_path / "c.png")
    frames = [Image.new("L", (20, 20), value) for value in (1, 2, 3)]
    frames[0].save(tmp_path / "d.tif", save_all=True, append_images=frames[1:])
    facts = {name: look_at(tmp_path / name) for name in ("a.jpg", "b.png", "c.png", "d.tif")}
    assert {(f.format, f.mode, f.bits, f.orientation, f.frames, f.transparent) for f in facts.values()} == {
        ("JPEG", "RGB", 8, 8, 1, False),
        ("PNG", "I;16", 16, 1, 1, False),
        ("PNG", "RGBA", 8, 1, 1, False),
        ("TIFF", "L", 8, 1, 3, False),
    }
    assert facts["a.jpg"].header.size == (40, 30)
