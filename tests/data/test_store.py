import json
from pathlib import Path

import numpy as np
import pytest

from fttune.data import Geometry, store
from fttune.data.images import content_hash, decode
from fttune.data.store import decoded, derived, store_key

GEOMETRY = Geometry(resize=14, image_size=12, interpolation="bilinear")


@pytest.fixture
def files(tmp_path, write_image):
    return [write_image(tmp_path / f"{seed}.png", seed) for seed in range(5)]


@pytest.fixture
def read(tmp_path):
    def run(files, geometry=GEOMETRY, side=12):
        hashes = [str(content_hash(file)) for file in files]
        return decoded(files, hashes, geometry=geometry, side=side, folder=tmp_path / "store")

    return run


@pytest.fixture
def no_decoding(monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("decoded again")

    return lambda: monkeypatch.setattr(store, "decode", refuse)


def stored(tmp_path: Path, suffix: str = ".npy") -> list[Path]:
    return sorted((tmp_path / "store").glob(f"*{suffix}"))


def test_rows_are_the_decoded_files_in_order_and_memory_mapped(read, files):
    found = read(files)
    assert isinstance(found.images, np.memmap) and not found.images.flags.writeable
    assert np.array_equal(found.images, np.stack([decode(file, GEOMETRY, 12) for file in files]))
    assert found.unreadable == {} and found.repaired is None


def test_a_warm_store_decodes_nothing(read, files, no_decoding):
    cold = np.array(read(files).images)
    no_decoding()
    assert np.array_equal(read(files).images, cold)


def test_a_moved_file_finds_the_store_again(read, files, tmp_path, no_decoding):
    read(files)
    moved = [file.rename(file.with_name(f"moved-{file.name}")) for file in files]
    no_decoding()
    read(moved)
    assert len(stored(tmp_path)) == 1


def test_the_key_is_made_of_contents_order_and_geometry():
    keys = [
        store_key(["a", "b"], GEOMETRY, 12),
        store_key(["b", "a"], GEOMETRY, 12),
        store_key(["ab"], GEOMETRY, 12),
        store_key(["a", "b"], GEOMETRY, 14),
        store_key(["a", "b"], Geometry(15, 12, "bilinear"), 12),
        store_key(["a", "b"], Geometry(14, 12, "bicubic"), 12),
    ]
    assert len(set(keys)) == 6 and all(len(key) == 64 for key in keys)


def test_unreadable_images_are_left_out_and_remembered(read, files, no_decoding):
    files[1].write_bytes(b"broken")
    files[3].write_bytes(b"")
    cold = read(files)
    no_decoding()
    warm = read(files)
    expected = np.stack([decode(files[i], GEOMETRY, 12) for i in (0, 2, 4)])
    for found in (cold, warm):
        assert dict(found.unreadable) == {1: "not an image, whatever its name says", 3: "the file is empty"}
        assert np.array_equal(found.images, expected)


def _truncate(npy: Path) -> None:
    npy.write_bytes(npy.read_bytes()[:-100])


def _other_shape(npy: Path) -> None:
    np.save(npy, np.zeros((5, 12, 13, 3), np.uint8))


def _other_type(npy: Path) -> None:
    np.save(npy, np.zeros((5, 12, 12, 3), np.int8))


def _archive(npy: Path) -> None:
    with npy.open("wb") as file:
        np.savez(file, a=np.zeros(3))


def _empty(npy: Path) -> None:
    npy.write_bytes(b"")


def _no_notes(npy: Path) -> None:
    npy.with_suffix(".json").unlink()


def _foreign_notes(npy: Path) -> None:
    npy.with_suffix(".json").write_text(json.dumps(["a"]))


def _too_many_notes(npy: Path) -> None:
    npy.with_suffix(".json").write_text(json.dumps({str(i): "x" for i in range(6)}))


DAMAGES = [_truncate, _other_shape, _other_type, _archive, _empty, _no_notes, _foreign_notes, _too_many_notes]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_store_is_written_anew_and_said(read, files, tmp_path, damage):
    expected = np.array(read(files).images)
    (npy,) = stored(tmp_path)
    damage(npy)
    found = read(files)
    assert found.repaired == npy
    assert np.array_equal(found.images, expected)
    assert read(files).repaired is None


def test_a_failed_write_leaves_no_file_behind(read, files, tmp_path, monkeypatch):
    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fttune.files.os.fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        read(files)
    assert list((tmp_path / "store").iterdir()) == []


def test_a_file_that_vanishes_while_decoding_is_not_remembered_as_broken(files, tmp_path):
    hashes = [str(content_hash(file)) for file in files]
    files[2].unlink()
    with pytest.raises(FileNotFoundError):
        decoded(files, hashes, geometry=GEOMETRY, side=12, folder=tmp_path / "store")
    assert stored(tmp_path) == []


def test_a_store_that_cannot_be_kept_is_an_error(read, files, monkeypatch):
    monkeypatch.setattr(store, "_open", lambda *_: None)
    with pytest.raises(OSError, match="changed while it was being written"):
        read(files)


def test_no_images_make_an_empty_array(read):
    assert read([]).images.shape == (0, 12, 12, 3)


def test_derived_rows_are_made_a_few_at_a_time_once_and_again_when_damaged(tmp_path, monkeypatch):
    images, file = np.arange(5 * 2 * 2 * 3, dtype=np.uint8).reshape(5, 2, 2, 3), tmp_path / "derived" / "x.npy"
    monkeypatch.setattr(store, "_CHUNK_BYTES", 2 * 2 * 2 * 3)
    sizes = []

    def inverted(rows):
        sizes.append(len(rows))
        return 255 - rows

    for expected in ([2, 2, 1], [2, 2, 1]):
        found = derived(images, inverted, file=file)
        assert sizes == expected
        assert isinstance(found, np.memmap) and np.array_equal(found, 255 - images)
    file.write_bytes(file.read_bytes()[:-1])
    assert np.array_equal(derived(images, inverted, file=file), 255 - images)
    assert sizes == [2, 2, 1] * 2


def test_derived_rows_that_cannot_be_kept_are_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "_open_rows", lambda *_: None)
    with pytest.raises(OSError, match="changed while it was being written"):
        derived(np.zeros((1, 2, 2, 3), np.uint8), lambda rows: rows, file=tmp_path / "x.npy")
