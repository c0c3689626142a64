"""What a trained model says of images: a probability for each class."""

import numpy as np
import torch
from torch import Tensor, nn

from fttune.data.image_data import Pixels
from fttune.models import Preprocessing

BATCH = 64


def probabilities(model: nn.Module, preprocessing: Preprocessing, images: Pixels) -> Tensor:
    """Return the probabilities (N, classes) of images (N, H, W, 3) uint8, on the CPU.

    The model is in evaluation mode; the images are cut as `preprocessing` says and normalised here.
    """
    device = next(model.parameters()).device
    found = []
    with torch.inference_mode():
        for begin in range(0, len(images), BATCH):
            batch = torch.from_numpy(np.array(images[begin : begin + BATCH])).permute(0, 3, 1, 2).to(device)
            found.append(model(preprocessing.normalised(batch).contiguous()).softmax(1).cpu())
    return torch.cat(found)
