"""Fixed views against an independent computation: `augment` with a generator seeded as documented."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from fttune.config.data import Views
from fttune.data import ArrayCache, Part, augment, with_views
from fttune.data.views import TOGETHER

N = TOGETHER + 5
PIXELS = np.random.default_rng(0).integers(0, 256, (N, 9, 9, 3), dtype=np.uint8)
PART = Part(PIXELS, torch.arange(N) % 3, tuple(map(str, range(N))), "a" * 64)


@pytest.fixture
def arrays(tmp_path):
    return ArrayCache(tmp_path / "arrays")


@pytest.fixture
def drawn(arrays):
    def run(part=PART, *, image_size=None, **fields):
        views = Views.model_validate({"views": 3, **fields})
        return with_views(part, views, image_size=image_size or (6 if views.kind == "standard" else 9), arrays=arrays)

    return run


def expected(kind, view, size):
    seed = int(hashlib.sha256(f"fttune-views-1:{'a' * 64}:{view}".encode()).hexdigest(), 16) >> 224
    generator = torch.Generator().manual_seed(seed)
    pieces = [torch.from_numpy(PIXELS[start : start + 16]).permute(0, 3, 1, 2) for start in range(0, N, 16)]
    seen = torch.cat([augment(piece, kind, image_size=size, generator=generator) for piece in pieces])
    return seen.permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize(("kind", "size"), [("standard", 6), ("flip", 9)])
def test_row_v_n_plus_i_is_view_v_of_image_i_as_augment_draws_it(drawn, kind, size):
    found = drawn(kind=kind)
    assert found.images.shape == (3 * N, size, size, 3) and found.views == 3
    assert isinstance(found.images, np.memmap) and not found.images.flags.writeable
    for view in range(3):
        assert np.array_equal(found.images[view * N : (view + 1) * N], expected(kind, view, size))
    assert torch.equal(found.labels, PART.labels) and found.names == PART.names


def test_the_views_of_an_image_differ(drawn):
    views = drawn().images.reshape(3, N, -1)
    assert all(len({view.tobytes() for view in views[:, image]}) == 3 for image in range(N))


def test_fewer_views_are_the_first_of_more(drawn):
    assert np.array_equal(drawn(views=2).images, drawn(views=4).images[: 2 * N])


def test_the_key_stands_for_pixels_number_kind_and_size(drawn):
    other = Part(PIXELS[::-1], PART.labels, PART.names, "b" * 64)
    found = [drawn(), drawn(views=4), drawn(image_size=7), drawn(kind="flip"), drawn(other)]
    assert len({part.key for part in [PART, *found]}) == 6
    assert not np.array_equal(found[0].images, drawn(other).images[::-1])


def test_views_are_drawn_once_and_kept(drawn, arrays, monkeypatch):
    cold = drawn()
    monkeypatch.setattr("fttune.data.views.augment", lambda *_, **__: pytest.fail("drawn again"))
    warm = drawn()
    assert warm.key == cold.key and np.array_equal(warm.images, cold.images)
    assert [file.stem for file in (arrays.folder / "views").glob("*.npy")] == [cold.key]


def test_torchs_own_generator_and_threads_do_not_matter(tmp_path):
    views = []
    for index, seed in enumerate((0, 1)):
        torch.manual_seed(seed)
        arrays = ArrayCache(tmp_path / str(index))
        views.append(with_views(PART, Views(views=2), image_size=6, arrays=arrays).images)
    assert np.array_equal(*views)


def test_another_process_draws_the_same_views(drawn, tmp_path):
    np.save(tmp_path / "pixels.npy", PIXELS)
    code = """if True:
        import sys, numpy as np, torch
        from pathlib import Path
        from fttune.config.data import Views
        from fttune.data import ArrayCache, Part, with_views
        folder = Path(sys.argv[1])
        part = Part(np.load(folder / "pixels.npy"), torch.zeros(len(np.load(folder / "pixels.npy"))), (), "a" * 64)
        arrays = ArrayCache(folder / "own")
        np.save(folder / "views.npy", with_views(part, Views(views=3), image_size=6, arrays=arrays).images)
    """
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, env={**os.environ, "PYTHONHASHSEED": "7"})
    assert np.array_equal(np.load(tmp_path / "views.npy"), drawn().images)


def test_views_without_room_are_drawn_into_memory(tmp_path, drawn):
    arrays = ArrayCache(tmp_path / "full", 0)
    found = with_views(PART, Views(views=3), image_size=6, arrays=arrays)
    assert np.array_equal(found.images, drawn().images) and len(arrays.notices) == 1
