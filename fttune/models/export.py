"""Checkpoints to files that need no fttune: torch's pt2 and ONNX, each held against the model before it is kept."""

import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from fttune.errors import BadInput, WorkFailed
from fttune.files import replacing

TOLERANCE = 1e-4
BATCHES = 2, 3  # of the example, and of what is compared: the size of a batch must stay free
Run = Callable[[Tensor], Tensor]


def export_pt2(model: nn.Module, file: Path, *, image_size: int) -> None:
    """Write a model (`torch.export`), which maps normalised images (B, 3, H, W) to logits.

    Raises:
        WorkFailed: what was written computes something else.
    """
    with replacing(file) as temporary, warnings.catch_warnings(action="ignore"):
        shapes = ({0: torch.export.Dim.DYNAMIC},)
        exported = torch.export.export(model, (_images(BATCHES[0], image_size),), dynamic_shapes=shapes)
        torch.export.save(exported, temporary)
        _compare(model, torch.export.load(temporary).module(), file, image_size)


def export_onnx(model: nn.Module, file: Path, *, image_size: int) -> None:
    """Write a model as ONNX with input `images` and output `logits`.

    Raises:
        BadInput: the extra `fttune[onnx]` is not installed.
        WorkFailed: what was written computes something else.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 (torch needs it)
    except ImportError as error:
        raise BadInput(f"ONNX needs the extra: pip install 'fttune[onnx]' ({error})") from error

    with replacing(file) as temporary, warnings.catch_warnings(action="ignore"):
        torch.onnx.export(
            model,
            (_images(BATCHES[0], image_size),),
            temporary,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
            external_data=False,
            verbose=False,
        )
        session = onnxruntime.InferenceSession(str(temporary), providers=["CPUExecutionProvider"])
        _compare(model, lambda x: torch.from_numpy(session.run(None, {"images": x.numpy()})[0]), file, image_size)


def _images(count: int, side: int) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def _compare(model: nn.Module, exported: Run, file: Path, image_size: int) -> None:
    images = _images(BATCHES[1], image_size)
    with torch.inference_mode():
        expected, found = model(images), exported(images)
    if not torch.allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE):
        gap = (found - expected).abs().max().item()
        raise WorkFailed(f"{file}: not written, since its logits are up to {gap:.1e} from the model's")
