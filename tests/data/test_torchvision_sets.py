import bz2
import json
import struct
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from torchvision import datasets

from fttune.config import known
from fttune.data.torchvision_sets import torchvision_samples
from fttune.errors import DataError


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Refuse every connection at once, and count the attempts."""
    attempts = []

    def refuse(request: object, *_: object, **__: object) -> None:
        attempts.append(request)
        raise urllib.error.URLError("no network in tests")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    return attempts


def write_idx(file: Path, values: np.ndarray) -> None:
    """Write Yann LeCun's idx format: magic, big-endian sizes, bytes."""
    header = struct.pack(">HBB", 0, 8, values.ndim) + struct.pack(f">{values.ndim}I", *values.shape)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(header + values.astype(np.uint8).tobytes())


def write_mnist(folder: Path, n: int = 20) -> np.ndarray:
    pixels = np.random.default_rng(0).integers(0, 256, (n, 28, 28), dtype=np.uint8)
    raw = folder / "MNIST" / "raw"
    write_idx(raw / "train-images-idx3-ubyte", pixels)
    write_idx(raw / "train-labels-idx1-ubyte", np.arange(n) % 10)
    for sealed in ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"):
        (raw / sealed).write_bytes(b"a test file that would fail to load")
    return pixels


def test_mnist_is_read_from_its_files_without_network_or_test_split(tmp_path, no_network):
    pixels = write_mnist(tmp_path)
    samples = torchvision_samples("torchvision:MNIST", folder=tmp_path).samples
    assert [s.name for s in samples] == [f"MNIST[{i}]" for i in range(20)]
    assert samples[13].label == "3 - three" and samples[13].split == "train"
    assert np.array_equal(np.asarray(samples[13].image()), pixels[13])
    assert no_network == []


def test_a_failed_download_names_the_data_set_the_reason_and_the_folder(tmp_path, no_network):
    with pytest.raises(DataError) as error:
        torchvision_samples("torchvision:MNIST", folder=tmp_path / "datasets")
    message = str(error.value)
    assert message.startswith(
        f"torchvision:MNIST is not complete in {tmp_path / 'datasets'}, and downloading it failed:"
    )
    assert "no network in tests" in message
    assert "put the files there as torchvision.datasets.MNIST expects them" in message
    assert no_network


def test_a_data_set_that_cannot_be_downloaded_is_read_where_its_files_are(tmp_path, write_image):
    from scipy.io import savemat

    with pytest.raises(DataError, match=r"StanfordCars.*cannot be downloaded anymore"):
        torchvision_samples("torchvision:StanfordCars", folder=tmp_path)
    devkit = tmp_path / "stanford_cars" / "devkit"
    devkit.mkdir(parents=True)
    rows = np.array([("1.jpg", 1), ("2.jpg", 2)], dtype=[("fname", object), ("class", int)])
    savemat(devkit / "cars_train_annos.mat", {"annotations": rows})
    savemat(devkit / "cars_meta.mat", {"class_names": np.array(["Audi", "BMW"], dtype=object)})
    write_image(tmp_path / "stanford_cars" / "cars_train" / "1.jpg")
    samples = torchvision_samples("torchvision:StanfordCars", folder=tmp_path).samples
    assert [(s.name, s.label) for s in samples] == [
        ("stanford_cars/cars_train/1.jpg", "Audi"),
        ("stanford_cars/cars_train/2.jpg", "BMW"),
    ]


def test_a_data_set_of_files_names_them_and_keeps_train_and_val(tmp_path, write_image):
    labels = tmp_path / "dtd" / "dtd" / "labels"
    labels.mkdir(parents=True)
    write_image(tmp_path / "dtd" / "dtd" / "images" / "banded" / "a.jpg")
    for split in ("train", "val"):
        (labels / f"{split}1.txt").write_text("banded/a.jpg\ndotted/b.jpg\n" if split == "train" else "dotted/c.jpg\n")
    samples = torchvision_samples("torchvision:DTD", folder=tmp_path).samples
    assert [(s.name, s.label, s.split) for s in samples] == [
        ("dtd/dtd/images/banded/a.jpg", "banded", "train"),
        ("dtd/dtd/images/dotted/b.jpg", "dotted", "train"),
        ("dtd/dtd/images/dotted/c.jpg", "dotted", "val"),
    ]
    assert samples[0].image == tmp_path / "dtd" / "dtd" / "images" / "banded" / "a.jpg"


def test_a_data_set_without_splits_is_listed_whole(tmp_path, write_image):
    for name in ("Forest/1.jpg", "River/2.jpg"):
        write_image(tmp_path / "eurosat" / "2750" / name)
    samples = torchvision_samples("torchvision:EuroSAT", folder=tmp_path).samples
    assert [(s.name, s.label, s.split) for s in samples] == [
        ("eurosat/2750/Forest/1.jpg", "Forest", None),
        ("eurosat/2750/River/2.jpg", "River", None),
    ]


def test_labels_of_caltech_come_without_decoding(tmp_path, write_image):
    top = tmp_path / "caltech101" / "101_ObjectCategories"
    for name in ("BACKGROUND_Google", "accordion", "ant"):
        (top / name).mkdir(parents=True)
    write_image(top / "accordion" / "image_0001.jpg", 1)
    (top / "ant" / "image_0001.jpg").write_bytes(b"not opened by the listing")
    samples = torchvision_samples("torchvision:Caltech101", folder=tmp_path).samples
    assert [(s.name, s.label) for s in samples] == [("Caltech101[0]", "accordion"), ("Caltech101[1]", "ant")]
    with samples[0].image() as image:
        assert image.size == (20, 16)


def test_pairs_of_file_and_label_and_synonyms_are_understood(tmp_path, write_image):
    for split in ("train", "val"):
        write_image(tmp_path / "imagenette2" / split / "n01440764" / "a.jpeg")
        write_image(tmp_path / "imagenette2" / split / "n03888257" / "b.jpeg")
    samples = torchvision_samples("torchvision:Imagenette", folder=tmp_path).samples
    assert [(s.label, s.split) for s in samples] == [
        ("tench", "train"),
        ("parachute", "train"),
        ("tench", "val"),
        ("parachute", "val"),
    ]


def test_numbered_classes_are_named_by_their_number(tmp_path):
    row = " ".join(f"{i}:{-1 if i % 2 else 1}" for i in range(1, 257))
    (tmp_path / "usps.bz2").write_bytes(bz2.compress(f"3 {row}\n10 {row}\n".encode()))
    samples = torchvision_samples("torchvision:USPS", folder=tmp_path).samples
    assert [(s.name, s.label) for s in samples] == [("USPS[0]", "2"), ("USPS[1]", "9")]


def test_a_class_without_known_attributes_is_read_item_by_item(tmp_path, monkeypatch):
    class Unusual:
        def __init__(self, root: str, split: str, download: bool) -> None:
            assert Path(root).is_dir() and not download
            self.items = [(f"{split} image", 1), (f"{split} other", 0)]

        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> tuple[str, int]:
            return self.items[index]

    monkeypatch.setattr(datasets, "Imagenette", Unusual)
    samples = torchvision_samples("torchvision:Imagenette", folder=tmp_path / "new").samples
    assert [(s.name, s.label, s.split, s.image()) for s in samples] == [
        ("Imagenette[0]", "1", "train", "train image"),
        ("Imagenette[1]", "0", "train", "train other"),
        ("Imagenette/val[0]", "1", "val", "val image"),
        ("Imagenette/val[1]", "0", "val", "val other"),
    ]


@pytest.mark.parametrize("name", sorted(known.torchvision_datasets()))
def test_every_known_data_set_exists_and_is_never_asked_for_its_test_split(tmp_path, monkeypatch, name):
    asked = []

    def build(root: str, *, download: bool, **arguments: object) -> None:
        asked.append(arguments)
        raise RuntimeError(f"{root} {download}")

    assert hasattr(datasets, name)
    monkeypatch.setattr(datasets, name, build)
    with pytest.raises(DataError, match="True"):
        torchvision_samples(f"torchvision:{name}", folder=tmp_path)
    test = known.torchvision_datasets()[name].get("test")
    assert asked and test not in asked


def test_food101_is_listed_from_its_json(tmp_path):
    meta = tmp_path / "food-101" / "meta"
    meta.mkdir(parents=True)
    (tmp_path / "food-101" / "images").mkdir()
    (meta / "train.json").write_text(json.dumps({"pizza": ["pizza/1"], "sushi": ["sushi/2"]}))
    samples = torchvision_samples("torchvision:Food101", folder=tmp_path).samples
    assert [(s.name, s.label) for s in samples] == [
        ("food-101/images/pizza/1.jpg", "pizza"),
        ("food-101/images/sushi/2.jpg", "sushi"),
    ]
