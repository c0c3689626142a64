"""Where chance comes from. Every draw of epoch e is a function of (experiment.seed, e) alone, so that trials of one
study see the same batches, and a run that starts again repeats itself."""

import torch
from torch import Tensor

_EPOCH_BITS = 20
_AUGMENTATION = 2**53


def epoch_seed(seed: int, epoch: int) -> int:
    """Return the seed of an epoch (counted from 1): `seed * 2**20 + epoch`."""
    return (seed << _EPOCH_BITS) + epoch


def sample_order(n: int, *, seed: int, epoch: int) -> Tensor:
    """Return the order of `n` samples in an epoch, (n,) int64.

    It equals `torch.randperm(n, generator=torch.Generator().manual_seed(seed * 2**20 + epoch))`.
    """
    return torch.randperm(n, generator=torch.Generator().manual_seed(epoch_seed(seed, epoch)))


def augmentation_generator(*, seed: int, epoch: int) -> torch.Generator:
    """Return the generator that augments an epoch's images, apart from the one that orders them."""
    return torch.Generator().manual_seed(_AUGMENTATION + epoch_seed(seed, epoch))
