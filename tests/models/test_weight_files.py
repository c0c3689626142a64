import hashlib
import io
import json
import os
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fttune.errors import CannotWrite, WeightsError
from fttune.models.files import SCHEMA, read_sidecar, read_tensors, write_tensors

STATE = {"a": torch.arange(6.0).view(2, 3), "b.c": torch.tensor(7)}
ABOUT = {"experiment": {}, "classes": ["x"], "preprocessing": {}}


def pickled(legacy: bool = False) -> bytes:
    buffer = io.BytesIO()
    torch.save(STATE, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


def same(state) -> bool:
    return state.keys() == STATE.keys() and all(torch.equal(state[key], STATE[key]) for key in STATE)


class RunsCode:
    """Unpickling it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin"])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_state_dict_saved_by_torch_is_read_with_its_sha256(tmp_path, suffix, legacy):
    file = tmp_path / f"weights{suffix}"
    file.write_bytes(pickled(legacy))
    state, sha256 = read_tensors(file)
    assert same(state)
    assert sha256 == hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_safetensors_file_is_read_with_its_sha256(tmp_path):
    file = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(STATE, file)
    state, sha256 = read_tensors(file)
    assert same(state)
    assert sha256 == hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_state_dict_under_the_key_state_dict_is_found(tmp_path):
    torch.save({"state_dict": STATE, "epoch": 3}, tmp_path / "w.pth")
    assert same(read_tensors(tmp_path / "w.pth")[0])


def test_a_pickle_with_code_is_refused_and_does_not_run(tmp_path):
    torch.save({"a": torch.zeros(1), "b": RunsCode(tmp_path / "made")}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"w\.pth: not a \.safetensors file or a state dict of tensors") as caught:
        read_tensors(tmp_path / "w.pth")
    assert not (tmp_path / "made").exists()
    assert "mkdir" in str(caught.value)
    assert "weights_only" not in str(caught.value), "torch's advice to run the code"


@pytest.mark.parametrize(
    "content", [torch.zeros(2), [torch.zeros(2)], {"a": 1.0}, {0: torch.zeros(2)}, {"state_dict": {"a": "b"}}]
)
def test_what_is_no_mapping_of_names_to_tensors_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"w\.pth: must hold a state dict \(names to tensors\), got "):
        read_tensors(tmp_path / "w.pth")


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_a_missing_file_is_named_with_the_field_that_names_it(tmp_path, name):
    with pytest.raises(WeightsError) as caught:
        read_tensors(tmp_path / name)
    assert str(caught.value) == (
        f"{tmp_path / name}: cannot be read (No such file or directory); backbone.weights must name a file"
    )


def test_a_directory_is_refused_by_name(tmp_path):
    (tmp_path / "w.pth").mkdir()
    with pytest.raises(WeightsError, match=r"w\.pth: cannot be read \(Is a directory\); backbone.weights must name"):
        read_tensors(tmp_path / "w.pth")


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
@pytest.mark.parametrize("content", [b"", b"garbage", b"<html>404 not found</html>", bytes(100), b"\x80\x02."])
def test_garbage_is_refused_by_name(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=r"w\.\w+: not a \.safetensors file or a state dict of tensors \(.+\)"):
        read_tensors(tmp_path / name)


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_truncated_file_is_refused_by_name(tmp_path, name, share):
    raw = pickled() if name == "w.pth" else safetensors.torch.save(STATE)
    (tmp_path / name).write_bytes(raw[: int(len(raw) * share)])
    with pytest.raises(WeightsError, match=f"{name}: not a .safetensors file or a state dict"):
        read_tensors(tmp_path / name)


@pytest.mark.filterwarnings("ignore")  # torch warns of odd pickles before it refuses them
@pytest.mark.parametrize("kind", ["zip.pth", "legacy.pth", "x.safetensors"])
@settings(deadline=None)
@given(data=st.data())
def test_a_damaged_file_loads_or_is_refused_but_never_fails_otherwise(kind, data, tmp_path_factory):
    raw = bytearray(safetensors.torch.save(STATE) if kind == "x.safetensors" else pickled(kind == "legacy.pth"))
    head = st.integers(0, min(len(raw), 300) - 1)
    for position in data.draw(st.lists(head | st.integers(0, len(raw) - 1), max_size=4)):
        raw[position] = data.draw(st.integers(0, 255))
    file = tmp_path_factory.getbasetemp() / kind
    file.write_bytes(raw[: data.draw(st.integers(0, len(raw)) | st.just(len(raw)))])
    try:
        state, _ = read_tensors(file)
    except WeightsError as error:
        assert str(error).startswith(str(file))
    else:
        assert all(isinstance(key, str) and isinstance(tensor, torch.Tensor) for key, tensor in state.items())


def test_one_flipped_bit_is_noticed_by_the_sha256(tmp_path):
    file = tmp_path / "best.safetensors"
    sha256 = write_tensors(file, STATE, ABOUT)
    assert same(read_tensors(file, expected_sha256=sha256)[0])
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)
    assert not same(read_tensors(file)[0]), "without the sha256 nothing would be noticed"
    with pytest.raises(WeightsError, match=f"damaged: its sha256 is [0-9a-f]{{12}}, but {sha256[:12]} was written"):
        read_tensors(file, expected_sha256=sha256)


def test_written_tensors_come_with_a_json_that_holds_their_sha256(tmp_path):
    file = tmp_path / "deep" / "best.safetensors"
    transposed = {"a": STATE["a"].t(), "image": torch.zeros(2, 3, 4, 4).to(memory_format=torch.channels_last)}
    sha256 = write_tensors(file, transposed, ABOUT)
    assert torch.equal(safetensors.torch.load_file(file)["a"], STATE["a"].t())
    sidecar = json.loads((tmp_path / "deep" / "best.json").read_text())
    assert sidecar == {"schema": SCHEMA, **ABOUT, "sha256": sha256}
    assert sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert read_sidecar(file) == sidecar
    assert sorted(path.name for path in file.parent.iterdir()) == ["best.json", "best.safetensors"]


def test_a_crash_between_weights_and_json_leaves_a_checkpoint_that_does_not_verify(tmp_path, monkeypatch):
    file = tmp_path / "best.safetensors"
    write_tensors(file, STATE, ABOUT)
    write_text = Path.write_text
    monkeypatch.setattr(Path, "write_text", lambda *_, **__: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(CannotWrite, match="disk full"):
        write_tensors(file, {"a": torch.zeros(1)}, ABOUT)
    monkeypatch.setattr(Path, "write_text", write_text)
    with pytest.raises(WeightsError, match="damaged"):
        read_tensors(file, expected_sha256=read_sidecar(file)["sha256"])


def test_a_file_without_json_beside_it_has_an_empty_sidecar(tmp_path):
    assert read_sidecar(tmp_path / "w.pth") == {}


def test_a_newer_schema_is_refused_with_the_remedy(tmp_path):
    newer = {"schema": SCHEMA + 1, **ABOUT, "sha256": "0"}
    (tmp_path / "best.json").write_text(json.dumps(newer))
    with pytest.raises(WeightsError, match=r"best\.json: schema 2 is newer than this fttune knows \(1\); upgrade"):
        read_sidecar(tmp_path / "best.safetensors")


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", "{}", '{"schema": "one"}', '{"schema": null}', "[" * 10**5])
def test_a_json_that_fttune_did_not_write_is_refused_with_the_remedy(tmp_path, text):
    (tmp_path / "w.json").write_text(text)
    with pytest.raises(WeightsError, match=r"w\.json: damaged, or not written by fttune .*move it away"):
        read_sidecar(tmp_path / "w.pth")


def test_a_json_that_is_not_text_is_refused(tmp_path):
    (tmp_path / "w.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(WeightsError, match=r"w\.json: damaged, or not written by fttune"):
        read_sidecar(tmp_path / "w.pth")


@pytest.mark.parametrize("lost", ["sha256", "experiment", "classes", "preprocessing"])
def test_a_json_that_lacks_a_field_is_refused_by_its_name(tmp_path, lost):
    fields = {"schema": SCHEMA, **ABOUT, "sha256": "0"}
    del fields[lost]
    (tmp_path / "w.json").write_text(json.dumps(fields))
    with pytest.raises(WeightsError, match=rf"w\.json: damaged: {lost} missing; .*move it away"):
        read_sidecar(tmp_path / "w.pth")
