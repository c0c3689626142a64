"""The textbook program for two classes of images, as any tutorial writes it, against the shipped recipe that claims
to be the same: `fttune train experiments/classic_resnet50.yaml`."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import DataLoader
from torchvision import datasets, models, transforms
from typer.testing import CliRunner

from fttune.cli import app

RECIPE = Path(__file__).parents[2] / "experiments" / "classic_resnet50.yaml"
IMAGES, EPOCHS = 80, 2


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Not here: a ResNet-50 at 224 pixels uses every core."""


@pytest.fixture
def photographs(tmp_path) -> Path:
    """A folder `train` with two classes of JPEG files of several shapes, no two alike."""
    generator = np.random.default_rng(0)
    for index in range(IMAGES):
        width, height = generator.integers(200, 360, 2).tolist()
        coarse = generator.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        coarse[..., index % 2] //= 2
        file = tmp_path / "train" / ("ants", "bees")[index % 2] / f"{index:03d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(file, quality=90)
    return tmp_path / "train"


@pytest.fixture
def pretrained(tmp_path) -> Path:
    """A state dict of torchvision's ResNet-50 for 1000 classes, as a download would be; random, with used norms."""
    torch.manual_seed(1234)
    net = models.resnet50()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.weight, 0.3, 0.7)
            nn.init.normal_(module.bias, 0, 0.1)
    torch.save(net.state_dict(), tmp_path / "resnet50.pth")
    return tmp_path / "resnet50.pth"


def textbook(folder: Path, weights: Path) -> tuple[list[float], nn.Module]:
    """The program as it stands in tutorials; only the order of samples is fttune's documented formula."""
    dataset = datasets.ImageFolder(
        folder,
        transforms.Compose(
            [
                transforms.Resize(256),
                transforms.CenterCrop(224),
                transforms.ToTensor(),
                transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
            ]
        ),
    )
    model = models.resnet50()
    model.load_state_dict(torch.load(weights))
    for parameter in model.parameters():
        parameter.requires_grad = False
    torch.manual_seed(0)
    model.fc = nn.Linear(2048, 2)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.fc.parameters(), lr=0.001, momentum=0.9)
    model.train()
    losses = []
    for epoch in range(1, EPOCHS + 1):
        generator = torch.Generator().manual_seed((0 * 2654435761 + epoch) % 2**32)
        order = torch.randperm(len(dataset), generator=generator)
        for images, labels in DataLoader(dataset, batch_size=4, sampler=order.tolist()):
            optimizer.zero_grad()
            loss = criterion(model(images), labels)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses, model


def test_the_shipped_classic_recipe_trains_exactly_as_the_textbook_program(
    tmp_path, photographs, pretrained, monkeypatch
):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    changes = ["--set", f"backbone.weights={pretrained}", "--set", f"training.epochs={EPOCHS}"]
    arguments = ["train", str(RECIPE), *changes, "--set", "training.device=cpu", "--mlruns", str(tmp_path / "mlruns")]
    done = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.stderr
    assert "trainable 4.1k of 23.5M parameters: head" in done.stderr
    found = json.loads(done.stdout)

    expected, model = textbook(photographs, pretrained)
    assert len(expected) == EPOCHS * IMAGES // 4 >= 40
    assert max(expected) - min(expected) > 0.1, "the losses differ enough for a comparison to say something"
    difference = max(abs(a - b) for a, b in zip(found["step_losses"], expected, strict=True))
    print(f"largest difference of {len(expected)} losses: {difference:.2e}")  # noqa: T201
    assert difference < 1e-4

    (best,) = (tmp_path / "mlruns" / "artifacts").rglob("best.safetensors")
    written, plain = load_file(best), model.state_dict()
    assert written.keys() == plain.keys()
    frozen = {name for name, _ in model.named_parameters() if not name.startswith("fc.")}
    assert all(torch.equal(written[name], plain[name]) for name in frozen)
    for name in plain.keys() - frozen:
        torch.testing.assert_close(written[name], plain[name], rtol=1e-4, atol=1e-5, msg=name)
    assert not torch.equal(written["bn1.running_mean"], torch.load(pretrained)["bn1.running_mean"])
