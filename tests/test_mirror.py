"""Files at a URL: what comes back is what was sent, last and whole."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fttune.errors import BadInput, CannotWrite
from fttune.mirror import Mirror

NAMES = st.sampled_from(["a.safetensors", "a.json", "b.safetensors", "b.json", "c"])
STEPS = st.lists(st.tuples(st.sampled_from(["write", "delete", "push"]), NAMES, st.binary(max_size=40)), max_size=20)
KILLED = """
import sys, shutil
from pathlib import Path
from fttune.mirror import Mirror
import fsspec.implementations.local as local
def half(source, target):
    content = Path(source).read_bytes()
    Path(target).write_bytes(content[: len(content) // 2])
    print("half", flush=True)
    sys.stdin.read()
local.shutil.copyfile = half
Mirror(sys.argv[1]).push(Path(sys.argv[2]), "state/a")
"""


def files_in(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def written(file: Path, content: bytes) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return file


@pytest.mark.parametrize("kind", ["file", "memory"])  # with a move of its own, and without, as object stores are
def test_a_file_comes_back_as_it_was_sent_last(tmp_path, kind) -> None:
    ours, theirs = Mirror(f"{kind}://{tmp_path}/url"), Mirror(f"{kind}://{tmp_path}/url/")
    file = written(tmp_path / "here" / "a", b"first")
    ours.push(file, "deep/er/a")
    file.write_bytes(b"second, longer")
    ours.push(file, "deep/er/a")
    assert theirs.pull("deep/er/a", tmp_path / "there" / "new" / "a")
    assert files_in(tmp_path / "there") == {"new/a": b"second, longer"}
    assert not theirs.pull("deep/er/b", tmp_path / "there" / "b")
    assert theirs.names("deep") == ["er/a"]
    assert theirs.names("elsewhere") == []
    ours.remove("deep/er/a")
    ours.remove("deep/er/a")
    assert not theirs.pull("deep/er/a", tmp_path / "there" / "c")
    assert files_in(tmp_path / "there") == {"new/a": b"second, longer"}


def test_what_is_there_is_not_sent_again_until_it_changes_or_is_removed(tmp_path) -> None:
    mirror = Mirror(f"file://{tmp_path}/url")
    file = written(tmp_path / "a", b"one")
    mirror.push(file, "a")
    (tmp_path / "url" / "a").write_bytes(b"seen")
    mirror.push(file, "a")
    assert (tmp_path / "url" / "a").read_bytes() == b"seen"
    os.utime(file, ns=(0, 0))
    mirror.push(file, "a")
    assert (tmp_path / "url" / "a").read_bytes() == b"one"
    mirror.remove()
    mirror.push(file, "a")
    assert (tmp_path / "url" / "a").read_bytes() == b"one"


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_a_folder_elsewhere_is_the_one_that_was_sent_last(tmp_path, steps) -> None:
    shutil.rmtree(tmp_path)
    here = tmp_path / "here"
    here.mkdir(parents=True)
    mirror = Mirror(f"file://{tmp_path}/url")
    sent: dict[str, bytes] = {}
    for number, (step, name, content) in enumerate(steps):
        if step == "write":
            os.utime(written(here / name, content), ns=(number, number))  # else two in one tick of the clock are alike
        elif step == "delete":
            (here / name).unlink(missing_ok=True)
        else:
            mirror.push_folder(here, "trial/7")
            sent = files_in(here)
    Mirror(f"file://{tmp_path}/url").pull_folder("trial/7", tmp_path / "there")
    assert files_in(tmp_path / "there") == sent


def test_a_folder_that_was_got_elsewhere_is_gone_on_with(tmp_path) -> None:
    url, first, second = f"file://{tmp_path}/url", tmp_path / "first", tmp_path / "second"
    written(first / "resume-1.safetensors", b"1")
    Mirror(url).push_folder(first, "states/3")
    mirror = Mirror(url)
    mirror.pull_folder("states/3", second)
    (second / "resume-1.safetensors").unlink()
    written(second / "resume-2.safetensors", b"2")
    mirror.push_folder(second, "states/3")
    assert files_in(tmp_path / "url") == {"states/3/resume-2.safetensors": b"2"}


def test_a_json_is_sent_after_what_it_speaks_of_and_temporary_files_never(tmp_path, monkeypatch) -> None:
    mirror, sent = Mirror(f"file://{tmp_path}/url"), []
    for name in ("b.json", "a.json", "b.safetensors", "a.safetensors", ".a.12@x.tmp.json"):
        written(tmp_path / "here" / name, b"x")
    monkeypatch.setattr(mirror, "push", lambda _, name: sent.append(name))
    mirror.push_folder(tmp_path / "here", "s")
    assert sent == ["s/a.safetensors", "s/b.safetensors", "s/a.json", "s/b.json"]


def test_a_push_that_was_cut_off_is_not_there(tmp_path) -> None:
    url = f"file://{tmp_path}/url"
    file = written(tmp_path / "a", b"0123456789")
    Mirror(url).push(file, "state/a")
    file.write_bytes(b"9876543210")
    os.utime(file, ns=(1, 1))
    command = [sys.executable, "-c", KILLED, url, str(file)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"half\n"
        process.kill()
    assert b"98765" in files_in(tmp_path / "url").values()
    Mirror(url).pull_folder("state", tmp_path / "there")
    assert files_in(tmp_path / "there") == {"a": b"0123456789"}


@pytest.mark.parametrize("work", ["push", "pull", "pull_folder", "remove"])
def test_a_url_that_fails_is_told_in_one_line_without_its_password(tmp_path, monkeypatch, work) -> None:
    mirror = Mirror(f"file://{tmp_path}/url")
    mirror.shown = Mirror(f"file://me:secret@{tmp_path}").shown

    def fail(*_: object, **__: object) -> None:
        raise PermissionError("Forbidden\nby the bucket")

    for name in ("put_file", "get_file", "find", "rm"):
        monkeypatch.setattr(type(mirror._fs), name, fail)
    calls = {
        "push": lambda: mirror.push(written(tmp_path / "a", b"x"), "a"),
        "pull": lambda: mirror.pull("a", tmp_path / "b"),
        "pull_folder": lambda: mirror.pull_folder("s", tmp_path / "c"),
        "remove": lambda: mirror.remove("s"),
    }
    with pytest.raises(CannotWrite, match=r"^file://\*\*\*@.*Forbidden\\nby the bucket.*same command again") as raised:
        calls[work]()
    assert "secret" not in str(raised.value)
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(("url", "text"), [("zzz://bucket/x", "Protocol not known"), ("s3://bucket/x", "s3fs")])
def test_a_url_that_cannot_be_used_is_refused_with_what_it_takes(url, text) -> None:
    if text == "s3fs":
        try:
            import s3fs  # noqa: F401
        except ImportError:
            pass
        else:
            pytest.skip("s3fs is installed")
    with pytest.raises(BadInput, match=text):
        Mirror(url)
