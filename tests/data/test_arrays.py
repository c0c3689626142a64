import errno
import json
import os
import resource
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fttune.data import ArrayCache, NoRoom, Spec
from fttune.data import arrays as module
from fttune.errors import CannotWrite
from fttune.mirror import Mirror
from tests.processes import CONTEXT

FLOATS = np.arange(24, dtype=np.float32).reshape(6, 4)
BYTES = np.arange(12, dtype=np.uint8).reshape(6, 2)
SPEC = Spec((6, 4), np.float32)


@pytest.fixture
def cache(tmp_path):
    return ArrayCache(tmp_path / "arrays")


def write(cache, key="x", array=FLOATS, notes=None):
    with cache.writing({key: Spec(array.shape, array.dtype)}) as rows:
        rows.append(key, array)
        rows.note(key, notes)
    return rows.stored[key]


def names(cache) -> list[str]:
    """All that lies in the cache but its locks."""
    files = (file for file in cache.folder.rglob("*") if file.is_file() and file.suffix != ".lock")
    return sorted(file.relative_to(cache.folder).as_posix() for file in files)


def used_at(cache, key: str, seconds: int) -> None:
    file = cache.folder / f"{key}.npy"
    os.utime(file, (seconds, file.stat().st_mtime))


def test_what_was_written_is_found_memory_mapped_and_cannot_be_written_to(cache):
    assert cache.get("a/x", SPEC) is None
    written, found = write(cache, "a/x", notes={"7": "a reason"}), cache.get("a/x", SPEC)
    for stored in (written, found):
        assert isinstance(stored.array, np.memmap) and not stored.array.flags.writeable
        assert stored.array.dtype == np.float32 and np.array_equal(stored.array, FLOATS)
        assert stored.notes == {"7": "a reason"}
    assert names(cache) == ["a/x.json", "a/x.npy"] and cache.notices == []


def test_any_numpy_reads_the_file(cache):
    write(cache)
    assert np.array_equal(np.load(cache.folder / "x.npy"), FLOATS)


@given(st.data())
def test_rows_in_any_pieces_give_the_file_that_numpy_saves(data):
    lengths = data.draw(st.lists(st.integers(0, 5), max_size=6))
    dtype = data.draw(st.sampled_from(["u1", "<f4", "<f8", "<i8", "?"]))
    shape = (sum(lengths), *data.draw(st.lists(st.integers(1, 3), max_size=3)))
    array = np.random.default_rng(0).integers(0, 2, shape).astype(dtype)
    with tempfile.TemporaryDirectory() as folder:
        cache = ArrayCache(Path(folder))
        with cache.writing({"x": Spec(shape, dtype)}) as rows:
            for piece in np.split(array, np.cumsum(lengths)[:-1]) if lengths else []:
                rows.append("x", piece)
        np.save(Path(folder) / "plain.npy", array)
        assert (Path(folder) / "x.npy").read_bytes() == (Path(folder) / "plain.npy").read_bytes()
        assert np.array_equal(cache.get("x", Spec(shape, dtype)).array, array)


def test_rows_that_do_not_lie_in_order_in_memory_are_written_in_order(cache):
    turned = np.asfortranarray(FLOATS)
    assert np.array_equal(write(cache, array=turned).array, FLOATS)
    assert np.array_equal(write(cache, "y", array=FLOATS.T[::2]).array, FLOATS.T[::2])


def test_several_arrays_are_written_in_one_pass(cache):
    specs = {"x": SPEC, "y": Spec((6, 2), np.uint8)}
    with cache.writing(specs) as rows:
        assert rows.missing == {"x", "y"}
        for start in (0, 2, 4):
            rows.append("x", FLOATS[start : start + 2])
            rows.append("y", BYTES[start : start + 2])
            assert cache.get("x", SPEC) is None, "nothing counts before the end"
    assert np.array_equal(cache.get("x", SPEC).array, FLOATS)
    assert np.array_equal(rows.stored["y"].array, BYTES)


def test_an_array_that_is_there_is_kept_beside_one_that_is_made(cache):
    write(cache, "y", BYTES)
    before = (cache.folder / "y.npy").stat()
    with cache.writing({"x": SPEC, "y": Spec((6, 2), np.uint8)}) as rows:
        assert rows.missing == {"x"}
        rows.append("x", FLOATS)
        rows.append("y", BYTES)
    after = (cache.folder / "y.npy").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert np.array_equal(rows.stored["y"].array, BYTES)


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        ([FLOATS[:5]], "x: 5 rows were written, but the array has 6"),
        ([], "x: 0 rows were written, but the array has 6"),
        ([FLOATS, FLOATS[:1]], r"x: rows \(1, 4\) of float32 after 6 others, but the array is \(6, 4\) of float32"),
        ([FLOATS.astype(np.float64)], r"x: rows \(6, 4\) of float64 after 0 others"),
        ([FLOATS[:, :3]], r"x: rows \(6, 3\) of float32 after 0 others"),
    ],
)
def test_rows_that_are_missing_too_many_or_of_another_kind_are_refused(cache, pieces, message):
    with pytest.raises(ValueError, match=message), cache.writing({"x": SPEC}) as rows:
        for piece in pieces:
            rows.append("x", piece)
    assert names(cache) == []


@pytest.mark.parametrize(
    ("error", "raised"),
    [(ValueError("bug"), ValueError), (KeyboardInterrupt(), KeyboardInterrupt), (OSError(errno.EIO, "broken"), NoRoom)],
)
def test_a_writer_that_fails_leaves_nothing(cache, error, raised):
    with pytest.raises(raised), cache.writing({"x": SPEC, "y": SPEC}) as rows:
        rows.append("x", FLOATS)
        raise error
    assert names(cache) == []


def _truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def _lengthen(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"\0")


def _flip_a_bit(file: Path) -> None:
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)


def _empty(file: Path) -> None:
    file.write_bytes(b"")


def _archive(file: Path) -> None:
    with file.open("wb") as target:
        np.savez(target, a=np.zeros(3))


def _foreign_shape(file: Path) -> None:
    np.save(file, np.zeros((6, 5), np.float32))


def _foreign_type(file: Path) -> None:
    np.save(file, np.zeros((6, 4), np.int32))


def _no_notes(file: Path) -> None:
    file.with_suffix(".json").unlink()


def _foreign_notes(file: Path) -> None:
    file.with_suffix(".json").write_text(json.dumps(["a"]))


def _changed_notes(file: Path) -> None:
    about = file.with_suffix(".json")
    about.write_text(about.read_text().replace("reason", "treason"))


def _broken_notes(file: Path) -> None:
    file.with_suffix(".json").write_bytes(b'{"format": "\xff')


DAMAGES = [
    _truncate,
    _lengthen,
    _flip_a_bit,
    _empty,
    _archive,
    _foreign_shape,
    _foreign_type,
    _no_notes,
    _foreign_notes,
    _changed_notes,
    _broken_notes,
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_array_is_not_there_and_is_said_once_when_it_is_made_anew(cache, damage):
    write(cache, notes="reason")
    file = cache.folder / "x.npy"
    damage(file)
    assert cache.get("x", SPEC) is None
    assert np.array_equal(write(cache, notes="reason").array, FLOATS)
    assert cache.notices == [f"{file} was damaged and is made anew"]
    assert cache.get("x", SPEC).notes == "reason"


@pytest.mark.parametrize("spec", [Spec((4, 6), np.float32), Spec((6, 4), np.int32), Spec((6, 4, 1), np.float32)])
def test_an_array_of_another_shape_or_type_is_not_the_one_that_is_asked_for(cache, spec):
    write(cache)
    assert cache.get("x", spec) is None


def test_the_content_is_read_through_once_per_process_and_again_when_the_file_changes(cache, monkeypatch):
    write(cache)
    sums = []
    plain = module.zlib.crc32
    monkeypatch.setattr(module.zlib, "crc32", lambda raw, start=0: sums.append(len(raw)) or plain(raw, start))
    size = (cache.folder / "x.npy").stat().st_size
    for _ in range(3):
        cache.get("x", SPEC)
        ArrayCache(cache.folder).get("x", SPEC)
    assert sums.count(size) == 1
    os.utime(cache.folder / "x.npy", (0, 1))
    assert cache.get("x", SPEC) is not None
    assert sums.count(size) == 2


def test_a_cache_that_cannot_be_written_can_be_read(cache, monkeypatch):
    write(cache)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "read-only")

    monkeypatch.setattr(os, "utime", refuse)
    assert np.array_equal(cache.get("x", SPEC).array, FLOATS)


FILE_BYTES = 128 + FLOATS.nbytes  # numpy's header fills up to a multiple of 64, here 128


def test_the_arrays_used_longest_ago_make_room(tmp_path):
    cache = ArrayCache(tmp_path / "arrays", 3 * FILE_BYTES)
    for index, key in enumerate(("a/old", "b/older", "c/new")):
        write(cache, key)
        used_at(cache, key, [200, 100, 300][index])
    write(cache, "d")
    assert names(cache) == ["a/old.json", "a/old.npy", "c/new.json", "c/new.npy", "d.json", "d.npy"]
    used_at(cache, "d", 400)
    assert cache.get("a/old", SPEC) is not None, "to be asked for is to be used"
    write(cache, "e")
    assert [name for name in names(cache) if name.endswith(".npy")] == ["a/old.npy", "d.npy", "e.npy"]


def test_an_array_that_made_room_stays_whole_for_whoever_has_it_open(tmp_path):
    cache = ArrayCache(tmp_path / "arrays", FILE_BYTES)
    opened = write(cache).array
    write(cache, "y", FLOATS + 1)
    assert cache.get("x", SPEC) is None
    assert np.array_equal(opened, FLOATS)


@pytest.mark.parametrize("budget", [0, FLOATS.nbytes - 1])
def test_what_exceeds_the_budget_by_itself_is_not_written_and_deletes_nothing(tmp_path, budget):
    write(ArrayCache(tmp_path / "arrays"), "other")
    cache = ArrayCache(tmp_path / "arrays", budget)
    with pytest.raises(NoRoom, match=r"9\.6e-08 GB are needed"), cache.writing({"x": SPEC}):
        pytest.fail("the block ran")
    assert names(cache) == ["other.json", "other.npy"]


def test_half_of_what_is_free_or_held_is_the_default_budget(tmp_path, monkeypatch):
    cache = ArrayCache(tmp_path / "arrays")
    usage = type("Usage", (), {"free": FILE_BYTES * 3 // 2})
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage)
    write(cache, "x")  # half of 1.5 + 0 files: its rows fit
    used_at(cache, "x", 100)
    write(cache, "y")  # half of 1.5 + 1 files: x has to go
    assert names(cache) == ["y.json", "y.npy"]
    usage.free = FILE_BYTES * 3
    write(cache, "z")  # half of 3 + 1 files: both
    assert names(cache) == ["y.json", "y.npy", "z.json", "z.npy"]


def test_the_budget_never_exceeds_the_disk(tmp_path, monkeypatch):
    cache = ArrayCache(tmp_path / "arrays", 10**15)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: type("Usage", (), {"free": FLOATS.nbytes - 1}))
    with pytest.raises(NoRoom):
        write(cache)


def _full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def fill(rows) -> None:
    for key in ("x", "y"):
        for start in (0, 3):
            rows.append(key, FLOATS[start : start + 3])
        rows.note(key, {1: key})


def test_a_full_disk_is_no_room_and_leaves_nothing(cache, monkeypatch):
    monkeypatch.setattr(os, "fsync", _full)
    with pytest.raises(NoRoom, match="No space left on device"):
        write(cache)
    assert names(cache) == []


def test_what_finds_no_room_is_made_in_memory_and_said_once(cache, monkeypatch):
    monkeypatch.setattr(os, "fsync", _full)
    for _ in range(2):
        found = cache.obtain({"x": SPEC, "y": SPEC}, fill)
        for key in ("x", "y"):
            assert np.array_equal(found[key].array, FLOATS) and not found[key].array.flags.writeable
            assert not isinstance(found[key].array, np.memmap)
            assert found[key].notes == {"1": key}, "as it would be read from disk"
    [notice] = cache.notices
    assert notice.startswith(f"{cache.folder} has no room (No space left on device): what does not fit is kept in mem")
    assert names(cache) == []


def _in_a_process_with_small_files(folder: str, answers) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
    cache, wide = ArrayCache(Path(folder)), np.arange(4000, dtype=np.float32).reshape(4, 1000)
    specs = {"x": SPEC, "wide": Spec(wide.shape, wide.dtype)}

    def rows_of_both(rows) -> None:
        rows.append("x", FLOATS)
        for row in wide:
            rows.append("wide", row[None])

    found = cache.obtain(specs, rows_of_both)
    equal = np.array_equal(found["x"].array, FLOATS) and np.array_equal(found["wide"].array, wide)
    answers.put((equal, cache.notices, names(cache)))


def test_a_disk_that_is_full_in_the_middle_of_a_row_leaves_nothing_and_memory_takes_over(tmp_path):
    answers = CONTEXT.Queue()
    process = CONTEXT.Process(target=_in_a_process_with_small_files, args=(str(tmp_path / "arrays"), answers))
    process.start()
    equal, notices, left = answers.get(timeout=120)
    process.join(60)
    assert process.exitcode == 0
    assert equal and left == []
    assert [notice.partition(": what")[0] for notice in notices] == [f"{tmp_path}/arrays has no room (File too large)"]


def test_what_is_there_is_obtained_without_filling(cache):
    first = cache.obtain({"x": SPEC, "y": SPEC}, fill)
    again = cache.obtain({"x": SPEC, "y": SPEC}, lambda _: pytest.fail("made again"))
    for key in ("x", "y"):
        assert np.array_equal(first[key].array, again[key].array) and again[key].notes == {"1": key}


def _obtain_together(folder: str, barrier, answers) -> None:
    made = []

    def slowly(rows) -> None:
        made.append(os.getpid())
        fill(rows)

    barrier.wait(60)
    found = ArrayCache(Path(folder)).obtain(
        {"y": SPEC, "x": SPEC} if os.getpid() % 2 else {"x": SPEC, "y": SPEC}, slowly
    )
    answers.put((made, all(np.array_equal(found[key].array, FLOATS) for key in ("x", "y"))))


def test_processes_that_want_the_same_arrays_make_them_once(tmp_path):
    barrier, answers = CONTEXT.Barrier(3), CONTEXT.Queue()
    folder = str(tmp_path / "arrays")
    processes = [CONTEXT.Process(target=_obtain_together, args=(folder, barrier, answers)) for _ in range(3)]
    for process in processes:
        process.start()
    ended = [answers.get(timeout=120) for _ in processes]
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert sum(len(made) for made, _ in ended) == 1
    assert all(equal for _, equal in ended)


def _die_while_writing(folder: str) -> None:
    with ArrayCache(Path(folder)).writing({"a/x": SPEC}) as rows:
        rows.append("a/x", FLOATS)
        os._exit(9)


def test_what_a_killed_writer_left_is_no_array_and_is_cleared_by_the_next_one(cache):
    process = CONTEXT.Process(target=_die_while_writing, args=(str(cache.folder),))
    process.start()
    process.join(120)
    assert process.exitcode == 9
    [left] = names(cache)
    assert left.startswith("a/.x.") and cache.get("a/x", SPEC) is None
    write(cache, "other")
    assert names(cache) == ["other.json", "other.npy"] and cache.notices == []


def test_what_another_writer_is_at_is_not_cleared(cache):
    with cache.writing({"x": SPEC}) as rows:
        rows.append("x", FLOATS)
        write(ArrayCache(cache.folder), "other")
    assert np.array_equal(cache.get("x", SPEC).array, FLOATS)


def _with_url(root: Path, name: str, **options) -> ArrayCache:
    """The cache of a machine, which has the URL in common with the others in `root`."""
    return ArrayCache(root / name, **options, elsewhere=Mirror(f"file://{root}/url"))


def _refuse(rows) -> None:
    raise AssertionError(f"{rows.missing} are there already")


def test_what_one_machine_has_made_another_takes(tmp_path):
    with _with_url(tmp_path, "one").writing({"d/x": SPEC, "d/y": Spec((6, 2), np.uint8)}) as rows:
        rows.append("d/x", FLOATS)
        rows.append("d/y", BYTES)
        rows.note("d/y", {"7": "a reason"})
    other = _with_url(tmp_path, "other")
    found = other.obtain({"d/x": SPEC, "d/y": Spec((6, 2), np.uint8)}, _refuse)
    assert np.array_equal(found["d/x"].array, FLOATS) and np.array_equal(found["d/y"].array, BYTES)
    assert found["d/y"].notes == {"7": "a reason"}
    assert isinstance(found["d/x"].array, np.memmap)
    assert names(other) == ["d/x.json", "d/x.npy", "d/y.json", "d/y.npy"] and other.notices == []
    (tmp_path / "url" / "d" / "x.npy").unlink()
    assert np.array_equal(other.obtain({"d/x": SPEC}, _refuse)["d/x"].array, FLOATS)


@pytest.mark.parametrize("damage", [_truncate, _lengthen, _flip_a_bit, _empty, _foreign_shape, Path.unlink])
def test_what_was_damaged_on_its_way_is_made_here_and_mended_there(tmp_path, damage):
    write(_with_url(tmp_path, "one"))
    damage(tmp_path / "url" / "x.npy")
    for name, make in (("other", lambda rows: rows.append("x", FLOATS)), ("third", _refuse)):
        cache = _with_url(tmp_path, name)
        assert np.array_equal(cache.obtain({"x": SPEC}, make)["x"].array, FLOATS)
        assert names(cache) == ["x.json", "x.npy"]


def test_what_is_taken_counts_in_the_budget(tmp_path):
    for key in "abc":
        write(_with_url(tmp_path, "one"), key)
    cache = _with_url(tmp_path, "other", budget_bytes=500)  # of 224 each
    for key in "abc":
        cache.obtain({key: SPEC}, _refuse)
        used_at(cache, key, ord(key))
    assert names(cache) == ["b.json", "b.npy", "c.json", "c.npy"]


def test_a_url_that_fails_is_not_taken_for_a_lack_of_room(tmp_path):
    (tmp_path / "url").write_text("no folder")
    cache = _with_url(tmp_path, "one")
    with pytest.raises(CannotWrite, match="the same command again"):
        cache.obtain({"x": SPEC}, lambda rows: rows.append("x", FLOATS))
    (tmp_path / "url").unlink()
    assert np.array_equal(cache.obtain({"x": SPEC}, lambda rows: rows.append("x", FLOATS))["x"].array, FLOATS)
