import os
from pathlib import Path

import pytest

from fttune.files import private_file, private_folder, replacing, write_atomically


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


def test_what_lies_under_the_temporary_name_is_not_written_through(tmp_path: Path) -> None:
    """In a folder that others write to, a link to another file may wait there: the name can be guessed."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    with replacing(tmp_path / "file.json") as temporary:
        name = temporary.name
    for plant in (lambda link: link.symlink_to(victim), lambda link: link.hardlink_to(victim)):
        (tmp_path / name).unlink(missing_ok=True)
        plant(tmp_path / name)
        write_atomically(tmp_path / "file.json", lambda temporary: temporary.write_text("new"))
        assert victim.read_text() == "precious"
        assert (tmp_path / "file.json").read_text() == "new"
        assert not (tmp_path / "file.json").is_symlink()


def test_a_private_folder_keeps_others_out_and_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir(mode=0o755)
    before = os.umask(0)
    try:
        private_folder(tmp_path / "there" / "a" / "b")
        private_folder(tmp_path / "there" / "a" / "b")
        private_file(tmp_path / "there" / "new.db")
        (tmp_path / "there" / "old.db").write_bytes(b"content")
        private_file(tmp_path / "there" / "old.db")
    finally:
        os.umask(before)
    modes = {path.relative_to(tmp_path).as_posix(): path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")}
    assert modes == {"there": 0o755, "there/a": 0o700, "there/a/b": 0o700, "there/new.db": 0o600, "there/old.db": 0o666}
    assert (tmp_path / "there" / "old.db").read_bytes() == b"content"
