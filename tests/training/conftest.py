"""Recipes and their inputs from arrays in memory: known images, known labels, no files."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from fttune.config import Experiment
from fttune.data import Geometry, ImageData, Part
from fttune.models import Weights
from fttune.models.cifar_resnet import CifarResNet8
from fttune.training import Inputs

MakeInputs = Callable[..., Inputs]
MakeRecipe = Callable[..., Experiment]
NO_WEIGHTS = Weights(None, "none")


def _part(labels: Sequence[int], side: int, seed: int) -> Part:
    """Random pixels, brighter in the channel of the label, so that classes can be learned but are not trivial."""
    pixels = np.random.default_rng(seed).integers(0, 170, (len(labels), side, side, 3), dtype=np.uint8)
    for image, label in zip(pixels, labels, strict=True):
        image[..., label % 3] += np.uint8(20 + 15 * (label // 3))
    names = tuple(f"image[{index}]" for index in range(len(labels)))
    key = hashlib.sha256(pixels.tobytes()).hexdigest()
    return Part(pixels, torch.tensor(list(labels), dtype=torch.int64), names, key)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Nets of this size gain nothing from a second thread, and lose much where other work keeps the cores busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def make_inputs() -> MakeInputs:
    """Return inputs with these labels; `val=None` means no validation split."""

    def make(
        train: Sequence[int] = tuple(i % 3 for i in range(22)),
        val: Sequence[int] | None = tuple(i % 3 for i in range(12)),
        *,
        side: int = 8,
        classes: int = 3,
        weights: Weights = NO_WEIGHTS,
    ) -> Inputs:
        names = tuple(f"class{index}" for index in range(classes))
        val_part = None if val is None else _part(val, side, seed=2)
        data = ImageData(names, _part(train, side, seed=1), val_part, n_test=0, fingerprint="f" * 64, notices=())
        return Inputs(data, weights, Geometry(side, side, "bilinear"))

    return make


@pytest.fixture
def make_recipe() -> MakeRecipe:
    """Return a recipe of the small net on 8 x 8 pixels, with other values at fields named as `optimizer__lr`."""

    def make(**fields: Any) -> Experiment:
        base = Experiment.model_validate(
            {
                "data": {"source": "digits", "image_size": 8, "resize": 8},
                "backbone": {"name": "cifar_resnet8", "weights": "none"},
                "freeze": {"unfrozen_stages": "all"},
                "optimizer": {"lr": 0.05},
                "training": {"epochs": 2, "batch_size": 8, "device": "cpu"},
                "name": "tiny",
            }
        )
        return base.replace({name.replace("__", "."): value for name, value in fields.items()})

    return make


@pytest.fixture
def shared_inputs(make_inputs: MakeInputs) -> Callable[[], Inputs]:
    """Return the same inputs at every call (a function, which is shown in one line): images, and the weights of a net
    whose statistics are not those of a new one."""
    torch.manual_seed(3)
    net = CifarResNet8(3).train()
    for _ in range(3):
        net(torch.randn(16, 3, 8, 8))
    inputs = make_inputs(weights=Weights(net.state_dict(), "file"))
    return lambda: inputs
