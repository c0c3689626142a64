"""Which device trains, in which precision. Nothing falls back in silence: the choice is returned in words too."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from fttune.config.sections import Training
from fttune.errors import BadInput

BF16_CAPABILITY = (8, 0)  # Ampere; `torch.cuda.is_bf16_supported` also says yes to older cards that emulate it


@dataclass(frozen=True)
class Device:
    """A device, whether bfloat16 autocast is on, both in words, and the type of the weights."""

    device: torch.device
    bf16: bool
    summary: str
    dtype: torch.dtype = torch.float32

    @property
    def replays(self) -> bool:
        """Whether training steps are recorded and replayed as CUDA graphs: they take their lr in single precision."""
        return self.device.type == "cuda" and self.dtype == torch.float32

    @property
    def evaluation_batch(self) -> int:
        """How many images are evaluated at once, at least: a GPU gains by larger batches, a CPU by smaller ones."""
        return 256 if self.device.type == "cuda" else 64

    def autocast(self) -> torch.autocast:
        """Return the context in which forward passes run."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16)


def choose_device(training: Training) -> Device:
    """Return the device of a recipe: CUDA, then MPS, then CPU for `auto`; bfloat16 on CUDA only.

    Raises:
        BadInput: the named device is not there, or bf16 is asked for where it is emulated.
    """
    device = torch.device(best_device() if training.device == "auto" else training.device)
    if device.type == "cuda" and not (torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()):
        raise BadInput(f"training.device: {training.device} is not there; use auto, or check the CUDA driver")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise BadInput("training.device: mps is not there; use auto")
    if training.precision == "float64":
        if device.type == "mps":
            raise BadInput("training.precision: mps has no float64; use training.device: cpu")
        return Device(device, False, f"{device}, float64", torch.float64)
    can_bf16 = device.type == "cuda" and torch.cuda.get_device_capability(device) >= BF16_CAPABILITY
    if training.precision == "bf16" and not can_bf16:
        raise BadInput(f"training.precision: bf16 is emulated on {device} and far slower; use auto or fp32")
    bf16 = can_bf16 and training.precision != "fp32"
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    detail = "" if device.type == "mps" else f" ({name})"
    return Device(device, bf16, f"{device}{detail}, {'bf16' if bf16 else 'fp32'}")


def wait_for(device: torch.device) -> None:
    """Wait until a device has done all that it was given; a CPU has when a call returns."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Return how long some work took, that of the device included."""
    wait_for(device)
    started = time.perf_counter()
    work()
    wait_for(device)
    return time.perf_counter() - started


def best_device() -> str:
    """Return cuda, else mps, else cpu."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
