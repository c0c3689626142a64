"""Files of weights: read without running code, written so that no half file is ever visible."""

import errno
import hashlib
import io
import json
import os
import pickle
import stat
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from fttune.config.known import shown
from fttune.errors import WeightsError, one_line
from fttune.files import release, replacing, told, write_text
from fttune.models import tensor_file
from fttune.models.tensor_file import Shared

SCHEMA = 1
MAX_JSON_BYTES = 100_000_000
# What a file that is no state dict makes torch and safetensors raise: a damaged pickle fails in almost any way.
DAMAGED = (
    safetensors.SafetensorError,
    pickle.UnpicklingError,
    struct.error,
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)
_SIDECAR_KEYS = ("sha256", "experiment", "classes", "preprocessing")
MOVE_AWAY = "put back the file that was written, or move it away to use the weights without it"


def read_tensors(file: Path, *, expected_sha256: str | None = None) -> tuple[dict[str, Tensor], str]:
    """Return a file's tensors by name, on the CPU, and its sha256.

    `.safetensors`, or a state dict saved by torch, which is unpickled with `weights_only=True`.

    Raises:
        WeightsError: the file is missing, is not such a file, or its content is not what was written.
    """
    try:
        _require_regular(file)
        raw = file.read_bytes()
    except OSError as error:
        raise WeightsError(f"{file}: cannot be read ({error.strerror}); backbone.weights must name a file") from error
    sha256 = hashlib.sha256(raw).hexdigest()
    if expected_sha256 is not None and sha256 != expected_sha256:
        rule = f"its sha256 is {sha256[:12]}, but {expected_sha256[:12]} was written"
        raise WeightsError(f"{file}: damaged: {rule}; put back the file that was written")
    try:
        if file.suffix == ".safetensors":
            return safetensors.torch.load(raw), sha256
        content = torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
    except DAMAGED as error:
        rule = f"not a .safetensors file or a state dict of tensors ({reason(error)})"
        raise WeightsError(f"{file}: {rule}; save the weights anew, best as .safetensors") from error
    state = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(t, Tensor) for k, t in state.items()):
        rule = f"must hold a state dict (names to tensors), got {type(content).__name__}"
        raise WeightsError(f"{file}: {rule}; save module.state_dict()")
    if unusual := [name for name, tensor in state.items() if not _is_plain(tensor)]:
        rule = f"tensors must be dense, real, on the CPU and as large as their shapes, which {named(unusual)} are not"
        raise WeightsError(f"{file}: {rule}; save module.state_dict() of a plain model")
    return state, sha256


def not_finite(state: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the tensors that hold NaN or infinite values."""
    return [name for name, t in state.items() if t.is_floating_point() and not bool(torch.isfinite(t).all())]


def named(names: Sequence[str], limit: int = 5) -> str:
    """Return some names of tensors, one line of printable text, and how many more there are."""
    shown = [one_line(name[:100]) for name in names[:limit]]
    return ", ".join([*shown, *([f"{len(names) - limit} more"] if len(names) > limit else [])])


def _is_plain(tensor: Tensor) -> bool:
    """Return whether a tensor is what a model's own are: a pickle can hold one that claims to be larger than it is."""
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized or tensor.is_complex():
        return False
    return tensor.untyped_storage().nbytes() >= tensor.nbytes


def _require_regular(file: Path) -> None:
    """Refuse what must not be opened: a pipe would wait for ever, and a device has no end. Raises OSError."""
    mode = file.stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "Is a directory")
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "a pipe, socket or device, and not a file")


def reason(error: BaseException) -> str:
    """Return why a file could not be read, in one line: torch's own text on pickles advises to run their code."""
    cause = error.__context__ if isinstance(error, pickle.UnpicklingError) else None
    return one_line((str(cause or error) or repr(error)).splitlines()[0])


def read_sidecar(file: Path) -> Mapping[str, Any]:
    """Return the JSON beside a checkpoint (`best.safetensors` -> `best.json`), or an empty mapping.

    Raises:
        WeightsError: the JSON is damaged, or of a newer schema than this version knows.
    """
    path = file.with_suffix(".json")
    try:
        if not os.path.lexists(path):
            return {}
        _require_regular(path)
        if (size := path.stat().st_size) > MAX_JSON_BYTES:
            raise ValueError(f"{size:,} bytes")
        sidecar: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        newer = sidecar["schema"] > SCHEMA
        missing = [key for key in _SIDECAR_KEYS if key not in sidecar]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        cause = shown(getattr(error, "strerror", None) or str(error) or type(error).__name__)
        raise WeightsError(f"{path}: damaged, or not written by fttune ({cause}); {MOVE_AWAY}") from error
    if newer:
        raise WeightsError(
            f"{path}: schema {sidecar['schema']} is newer than this fttune knows ({SCHEMA}); upgrade fttune"
        )
    if missing:
        raise WeightsError(f"{path}: damaged: {', '.join(missing)} missing; {MOVE_AWAY}")
    return sidecar


def write_tensors(
    file: Path, state: Mapping[str, Tensor], sidecar: Mapping[str, Any], *, shared: Shared | None = None
) -> str:
    """Write tensors and the JSON beside them, each by temp, fsync and rename; return the tensors' sha256.

    Those of `shared` are written too. The JSON with the sha256 comes last: a crash in between leaves a checkpoint that
    does not verify, never one that silently pairs new weights with old metadata.

    Raises:
        CannotWrite: the disk is full or fails.
    """
    with told(file):
        with replacing(file) as temporary:
            sha256 = tensor_file.write(temporary, state, shared or Shared())
        release(file)
        document = json.dumps({"schema": SCHEMA, **sidecar, "sha256": sha256}, indent=1)
        write_text(file.with_suffix(".json"), document)
    return sha256
