"""Where chance comes from. Every draw of epoch e is a function of (experiment.seed, e) alone, so that trials of one
study see the same batches, and a run that starts again repeats itself.

torch's CPU generator reads only the lower 32 bits of its seed, so seeds and epochs are spread over those: no two of
4,096 consecutive seeds share an order within 100,000 epochs.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from fttune.data import Part

SPREAD = 2654435761  # odd and close to 2**32 / golden ratio (Knuth, TAOCP volume 3, section 6.4)
_AUGMENTATION, _DROPOUT = 2**30, 2**31


def epoch_seed(seed: int, epoch: int) -> int:
    """Return the seed of an epoch (counted from 1): `(seed * 2654435761 + epoch) % 2**32`."""
    return (seed * SPREAD + epoch) % 2**32


def sample_order(n: int, *, seed: int, epoch: int) -> Tensor:
    """Return the order of `n` samples in an epoch, (n,) int64.

    It equals `torch.randperm(n, generator=torch.Generator().manual_seed((seed * 2654435761 + epoch) % 2**32))`.
    """
    return torch.randperm(n, generator=torch.Generator().manual_seed(epoch_seed(seed, epoch)))


def shown_views(n: int, views: int, *, seed: int, epoch: int) -> Tensor:
    """Return in which of its fixed views each of `n` samples is shown in an epoch, (n,) int64.

    It equals `torch.randint(views, (n,), generator=augmentation_generator(seed=seed, epoch=epoch))`.
    """
    return torch.randint(views, (n,), generator=augmentation_generator(seed=seed, epoch=epoch))


def epoch_rows(part: Part, *, seed: int, epoch: int) -> Tensor:
    """Return the rows of a part's images that an epoch shows, in their order: each sample once, in one of its views."""
    n = len(part)
    order = sample_order(n, seed=seed, epoch=epoch)
    samples = order if part.members is None else part.members[order]
    if part.views == 1:
        return samples
    return shown_views(n, part.views, seed=seed, epoch=epoch)[order] * len(part.labels) + samples


def augmentation_generator(*, seed: int, epoch: int) -> torch.Generator:
    """Return the generator that augments an epoch's images, or chooses their views, apart from the one that orders."""
    return torch.Generator().manual_seed((epoch_seed(seed, epoch) + _AUGMENTATION) % 2**32)


def own_random_state(device: torch.device) -> AbstractContextManager[None]:
    """Return the context in which torch's global generators may be used: they are as before afterwards."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


def seed_dropout(device: torch.device, *, seed: int, epoch: int) -> None:
    """Seed torch's global generators, the CPU's and the device's, for the dropout of an epoch.

    `torch.manual_seed` would do that for every kind of device, at 1.5 ms where they are not there.
    """
    chosen = dropout_seed(seed=seed, epoch=epoch)
    torch.default_generator.manual_seed(chosen)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(chosen)
    elif device.type == "mps":
        torch.mps.manual_seed(chosen)


def random_state(device: torch.device) -> dict[str, Tensor]:
    """Return the states of torch's global generators, the CPU's and the device's, by name."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["device"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        states["device"] = torch.mps.get_rng_state()
    return states


def set_random_state(device: torch.device, states: Mapping[str, Tensor]) -> None:
    """Put torch's global generators back; a state of another kind of device is left out."""
    torch.set_rng_state(states["cpu"])
    if "device" not in states:
        return
    if device.type == "cuda":
        torch.cuda.set_rng_state(states["device"], device)
    elif device.type == "mps":
        torch.mps.set_rng_state(states["device"])


def dropout_seed(*, seed: int, epoch: int) -> int:
    """Return what torch's global generator is seeded with for the dropout of an epoch."""
    return (epoch_seed(seed, epoch) + _DROPOUT) % 2**32
