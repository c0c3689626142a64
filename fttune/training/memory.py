"""What is done when memory runs out: it is told from other errors, what can be freed is, and fewer samples go at once.

Knows no steps and no epochs. An error that is being handled keeps all that its frames hold, tensors of a failed forward
pass among them; so nothing is tried again before its `except` block has ended.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from fttune.errors import OutOfMemory
from fttune.training.randomness import random_state, set_random_state

Result = TypeVar("Result")
ERRORS = (MemoryError, RuntimeError)  # torch's allocators raise the latter, which also means much else
REMEDY = "unfreeze fewer stages, or choose a smaller data.image_size or backbone"
# torch's allocator on the CPU, MPS, the CUDA driver, cuBLAS and cuDNN; torch.OutOfMemoryError is known by its class.
_TEXT = re.compile("can't allocate memory|not enough memory|out of memory|STATUS_ALLOC_FAILED")
_SIZE = re.compile(r"(?:tried|unable) to allocate (\d[\d.]* ?\w+)", re.IGNORECASE)


def missing_memory(error: Exception) -> str | None:
    """Return what could not be had, such as `tried to allocate 2.00 GiB`; None when an error has another cause."""
    text = str(error)
    if not (isinstance(error, MemoryError | torch.OutOfMemoryError) or _TEXT.search(text)):
        return None
    found = _SIZE.search(text)
    return f"tried to allocate {found[1]}" if found else (text or type(error).__name__).splitlines()[0]


@contextmanager
def memory_errors_told(batch_size: int | None = None) -> Iterator[None]:
    """Raise OutOfMemory in place of what allocators raise, where nothing smaller can be tried any more."""
    try:
        yield
    except ERRORS as error:
        if (missing := missing_memory(error)) is None:
            raise
        begin = "" if batch_size is None else f"training.batch_size is {batch_size}: "
        raise OutOfMemory(f"{begin}memory ran out ({missing}); {REMEDY}") from error


def free_cached(device: torch.device) -> None:
    """Give back to the device what torch keeps of its memory for later."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def tied_to_batch(module: nn.Module) -> tuple[str, ...]:
    """Return the names of the norm layers to which it matters in their present mode which samples form a batch.

    BatchNorm normalises by the batch in training mode, and without running statistics always; where InstanceNorm
    keeps some, they move once per batch.
    """
    return tuple(name for name, layer in module.named_modules() if isinstance(layer, _NormBase) and _is_tied(layer))


def _is_tied(layer: _NormBase) -> bool:
    if isinstance(layer, _BatchNorm):
        return layer.training or layer.running_mean is None
    return layer.training and layer.running_mean is not None


def why_tied(layers: tuple[str, ...]) -> str:
    """Return in words why a batch cannot be made of smaller ones, and what to do."""
    more = f" and {len(layers) - 1} more take" if len(layers) > 1 else " takes"
    return (
        f"cannot be made of smaller ones, because {layers[0]}{more} statistics from the whole batch; "
        "choose a smaller batch size, or freeze.norm_stats: all_frozen"
    )


Versions = Mapping[str, tuple[Tensor, int]]


def buffer_versions(module: nn.Module) -> Versions:
    """Return the buffers by name, and how often torch has seen each change in place."""
    return {name: (buffer, buffer._version) for name, buffer in module.named_buffers()}


def moved_buffers(module: nn.Module, before: Versions) -> tuple[str, ...]:
    """Return the names of the buffers that are others by now, or have changed: statistics that a module keeps."""
    return tuple(
        name
        for name, buffer in module.named_buffers()
        if name not in before or before[name][0] is not buffer or before[name][1] != buffer._version
    )


@dataclass(frozen=True)
class Before:
    """Torch's generators, the CPU's and a device's, and some buffers with their values, as they were."""

    device: torch.device
    generators: Mapping[str, Tensor]
    buffers: tuple[tuple[Tensor, Tensor], ...]

    @classmethod
    def of(cls, device: torch.device, buffers: Iterable[Tensor]) -> "Before":
        """Return how things are now."""
        return cls(device, random_state(device), tuple((buffer, buffer.clone()) for buffer in buffers))

    def restore(self) -> None:
        """Put back what has moved since."""
        set_random_state(self.device, self.generators)
        for buffer, value in self.buffers:
            buffer.copy_(value)


@dataclass
class BatchLimit:
    """How many samples pass at once through what gives the same for any number: half as many when memory runs out.

    `what` names the work. What did not fit once is not tried again.
    """

    what: str
    samples: int | None = None
    _told: int | None = None

    def fit(self, wanted: int, work: Callable[[int], Result], module: nn.Module) -> Result:
        """Return what `work` returns; it is told how many samples may pass at once, at most `wanted`.

        After a failure it is called again. `module` is what the samples pass through.

        Raises:
            OutOfMemory: one sample is too many, or a norm layer's output depends on the others beside it.
        """
        while True:
            size = self.size(wanted)
            try:
                return work(size)
            except ERRORS as error:
                if (missing := missing_memory(error)) is None:
                    raise
            free_cached(next(module.parameters()).device)
            if layers := tied_to_batch(module):
                raise OutOfMemory(f"{self.what}: {size} samples do not fit ({missing}), and a batch {why_tied(layers)}")
            if size == 1:
                raise OutOfMemory(f"{self.what}: not even one sample at a time fits ({missing}); {REMEDY}")
            self.samples = math.ceil(size / 2)

    def size(self, wanted: int) -> int:
        """Return how many samples pass at once where so many are wanted."""
        return min(wanted, self.samples or wanted)

    def notices(self) -> list[str]:
        """Return what people should be told, each once."""
        if self.samples == self._told:
            return []
        self._told = self.samples
        return [f"memory ran out: {self.what} takes at most {self.samples} samples at once from now on"]
