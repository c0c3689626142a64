"""Files of tensors that share their beginning: what the safetensors library reads from them is what was written."""

import hashlib
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.torch import load_file
from torch import Tensor

from fttune.models import tensor_file
from fttune.models.tensor_file import Shared

TYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool)
SHAPES = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)


def tensor(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return (torch.arange(torch.Size(shape).numel()) % 2).reshape(shape).to(dtype)


TENSORS = st.builds(tensor, SHAPES, st.sampled_from(TYPES))


def assert_holds(file: Path, expected: dict[str, Tensor]) -> None:
    found = load_file(file)
    assert found.keys() == expected.keys()
    for name, wanted in expected.items():
        assert found[name].dtype == wanted.dtype
        assert torch.equal(found[name], wanted), name


@given(
    shared=st.dictionaries(st.text("ab.é", min_size=1), TENSORS, max_size=5),
    own=st.dictionaries(st.text("xy", min_size=1), TENSORS, max_size=5),
)
def test_the_library_reads_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, shared: dict[str, Tensor], own: dict[str, Tensor]
) -> None:
    file = tmp_path_factory.getbasetemp() / "any.safetensors"
    sha256 = tensor_file.write(file, own, Shared(shared))
    assert_holds(file, {**shared, **own})
    assert sha256 == hashlib.sha256(file.read_bytes()).hexdigest()


def test_files_that_share_tensors_differ_in_the_rest(tmp_path: Path) -> None:
    shared = Shared({"stem": torch.rand(3, 5), "odd": torch.rand(3)})
    heads = [torch.rand(2, 5).T, torch.rand(5, 2), torch.rand(7)]  # one not contiguous, one of another shape
    for index, head in enumerate(heads):
        file = tmp_path / f"{index}.safetensors"
        sha256 = tensor_file.write(file, {"head": head}, shared)
        assert_holds(file, {**shared.leading, **shared.rest, "head": head})
        assert sha256 == hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_write_that_the_system_cuts_short_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "writev", lambda descriptor, pieces: os.write(descriptor, b"".join(pieces)[:100]))
    state = {"a": torch.rand(10, 10), "b": torch.rand(1), "c": torch.rand(60)}
    tensor_file.write(tmp_path / "a.safetensors", state, Shared())
    assert_holds(tmp_path / "a.safetensors", state)
