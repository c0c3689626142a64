import errno
import os
import subprocess
import time
from pathlib import Path

import pytest

from fttune.errors import CannotWrite
from fttune.files import (
    cannot_write,
    lacks_room,
    new_folder,
    private_folder,
    remove_leftovers,
    replacing,
    told,
    write_atomically,
)


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
    finally:
        os.umask(before)
    modes = {path.relative_to(tmp_path).as_posix(): path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")}
    assert modes == {"there": 0o755, "there/a": 0o700, "there/a/b": 0o700}


def own_name(folder: Path, process: int) -> str:
    """Return the name that a process of this machine gives a temporary file."""
    with replacing(folder / "file.json") as temporary:
        temporary.touch()
        return temporary.name.replace(f".{os.getpid()}@", f".{process}@")


@pytest.fixture
def ended_process() -> int:
    done = subprocess.Popen(["true"])
    done.wait()
    return done.pid


def test_leftovers_of_ended_processes_go_and_all_else_stays(tmp_path, ended_process):
    artifacts, deep = tmp_path / "artifacts", tmp_path / "cache" / "runs"
    for folder in (artifacts, deep):
        folder.mkdir(parents=True)
    mine, dead = own_name(deep, os.getpid()), own_name(deep, ended_process)
    (deep / "file.json").unlink()
    kept = [deep / mine, deep / "best.safetensors", artifacts / dead, deep / ".study.1.tmp.owner"]
    gone = [deep / dead, tmp_path / f"{dead}-journal", tmp_path / dead.removesuffix(".json")]
    for file in (*kept, *gone[:2]):
        file.touch()
    gone[2].mkdir()
    (gone[2] / "best.safetensors").touch()
    remove_leftovers(tmp_path, apart_from=artifacts)
    assert [file for file in kept if not file.exists()] == []
    assert [file for file in gone if file.exists()] == []


def test_another_machines_leftovers_go_after_a_day(tmp_path, ended_process):
    name = own_name(tmp_path, ended_process)
    young, old = (tmp_path / f".{stem}.{ended_process}@elsewhere.tmp.json" for stem in ("young", "old"))
    for file in (young, old):
        file.touch()
    os.utime(old, (0, time.time() - 25 * 3600))
    assert "@" in name
    remove_leftovers(tmp_path)
    assert (young.exists(), old.exists()) == (True, False)


def test_a_folder_is_there_as_a_whole_or_not_at_all(tmp_path):
    def fill(folder: Path) -> None:
        folder.mkdir()
        (folder / "part").write_text("part")
        assert not (tmp_path / "model").exists()

    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "model") as folder:
        fill(folder)
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    with new_folder(tmp_path / "model") as folder:
        fill(folder)
    assert (tmp_path / "model" / "part").read_text() == "part"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "the disk is full"),
        (OSError(errno.EIO, "Input/output error"), "cannot be read or written (Input/output error)"),
        (PermissionError(errno.EACCES, "Permission denied"), "cannot be read or written (Permission denied)"),
    ],
)
def test_a_failing_disk_is_told_with_path_reason_and_remedy(error, said, tmp_path):
    with pytest.raises(CannotWrite) as raised, told(tmp_path / "x"):
        raise error
    assert str(raised.value).startswith(f"{tmp_path / 'x'}: {said}")
    assert "then run the same command again" in str(raised.value)


def test_a_full_disk_is_found_below_what_libraries_make_of_it(tmp_path):
    try:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise ValueError("the writer failed") from error
    except ValueError as wrapped:
        assert lacks_room(wrapped, tmp_path)
    assert not lacks_room(ValueError("the writer failed"), tmp_path)
    assert "(the writer failed)" in str(cannot_write(tmp_path, ValueError("the writer failed")))


def test_an_error_of_a_write_names_the_file_and_not_the_temporary_one(tmp_path):
    with pytest.raises(OSError, match="Input/output error") as raised, replacing(tmp_path / "file.json"):
        raise OSError(errno.EIO, "Input/output error")
    assert raised.value.filename == str(tmp_path / "file.json")
