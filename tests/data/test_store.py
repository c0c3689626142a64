from collections import Counter

import numpy as np
import pytest
from PIL import features

from fttune.data import ArrayCache, Geometry, store
from fttune.data.images import content_hash, decode
from fttune.data.store import decoded, derived, store_key

GEOMETRY = Geometry(resize=14, image_size=12, interpolation="bilinear")


@pytest.fixture
def files(tmp_path, write_image):
    return [write_image(tmp_path / f"{seed}.png", seed) for seed in range(5)]


@pytest.fixture
def arrays(tmp_path):
    return ArrayCache(tmp_path / "arrays")


@pytest.fixture
def read(arrays):
    def run(files, geometry=GEOMETRY, side=12):
        hashes = [str(content_hash(file)) for file in files]
        return decoded(files, hashes, geometry=geometry, side=side, arrays=arrays)

    return run


@pytest.fixture
def no_decoding(monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("decoded again")

    return lambda: monkeypatch.setattr(store, "decode", refuse)


def test_rows_are_the_decoded_files_in_order_and_memory_mapped(read, files, arrays):
    found = read(files)
    assert isinstance(found.images, np.memmap) and not found.images.flags.writeable
    assert np.array_equal(found.images, np.stack([decode(file, GEOMETRY, 12) for file in files]))
    assert found.unreadable == {} and arrays.notices == []


def test_a_warm_store_decodes_nothing(read, files, no_decoding):
    cold = np.array(read(files).images)
    no_decoding()
    assert np.array_equal(read(files).images, cold)


def test_a_moved_file_finds_the_store_again(read, files, arrays, no_decoding):
    read(files)
    moved = [file.rename(file.with_name(f"moved-{file.name}")) for file in files]
    no_decoding()
    read(moved)
    assert len(list((arrays.folder / "decoded").glob("*.npy"))) == 1


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


@pytest.mark.parametrize("library", ["pil", "libjpeg_turbo", "webp"])
def test_the_key_changes_with_the_libraries_that_decode(library, monkeypatch):
    before, version = store_key(["a"], GEOMETRY, 12), features.version
    monkeypatch.setattr(features, "version", lambda name: "0.0" if name == library else version(name))
    assert store_key(["a"], GEOMETRY, 12) != before


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


def test_a_damaged_store_is_decoded_anew_and_said(read, files, arrays):
    expected = np.array(read(files).images)
    [npy] = (arrays.folder / "decoded").glob("*.npy")
    npy.write_bytes(npy.read_bytes()[:-100])
    assert np.array_equal(read(files).images, expected)
    assert arrays.notices == [f"{npy} was damaged and is made anew"]


def test_images_that_fit_no_disk_are_decoded_into_memory(files, tmp_path):
    files[2].write_bytes(b"broken")
    hashes = [str(content_hash(file)) for file in files]
    arrays = ArrayCache(tmp_path / "arrays", 0)
    found = decoded(files, hashes, geometry=GEOMETRY, side=12, arrays=arrays)
    assert not isinstance(found.images, np.memmap) and not found.images.flags.writeable
    assert np.array_equal(found.images, np.stack([decode(files[i], GEOMETRY, 12) for i in (0, 1, 3, 4)]))
    assert dict(found.unreadable) == {2: "not an image, whatever its name says"}
    shifted = derived(found.images, lambda rows: 255 - rows, key="shifted/x", arrays=arrays)
    assert np.array_equal(shifted, 255 - found.images)
    assert len(arrays.notices) == 1, "one notice for all that has no room"


def test_a_file_that_vanishes_while_decoding_is_not_remembered_as_broken(files, arrays):
    hashes = [str(content_hash(file)) for file in files]
    files[2].unlink()
    with pytest.raises(FileNotFoundError):
        decoded(files, hashes, geometry=GEOMETRY, side=12, arrays=arrays)
    assert not list(arrays.folder.rglob("*.npy"))


def test_no_images_make_an_empty_array(read):
    assert read([]).images.shape == (0, 12, 12, 3)


def test_each_image_is_decoded_once(read, files, monkeypatch):
    counts = Counter()

    def counting(source, geometry, side):
        counts[source] += 1
        return decode(source, geometry, side)

    monkeypatch.setattr(store, "decode", counting)
    read(files)
    read(files)
    assert counts == Counter(files)


def test_derived_rows_are_made_a_few_at_a_time_once_and_again_when_damaged(arrays, monkeypatch):
    images = np.arange(5 * 2 * 2 * 3, dtype=np.uint8).reshape(5, 2, 2, 3)
    monkeypatch.setattr(store, "_CHUNK_BYTES", 2 * 2 * 2 * 3)
    sizes = []

    def inverted(rows):
        sizes.append(len(rows))
        return 255 - rows

    for expected in ([2, 2, 1], [2, 2, 1]):
        found = derived(images, inverted, key="shifted/x", arrays=arrays)
        assert sizes == expected
        assert isinstance(found, np.memmap) and np.array_equal(found, 255 - images)
    file = arrays.folder / "shifted" / "x.npy"
    file.write_bytes(file.read_bytes()[:-1])
    assert np.array_equal(derived(images, inverted, key="shifted/x", arrays=arrays), 255 - images)
    assert sizes == [2, 2, 1] * 2
