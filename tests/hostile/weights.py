"""Checkpoints that would run code, lie about themselves, or are damaged: as weights, and to predict with."""

import os
import pickle
import struct
from pathlib import Path

import torch

from fttune.models.files import SCHEMA
from tests.hostile.places import EXPERIMENT, checkpoint, edit, recipe, saved, state, use
from tests.hostile.running import Case

TRAIN, PREDICT = ("train", EXPERIMENT), ("predict", "w.safetensors", "x.png")


class RunsCode:
    """Unpickling it makes a file."""

    def __reduce__(self):
        return os.system, ("touch executed",)


def pickled(content: object, **options):
    return lambda root: saved(root, content, **options)


def bare(content: object, protocol: int = 2):
    """Pickle something without torch."""

    def make(root: Path) -> None:
        saved(root, {})
        (root / "w.pth").write_bytes(pickle.dumps(content, protocol=protocol))

    return make


def with_tensor(**tensors):
    return lambda root: saved(root, {**state(), **tensors})


def damaged(change):
    """Change the bytes of a checkpoint."""

    def make(root: Path) -> None:
        file = checkpoint(root)
        file.write_bytes(change(bytearray(file.read_bytes())))

    return make


def alone(change):
    """Change the bytes of weights that have no JSON beside them."""

    def make(root: Path) -> None:
        damaged(change)(root)
        (root / "w.json").unlink()

    return make


def flipped(raw: bytearray) -> bytearray:
    raw[-5] ^= 1
    return raw


def header_of(length: int):
    return lambda raw: struct.pack("<Q", length) + raw[8:]


def about(**fields):
    return lambda root: edit(checkpoint(root), **fields)


def sidecar(content: bytes):
    return lambda root: checkpoint(root).with_suffix(".json").write_bytes(content)


def instead(make, suffix: str = ".safetensors"):
    """Put something else in the place of the checkpoint, or of its JSON."""

    def spoil(root: Path) -> None:
        file = checkpoint(root).with_suffix(suffix)
        file.unlink()
        make(file)

    return spoil


def foreign_module(root: Path) -> None:
    saved(root, {})
    (root / "w.pth").write_bytes(b"\x80\x02cno_such_package.models\nNet\n)\x81.")


def nan(state_of: dict[str, torch.Tensor], value: float = float("nan")) -> dict[str, torch.Tensor]:
    state_of["conv1.weight"][0, 0, 0, 0] = value
    return state_of


NO_STATE = ("w.pth: not a .safetensors file or a state dict of tensors", "save the weights anew")
DAMAGED = ("w.safetensors: damaged: its sha256 is", "put back the file")
AS_WEIGHTS = [
    Case("pickle that runs code", pickled(RunsCode()), TRAIN, NO_STATE),
    Case("pickle that runs code, of old", pickled(RunsCode(), legacy=True), TRAIN, NO_STATE),
    Case("pickle that runs code, beside tensors", with_tensor(x=RunsCode()), TRAIN, NO_STATE),
    Case("plain pickle that runs code", bare(RunsCode()), TRAIN, NO_STATE),
    Case("plain pickle that runs code, of protocol 4", bare(RunsCode(), 4), TRAIN, NO_STATE),
    Case("pickle of a foreign module", foreign_module, TRAIN, NO_STATE),
    Case("pickled module", pickled(torch.nn.Linear(2, 2)), TRAIN, NO_STATE),
    Case("pickle without tensors", pickled({"a": 1}), TRAIN, ("w.pth: must hold a state dict", "save")),
    Case("tensor that is no dict", pickled(torch.zeros(3)), TRAIN, ("must hold a state dict", "got Tensor")),
    Case(
        "tensor that claims a terabyte",
        with_tensor(x=torch.zeros(1).expand(10**12)),
        TRAIN,
        ("w.pth: tensors must be dense", "which x are not"),
    ),
    Case("sparse tensor", with_tensor(x=torch.eye(3).to_sparse()), TRAIN, ("tensors must be dense",)),
    Case("tensor without content", with_tensor(x=torch.zeros(3, device="meta")), TRAIN, ("tensors must be dense",)),
    Case("complex tensor", with_tensor(x=torch.zeros(3, dtype=torch.complex64)), TRAIN, ("tensors must be dense",)),
    Case(
        "unknown tensors",
        with_tensor(x=torch.zeros(3)),
        TRAIN,
        ("the weights", "w.pth do not fit the backbone", "unknown: x"),
    ),
    Case(
        "control in a tensor's name",
        with_tensor(**{"a\x1b[2J\nb": torch.zeros(3)}),
        TRAIN,
        ("do not fit", "a\\x1b[2J\\nb"),
    ),
    Case(
        "wrong shape",
        lambda r: saved(r, {**state(), "conv1.weight": torch.zeros(2, 3, 3, 3)}),
        TRAIN,
        ("do not fit", "of another shape: conv1.weight (2, 3, 3, 3)"),
    ),
    Case("no tensors", pickled({}), TRAIN, ("do not fit", "missing: ")),
    Case(
        "NaN weights",
        lambda r: saved(r, nan(state())),
        TRAIN,
        ("w.pth: 1 of", "NaN or infinite values: conv1.weight", "take the weights of a run"),
    ),
    Case("infinite weights", lambda r: saved(r, nan(state(), float("inf"))), TRAIN, ("NaN or infinite values",)),
    Case("truncated", damaged(lambda raw: raw[:-40]), TRAIN, DAMAGED),
    Case("one bit flipped", damaged(flipped), TRAIN, DAMAGED),
    Case("truncated, without JSON", alone(lambda raw: raw[:-40]), TRAIN, ("not a .safetensors file",)),
    Case("empty weights", alone(lambda _: b""), TRAIN, ("not a .safetensors file",)),
    Case("header of 2^63 bytes", alone(header_of(2**63)), TRAIN, ("not a .safetensors file",)),
    Case("header of a gigabyte", alone(header_of(2**30)), TRAIN, ("not a .safetensors file",)),
    Case(
        "header that is no JSON",
        alone(lambda raw: raw[:8] + b"\xff" * 40 + raw[48:]),
        TRAIN,
        ("not a .safetensors file",),
    ),
    Case(
        "pickle by the name of safetensors",
        lambda r: saved(r, RunsCode(), "w.safetensors"),
        TRAIN,
        ("not a .safetensors file",),
    ),
    Case("weights that are a folder", instead(Path.mkdir), TRAIN, ("w.safetensors: cannot be read (Is a directory)",)),
    Case(
        "weights that are a pipe",
        instead(os.mkfifo),
        TRAIN,
        ("w.safetensors: cannot be read (a pipe", "must name a file"),
    ),
    Case("weights without end", instead(lambda f: f.symlink_to("/dev/zero")), TRAIN, ("a pipe, socket or device",)),
    Case("weights that are a link to itself", instead(lambda f: f.symlink_to(f.name)), TRAIN, ("Too many levels",)),
    Case("weights that are not there", lambda r: use(r, "no.pth"), TRAIN, ("no.pth: cannot be read (No such file",)),
    Case(
        "weights with a long name",
        lambda r: use(r, "x" * 5000 + ".pth"),
        TRAIN,
        ("cannot be read (File name too long)",),
    ),
    Case("weights with control in the name", lambda r: recipe(r, backbone__weights="a\x1b.pth"), TRAIN, ("\\x1b",)),
]
AS_CHECKPOINT = [
    Case("newer schema", about(schema=SCHEMA + 1), PREDICT, ("w.json: schema 2 is newer", "upgrade fttune")),
    Case("newer schema, as weights", about(schema=SCHEMA + 1), TRAIN, ("w.json: schema 2 is newer", "upgrade fttune")),
    Case("schema that is no number", about(schema="x"), PREDICT, ("w.json: damaged",)),
    Case("JSON cut", sidecar(b'{"schema": 1, "sha'), PREDICT, ("w.json: damaged", "put back the file")),
    Case("JSON that is no text", sidecar(b"\xff\xfe"), PREDICT, ("w.json: damaged",)),
    Case("JSON nested deep", sidecar(b"[" * 100_000), PREDICT, ("w.json: damaged",)),
    Case("JSON that is a pipe", instead(os.mkfifo, ".json"), PREDICT, ("w.json: damaged", "a pipe")),
    Case("JSON that is a pipe, as weights", instead(os.mkfifo, ".json"), TRAIN, ("w.json: damaged", "a pipe")),
    Case("JSON that is a folder", instead(Path.mkdir, ".json"), PREDICT, ("w.json: damaged", "Is a directory")),
    Case("no JSON", instead(lambda _: None, ".json"), PREDICT, ("there is no w.json beside it", "keep both files")),
    Case("sha256 that is none", about(sha256=7), PREDICT, ("w.json: damaged: sha256 must be text, got 7",)),
    Case("classes that are none", about(classes="abc"), PREDICT, ("classes must be a list of names",)),
    Case("classes twice", about(classes=["a", "a", "b"]), PREDICT, ("a list of different names",)),
    Case("more classes than the head", about(classes=list("abcde")), PREDICT, ("its head is not for the 5 classes",)),
    Case(
        "crop of a gigapixel", about(preprocessing__crop=10**9), PREDICT, ("preprocessing.crop must be a whole number",)
    ),
    Case("crop of nothing", about(preprocessing__crop=0), TRAIN, ("preprocessing.crop must be",)),
    Case(
        "interpolation that is none",
        about(preprocessing__interpolation=["x"]),
        PREDICT,
        ("preprocessing.interpolation",),
    ),
    Case("std of 0", about(preprocessing__std=[0, 1, 1]), TRAIN, ("preprocessing.std must be three finite",)),
    Case("mean of NaN", about(preprocessing__mean=[float("nan"), 0, 0]), PREDICT, ("preprocessing.mean must be",)),
    Case("no backbone", about(experiment={}), PREDICT, ("experiment.backbone.name missing",)),
    Case(
        "backbone that is none",
        about(experiment__backbone__name="os.system"),
        PREDICT,
        ("its backbone os.system cannot",),
    ),
    Case("backbone of a plugin", about(experiment__backbone__name="plugin:evil"), PREDICT, ("needs the plugin",)),
    Case("backbone with control", about(experiment__backbone__name="a\x1b[2J"), PREDICT, ("a\\x1b[2J",)),
    Case(
        "another backbone",
        about(experiment__backbone__name="resnet18"),
        PREDICT,
        ("do not fit the backbone", "missing:"),
    ),
    Case("flipped bit to predict", damaged(flipped), PREDICT, DAMAGED),
    Case("checkpoint that is a pipe", instead(os.mkfifo), PREDICT, ("w.safetensors: cannot be read (a pipe",)),
    Case(
        "images that are not there",
        checkpoint,
        ("predict", "w.safetensors", "a\x1bb.png"),
        ("a\\x1bb.png: no such file",),
    ),
    Case(
        "image that is a pipe",
        lambda r: (checkpoint(r), os.mkfifo(r / "pipe.png")),
        ("predict", "w.safetensors", "pipe.png"),
        ("1 of 1 images cannot be read",),
        1,
    ),
]
