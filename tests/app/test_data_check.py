import json
from pathlib import Path

import pytest

from fttune.app.data_check import check
from fttune.errors import BadInput
from fttune.report.data_check import EXAMPLES, check_record, check_text
from tests import processes
from tests.app.test_using_winners import picture_folder
from tests.recipes import write_experiment, write_study


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of sound pictures."""
    return picture_folder(tmp_path / "pictures", each=5)


def test_a_folder_an_experiment_and_a_study_name_the_same_images(tmp_path: Path, pictures: Path) -> None:
    data = {"source": "folder", "path": "pictures", "image_size": 16}
    files = [pictures, write_experiment(tmp_path, data=data), write_study(tmp_path)]
    assert len({tuple(check(file, root=tmp_path).found.classes.items()) for file in files}) == 1


@pytest.mark.parametrize("name", ["nowhere", "x.txt"])
def test_what_is_neither_folder_nor_yaml_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "x.txt").touch()
    with pytest.raises(BadInput, match=r"must be a folder of images or a YAML file of an experiment; name one"):
        check(tmp_path / name)


def test_the_text_has_a_line_for_each_rule_some_examples_and_the_verdict(pictures: Path) -> None:
    for index in range(EXAMPLES + 2):
        (pictures / "red" / f"x{index}.png").write_bytes(b"")
    checked = check(pictures)
    text = check_text("pictures", checked.found)
    assert text.startswith("pictures: 20 images in 3 classes\n")
    assert text.count("the file is empty") == EXAMPLES
    assert "  and 2 more" in text
    assert text.endswith("\n5 errors, 0 warnings, 0 notes: training would fail or be spoilt")
    record = check_record("pictures", checked.found)
    assert [row["file"] for row in record["findings"]] == [f"red/x{index}.png" for index in range(5)]


def test_the_command_prints_json_and_its_code_is_2_with_errors_alone(tmp_path: Path, pictures: Path) -> None:
    code, out, _ = processes.run("data", "check", "pictures", "--json", cwd=tmp_path)
    assert (code, json.loads(out)["findings"]) == (0, [])
    (pictures / "red" / "x.png").write_bytes(b"")
    code, out, err = processes.run("data", "check", "pictures", "--json", cwd=tmp_path)
    assert (code, json.loads(out)["errors"]) == (2, 1)
    assert err == "pictures: errors that fail or spoil a training: 1; correct them, then check again\n"


def test_the_command_has_help_and_stands_in_the_guide(tmp_path: Path) -> None:
    code, out, _ = processes.run("data", "check", "--help", cwd=tmp_path)
    assert (code, "PATH|EXPERIMENT" in out) == (0, True)
    assert "fttune data check" in (Path(__file__).parents[2] / "docs" / "guide.md").read_text()
