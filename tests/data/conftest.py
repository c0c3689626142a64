"""Real image files and small data sections for the tests of the data room."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fttune.config.data import Data
from fttune.data import ArrayCache, Geometry, ImageData, load_data

WriteImage = Callable[..., Path]
MakeFolder = Callable[[Mapping[str, int]], Path]


@pytest.fixture
def write_image() -> WriteImage:
    """Write an image of random pixels, different for every seed; the suffix decides the format."""

    def write(path: Path, seed: int = 0, size: tuple[int, int] = (20, 16)) -> Path:
        pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
        return path

    return write


@pytest.fixture
def make_folder(tmp_path: Path, write_image: WriteImage) -> MakeFolder:
    """Fill `tmp_path/pets` with so many images for each folder, such as `{"train/cat": 3}`."""

    def make(counts: Mapping[str, int]) -> Path:
        top = tmp_path / "pets"
        seed = 0
        for folder, count in counts.items():
            for index in range(count):
                write_image(top / folder / f"{index}.png", seed := seed + 1)
        return top

    return make


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., ImageData]:
    """Load `tmp_path/pets`, or what the keywords of `Data` say, at 12 of 14 pixels."""

    def run(geometry: Geometry | None = None, **fields: object) -> ImageData:
        data = Data.model_validate({"source": "folder", "path": "pets", **fields})
        size = geometry or Geometry(resize=14, image_size=12, interpolation="bilinear")
        cache = tmp_path / "cache"
        return load_data(data, size, cache=cache, root=tmp_path, arrays=ArrayCache(cache / "arrays"))

    return run
