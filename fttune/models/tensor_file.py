"""Files of tensors in the safetensors format, in which what many of them share is laid out and hashed once.

A file is the length of its header (8 bytes, little-endian), the header (JSON: type, shape and place of each tensor),
and the tensors' bytes without gaps (https://huggingface.co/docs/safetensors, "Format"). The safetensors library reads
it; its own writer orders tensors by name, so that a new head would stand amid all else.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from hashlib import _Hash

ALIGNMENT = 8
PIECES = 1024  # IOV_MAX of Linux and macOS
_TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
    torch.complex64: "C64",
}


class Shared:
    """Tensors, by name, that many files hold; they must not change. Each file begins with them.

    Those whose bytes would leave what follows out of line are `rest`.
    """

    def __init__(self, tensors: Mapping[str, Tensor] | None = None) -> None:
        self.leading: dict[str, Tensor] = {}
        self.rest: dict[str, Tensor] = {}
        for name, tensor in (tensors or {}).items():
            (self.rest if tensor.nbytes % ALIGNMENT else self.leading)[name] = tensor
        self._hashed: dict[bytes, _Hash] = {}

    @cached_property
    def content(self) -> list[memoryview]:
        """The bytes of `leading`."""
        return [_bytes(tensor) for tensor in self.leading.values()]

    def hashed(self, header: bytes) -> "_Hash":
        """Return the sha256 of a header and the content, to be gone on with."""
        if header not in self._hashed:
            self._hashed[header] = _updated(hashlib.sha256(header), self.content)
        return self._hashed[header].copy()


def write(file: Path, state: Mapping[str, Tensor], shared: Shared) -> str:
    """Write the tensors of `shared` and `state`, which has none of its names; return the file's sha256."""
    own = dict(sorted({**shared.rest, **state}.items(), key=lambda item: -item[1].element_size()))
    header = _header({**shared.leading, **own})
    content = [_bytes(tensor) for tensor in own.values()]
    with file.open("wb", buffering=0) as opened:
        _write(opened.fileno(), [memoryview(header), *shared.content, *content])
    return _updated(shared.hashed(header), content).hexdigest()


def _header(tensors: Mapping[str, Tensor]) -> bytes:
    places, end = {}, 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.nbytes
        places[name] = {"dtype": _TYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(places, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data


def _write(descriptor: int, pieces: list[memoryview]) -> None:
    """Write all pieces in few calls: after each, Python may wait for another thread's turn to end."""
    while pieces:
        written = os.writev(descriptor, pieces[:PIECES])
        while pieces and written >= len(pieces[0]):
            written -= len(pieces.pop(0))
        if written:
            pieces[0] = pieces[0][written:]


def _updated(sha256: "_Hash", content: list[memoryview]) -> "_Hash":
    for piece in content:
        sha256.update(piece)
    return sha256
