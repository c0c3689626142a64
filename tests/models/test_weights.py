import io
import urllib.error
from email.message import Message
from http.client import IncompleteRead
from pathlib import Path

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st

from fttune.config.sections import Backbone
from fttune.errors import WeightsError
from fttune.models import Preprocessing, Weights, build_backbone, load_model, load_weights
from fttune.models.cifar_resnet import CifarResNet8
from fttune.models.files import write_tensors

RESNET18 = "resnet18-f37072fd.pth"
PREPROCESSING = {"resize": 10, "crop": 8, "interpolation": "bicubic", "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}


@pytest.fixture
def torch_home(tmp_path, monkeypatch) -> Path:
    """torch's cache folder, empty, without a network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))

    def no_network(*_, **__):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(torch.hub, "urlopen", no_network)
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    """A checkpoint of the small net as a run writes it."""
    torch.manual_seed(0)
    about = {
        "experiment": {"backbone": {"name": "cifar_resnet8", "weights": "experiment:digits_source"}},
        "classes": ["no", "yes"],
        "preprocessing": PREPROCESSING,
    }
    write_tensors(tmp_path / "best.safetensors", CifarResNet8(2).state_dict(), about)
    return tmp_path / "best.safetensors"


def test_no_weights_are_no_tensors_with_imagenets_statistics(tmp_path):
    weights = load_weights(Backbone(name="resnet18", weights="none"), root=tmp_path)
    assert (weights.state, weights.identity, weights.classes) == (None, "none", None)
    assert weights.preprocessing.mean == (0.485, 0.456, 0.406)
    assert weights.preprocessing.std == (0.229, 0.224, 0.225)


def test_a_file_is_relative_to_the_root_and_named_by_its_content(tmp_path):
    (tmp_path / "files").mkdir()
    torch.save({"a": torch.ones(1)}, tmp_path / "files" / "w.pth")
    weights = load_weights(Backbone(name="resnet18", weights="files/w.pth"), root=tmp_path)
    assert weights.state is not None
    assert torch.equal(weights.state["a"], torch.ones(1))
    assert weights.identity.startswith("sha256:")
    assert weights.classes is None
    (tmp_path / "files" / "w.pth").rename(tmp_path / "other.pth")
    renamed = load_weights(Backbone(name="resnet18", weights="other.pth"), root=tmp_path)
    assert renamed.identity == weights.identity


def test_a_checkpoint_brings_its_classes_and_preprocessing(checkpoint):
    weights = load_weights(Backbone(name="cifar_resnet8", weights=checkpoint.name), root=checkpoint.parent)
    assert weights.classes == ("no", "yes")
    assert weights.preprocessing == Preprocessing(10, 8, "bicubic", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def test_a_damaged_checkpoint_is_refused(tmp_path, checkpoint):
    raw = bytearray(checkpoint.read_bytes())
    raw[-1] ^= 1
    checkpoint.write_bytes(raw)
    with pytest.raises(WeightsError, match=r"best\.safetensors: damaged: its sha256"):
        load_weights(Backbone(name="cifar_resnet8", weights="best.safetensors"), root=tmp_path)


def test_the_weights_of_an_experiment_need_their_file(tmp_path, checkpoint):
    backbone = Backbone(name="cifar_resnet8", weights="experiment:digits_source")
    with pytest.raises(WeightsError, match="experiment:digits_source has not been resolved to a file"):
        load_weights(backbone, root=tmp_path)
    assert load_weights(backbone, root=tmp_path, file=checkpoint).classes == ("no", "yes")


@pytest.mark.parametrize("member", ["DEFAULT", "IMAGENET1K_V1"])
def test_published_weights_are_read_from_torchs_own_cache_with_their_classes(tmp_path, torch_home, member):
    state = {"conv1.weight": torch.randn(64, 3, 7, 7)}
    torch.save(state, torch_home / RESNET18)
    weights = load_weights(Backbone(name="resnet18", weights=member), root=tmp_path)
    assert weights.state is not None
    assert torch.equal(weights.state["conv1.weight"], state["conv1.weight"])
    assert weights.identity == "ResNet18_Weights.IMAGENET1K_V1"
    assert weights.classes is not None
    assert (len(weights.classes), weights.classes[0]) == (1000, "tench")


@pytest.mark.parametrize(("member", "resize"), [("IMAGENET1K_V1", 256), ("IMAGENET1K_V2", 232), ("DEFAULT", 232)])
def test_preprocessing_is_that_of_the_very_weights(tmp_path, torch_home, member, resize):
    enum = torchvision.models.ResNet50_Weights[member]
    torch.save({"a": torch.zeros(1)}, torch_home / Path(enum.url).name)
    own = load_weights(Backbone(name="resnet50", weights=member), root=tmp_path).preprocessing
    transform = enum.transforms()
    assert (own.resize, own.crop) == (resize, 224)
    assert own.interpolation == transform.interpolation.value
    assert (list(own.mean), list(own.std)) == (transform.mean, transform.std)


@pytest.mark.parametrize("error", [urllib.error.URLError("no route"), TimeoutError("timed out"), IncompleteRead(b"x")])
def test_a_failed_download_names_the_file_the_cache_folder_and_the_other_way(
    tmp_path, torch_home, monkeypatch, capsys, error
):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(torch.hub, "urlopen", fail)
    with pytest.raises(WeightsError) as caught:
        load_weights(Backbone(name="resnet18", weights="DEFAULT"), root=tmp_path)
    message = str(caught.value)
    assert message.startswith("the weights DEFAULT of resnet18 could not be downloaded or read (")
    assert str(error) in message
    assert f"Put the file {RESNET18} into {torch_home} " in message
    assert message.endswith("or set backbone.weights: <file>")
    assert capsys.readouterr().out == "", "stdout is for results"


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04 a truncated zip"])
def test_a_damaged_file_in_torchs_cache_is_named_with_its_folder(tmp_path, torch_home, content):
    (torch_home / RESNET18).write_bytes(content)
    with pytest.raises(WeightsError, match=rf"Put the file {RESNET18} into {torch_home} \(in place of a damaged one\)"):
        load_weights(Backbone(name="resnet18", weights="DEFAULT"), root=tmp_path)


class Response(io.BytesIO):
    """What a server answers: any content, without a length."""

    def info(self) -> Message:
        return Message()


def test_a_download_of_other_content_than_published_is_refused_and_not_kept(tmp_path, torch_home, monkeypatch):
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(1)}, buffer)
    monkeypatch.setattr(torch.hub, "urlopen", lambda *_, **__: Response(buffer.getvalue()))
    with pytest.raises(WeightsError, match=r"could not be downloaded or read \(invalid hash value"):
        load_weights(Backbone(name="resnet18", weights="DEFAULT"), root=tmp_path)
    assert list(torch_home.iterdir()) == []


class Trap:
    def __reduce__(self):
        return pytest.fail, ("code from a weights file was run",)


def test_code_in_a_cached_file_is_refused_and_does_not_run(tmp_path, torch_home):
    torch.save({"a": Trap()}, torch_home / RESNET18)
    with pytest.raises(WeightsError, match="could not be downloaded or read"):
        load_weights(Backbone(name="resnet18", weights="DEFAULT"), root=tmp_path)


@pytest.mark.parametrize(
    ("resize", "crop", "size", "expected"),
    [(256, 224, 224, 256), (232, 224, 224, 232), (256, 224, 112, 128), (256, 224, 8, 9), (224, 224, 64, 64)],
)
def test_the_resize_before_a_crop_keeps_the_weights_proportion(resize, crop, size, expected):
    assert Preprocessing(resize, crop).resize_for(size) == expected


@settings(deadline=None)
@given(resize=st.integers(1, 1000), crop=st.integers(1, 1000), size=st.integers(1, 4096))
def test_the_resize_always_covers_the_crop(resize, crop, size):
    assert Preprocessing(resize, crop).resize_for(size) >= size


def test_a_checkpoint_becomes_its_model_in_evaluation_mode(checkpoint):
    model = load_model(checkpoint)
    torch.manual_seed(0)
    written = CifarResNet8(2).eval()
    images = torch.randn(3, 3, 8, 8)
    assert not any(module.training for module in model.modules())
    assert torch.equal(model(images), written(images))


def test_a_file_without_its_json_is_no_checkpoint(checkpoint):
    checkpoint.with_suffix(".json").unlink()
    with pytest.raises(WeightsError, match=r"best\.safetensors: there is no best\.json beside it"):
        load_model(checkpoint)


def test_a_checkpoint_of_an_unknown_backbone_is_refused_by_name(tmp_path):
    about = {"experiment": {"backbone": {"name": "vit_z"}}, "classes": ["a"], "preprocessing": PREPROCESSING}
    write_tensors(tmp_path / "best.safetensors", {"a": torch.zeros(1)}, about)
    with pytest.raises(WeightsError, match=r"its backbone vit_z cannot be built here .*unknown name 'vit_z'"):
        load_model(tmp_path / "best.safetensors")


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_the_input_transform_of_torchvisions_pretrained_models_lies_in_the_preprocessing(tmp_path, torch_home, name):
    enum = torchvision.models.get_model_weights(name)["DEFAULT"]
    torch.save({"a": torch.zeros(1)}, torch_home / Path(enum.url).name)
    own = load_weights(Backbone(name=name, weights="DEFAULT"), root=tmp_path).preprocessing
    torch.save({"a": torch.zeros(1)}, tmp_path / "own.pth")
    assert load_weights(Backbone(name=name, weights="own.pth"), root=tmp_path).preprocessing.mean == own.mean
    images = torch.rand(2, 3, 8, 8)
    transform = enum.transforms()
    normalised = torchvision.transforms.functional.normalize(images, transform.mean, transform.std)
    module = torchvision.models.get_model(name, weights=None, init_weights=False, transform_input=True)
    expected = module._transform_input(normalised)
    torch.testing.assert_close(torchvision.transforms.functional.normalize(images, own.mean, own.std), expected)


@pytest.mark.parametrize(
    ("name", "renames"),
    [
        (
            "densenet121",
            [(".norm1.", ".norm.1."), (".norm2.", ".norm.2."), (".conv1.", ".conv.1."), (".conv2.", ".conv.2.")],
        ),
        ("vit_b_32", [(".mlp.0.", ".mlp.linear_1."), (".mlp.3.", ".mlp.linear_2.")]),
        ("mnasnet0_5", []),
    ],
)
def test_files_with_the_names_that_torchvision_published_load(name, renames):
    torch.manual_seed(1)
    state = torchvision.models.get_model(name, weights=None).state_dict()
    published = {}
    for key, tensor in state.items():
        for new, old in renames:
            key = key.replace(new, old) if "denselayer" in key or "mlp" in key else key
        published[key] = tensor
    assert (published.keys() != state.keys()) == bool(renames)
    backbone = build_backbone(name, Weights(published, "file.pth"), classes=("a", "b"), seed=0)
    own = backbone.module.state_dict()
    assert all(torch.equal(own[key], state[key]) for key in state if not key.startswith(backbone.cut.head_path))


def test_a_vit_takes_the_image_size_of_its_weights():
    state = torchvision.models.vit_b_32(image_size=64).state_dict()
    backbone = build_backbone("vit_b_32", Weights(state, "file.pth"), classes=("a", "b"), seed=0)
    assert backbone.module.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 2)


def test_weights_without_auxiliary_heads_fill_all_else():
    state = torchvision.models.googlenet(weights=None, aux_logits=False, init_weights=False).state_dict()
    backbone = build_backbone("googlenet", Weights(state, "file.pth"), classes=("a", "b"), seed=0)
    own = backbone.module.state_dict()
    assert all(torch.equal(own[key], state[key]) for key in state if not key.startswith("fc."))
    assert own["aux1.fc2.weight"].shape == (2, 1024)
