import os
from pathlib import Path

import pytest

from fttune.files import write_atomically


def test_a_written_file_has_the_whole_content_and_makes_its_folder(tmp_path):
    file = tmp_path / "a" / "b" / "file.json"
    write_atomically(file, lambda temporary: temporary.write_text("whole"))
    assert file.read_text() == "whole"
    assert list(file.parent.iterdir()) == [file]


def test_the_old_file_stands_until_the_new_one_is_whole(tmp_path):
    file = tmp_path / "file.json"
    file.write_text("old")

    def write(temporary: Path) -> None:
        temporary.write_text("half")
        assert file.read_text() == "old"
        assert temporary.parent == file.parent, "a rename is atomic within one file system only"
        assert temporary.suffix == file.suffix, "some writers look at it"

    write_atomically(file, write)
    assert file.read_text() == "half"


@pytest.mark.parametrize("error", [OSError("disk full"), ValueError("bug"), KeyboardInterrupt()])
def test_a_writer_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, error):
    file = tmp_path / "file.json"
    file.write_text("old")

    def write(temporary: Path) -> None:
        temporary.write_text("half")
        raise error

    with pytest.raises(type(error)):
        write_atomically(file, write)
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_content_is_on_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    steps = []
    fsync, replace = os.fsync, Path.replace

    def recording_fsync(descriptor):
        steps.append("fsync")
        fsync(descriptor)

    def recording_replace(self, target):
        steps.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", recording_fsync)
    monkeypatch.setattr(Path, "replace", recording_replace)
    write_atomically(tmp_path / "file", lambda temporary: temporary.write_bytes(b"x"))
    assert steps == ["fsync", "rename", "fsync"], "the file, its name, the folder"
