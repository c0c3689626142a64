"""Files of weights: read without running code, written so that no half file is ever visible."""

import hashlib
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from fttune.errors import WeightsError
from fttune.files import write_atomically

SCHEMA = 1


def read_tensors(file: Path, *, expected_sha256: str | None = None) -> tuple[dict[str, Tensor], str]:
    """Return a file's tensors by name, on the CPU, and its sha256.

    `.safetensors`, or a state dict saved by torch, which is unpickled with `weights_only=True`.

    Raises:
        WeightsError: the file is missing, is not such a file, or its content is not what was written.
    """
    try:
        raw = file.read_bytes()
    except OSError as error:
        raise WeightsError(f"{file}: cannot be read ({error.strerror}); backbone.weights must name a file") from error
    sha256 = hashlib.sha256(raw).hexdigest()
    if expected_sha256 is not None and sha256 != expected_sha256:
        raise WeightsError(f"{file}: damaged: its sha256 is {sha256[:12]}, but {expected_sha256[:12]} was written")
    try:
        if file.suffix == ".safetensors":
            return safetensors.torch.load(raw), sha256
        content = torch.load(file, map_location="cpu", weights_only=True)
    except (safetensors.SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise WeightsError(f"{file}: not a .safetensors file or a state dict of tensors ({reason})") from error
    state = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise WeightsError(f"{file}: must hold a state dict (names to tensors), got {type(content).__name__}")
    return state, sha256


def read_sidecar(file: Path) -> Mapping[str, Any]:
    """Return the JSON beside a checkpoint (`best.safetensors` -> `best.json`), or an empty mapping.

    Raises:
        WeightsError: the JSON is damaged, or of a newer schema than this version knows.
    """
    path = file.with_suffix(".json")
    if not path.is_file():
        return {}
    try:
        sidecar: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        schema = sidecar["schema"]
    except (ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{path}: damaged, or not written by fttune ({error})") from error
    if schema > SCHEMA:
        raise WeightsError(f"{path}: schema {schema} is newer than this fttune knows ({SCHEMA}); upgrade fttune")
    return sidecar


def write_tensors(file: Path, state: Mapping[str, Tensor], sidecar: Mapping[str, Any]) -> str:
    """Write tensors and the JSON beside them, each by temp, fsync and rename; return the tensors' sha256.

    The JSON with the sha256 comes last: a crash in between leaves a checkpoint that does not verify, never one
    that silently pairs new weights with old metadata.
    """
    raw = safetensors.torch.save({name: tensor.contiguous() for name, tensor in state.items()})
    sha256 = hashlib.sha256(raw).hexdigest()
    document = json.dumps({"schema": SCHEMA, **sidecar, "sha256": sha256}, indent=1)
    write_atomically(file, lambda temporary: temporary.write_bytes(raw))
    write_atomically(file.with_suffix(".json"), lambda temporary: temporary.write_text(document, encoding="utf-8"))
    return sha256
