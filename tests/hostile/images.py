"""Folders and tables of images that are broken, misleading, or lead elsewhere."""

import os
import shutil
import socket
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from tests.hostile.places import EXPERIMENT, STUDY, pets, picture, rows, table
from tests.hostile.running import Case

CHECK, CHECK_OWN = ("data", "check", "pets"), ("data", "check", EXPERIMENT)
TRAIN, SEARCH, PROBE = ("train", EXPERIMENT), ("search", STUDY), ("validate", EXPERIMENT, "--probe")


def png(side: int) -> bytes:
    """Return a PNG of side x side whose header is all that there is to it."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b""))
    body = (struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b)) for k, b in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def cat(name: str, content: bytes):
    """Add a file to the class cat."""
    return lambda root: (pets(root) / "cat" / name).write_bytes(content)


def put(make, place: str = "cat/x.png"):
    """Make something in the folder of images."""
    return lambda root: make(pets(root) / place)


def truncated(root: Path) -> None:
    file = picture(pets(root) / "cat" / "cut.jpg", (90, 90))
    file.write_bytes(file.read_bytes()[:900])


def saved(mode: str, name: str):
    """Add an image of another mode to the class cat."""

    def make(root: Path) -> None:
        whole = Image.open(picture(pets(root) / "cat" / "whole.png")).convert("RGB")
        whole.convert(mode).save(root / "pets" / "cat" / name)
        (root / "pets" / "cat" / "whole.png").unlink()

    return make


def sixteen(root: Path) -> None:
    values = np.arange(900, dtype=np.uint16).reshape(30, 30) * 70
    Image.fromarray(values).save(pets(root) / "cat" / "deep.png")


def rotated(root: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(pets(root) / "cat" / "turned.jpg", exif=exif)


def animated(root: Path) -> None:
    frames = [Image.new("RGB", (30, 30), (value, 9, 9)) for value in (0, 90, 180)]
    frames[0].save(pets(root) / "cat" / "film.webp", save_all=True, append_images=frames[1:])


def copied(source: str, target: str):
    def make(root: Path) -> None:
        top = pets(root)
        shutil.copy(top / source, top / target)

    return make


def split_folder(root: Path) -> Path:
    pets(root, "train/cat", "train/dog", "val/cat", "val/dog")
    return root / "pets"


def copies_across_splits(root: Path) -> None:
    top = split_folder(root)
    shutil.copy(top / "train/cat/0.png", top / "val/cat/copy.png")


def copies_in_a_split(root: Path) -> None:
    top = split_folder(root)
    shutil.copy(top / "train/cat/0.png", top / "train/cat/copy.png")


def near_copies(root: Path) -> None:
    top = split_folder(root)
    smooth = Image.fromarray(np.random.default_rng(7).integers(0, 256, (6, 6, 3), np.uint8)).resize((200, 150), 3)
    smooth.save(top / "train/cat/photo.png")
    smooth.resize((100, 75)).save(top / "val/dog/photo.jpg", quality=60)


def classes_of_val_differ(root: Path) -> None:
    pets(root, "train/cat", "train/dog", "val/cat", "val/bird")


def stray_beside_train(root: Path) -> None:
    picture(split_folder(root) / "other" / "x.png")


def stray_beside_near_splits(root: Path) -> None:
    pets(root, "training/cat", "training/dog", "validation/cat", "validation/dog", "stray")


def listen(file: Path) -> None:
    here = Path.cwd()
    os.chdir(file.parent)  # the path of a socket is short
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(file.name)
    os.chdir(here)


def outside(root: Path) -> None:
    picture(root / "elsewhere" / "x.png")
    (pets(root) / "cat" / "x.png").symlink_to(root / "elsewhere" / "x.png")


def class_outside(root: Path) -> None:
    picture(root / "elsewhere" / "x.png")
    (pets(root) / "bird").symlink_to(root / "elsewhere", target_is_directory=True)


def one_class(root: Path) -> None:
    pets(root, "cat")


def too_few(root: Path) -> None:
    top = pets(root)
    for index in range(1, 6):
        (top / "dog" / f"{index}.png").unlink()


def unlistable(root: Path) -> None:
    top = pets(root)
    shutil.rmtree(top)
    top.symlink_to("pets")


FINDINGS = [
    ("truncated", truncated, "broken", 2),
    ("empty file", cat("x.png", b""), "empty", 2),
    ("text as an image", cat("x.jpg", b"#!/bin/sh\nrm -rf /\n"), "no-image", 2),
    ("web page as an image", cat("x.png", b"<html>404</html>"), "no-image", 2),
    ("PNG as JPEG", put(lambda f: picture(f).rename(f.with_suffix(".jpg"))), "misnamed", 0),
    ("a bomb of 40 gigapixels", cat("x.png", png(200_000)), "oversized", 2),
    ("90 megapixels", cat("x.png", png(9_500)), "oversized", 2),
    ("one pixel", put(lambda f: picture(f, (1, 1))), "one-pixel", 2),
    ("three pixels", put(lambda f: picture(f, (3, 30))), "tiny", 0),
    ("a strip", put(lambda f: picture(f, (2_000_000, 1))), "oversized", 2),
    ("16 bits", sixteen, "16-bit", 0),
    ("CMYK", saved("CMYK", "x.jpg"), "cmyk", 0),
    ("palette", saved("P", "x.png"), "palette", 0),
    ("floats", saved("F", "x.tif"), "broken", 2),
    ("rotated", rotated, "rotated", 0),
    ("several pictures", animated, "several-pictures", 0),
    ("copies", copies_in_a_split, "copies", 0),
    ("copies in two classes", copied("cat/0.png", "dog/x.png"), "copies-across-classes", 2),
    ("copies in two splits", copies_across_splits, "copies-across-splits", 2),
    ("near copies in two splits", near_copies, "near-copies-across-splits", 0),
    ("near copies in two classes", near_copies, "near-copies-across-classes", 0),
    ("link to a folder that holds it", put(lambda f: f.symlink_to("."), "bird"), "link-loop", 2),
    ("link to a folder below a class", put(lambda f: f.symlink_to(".."), "cat/up"), "link-not-followed", 0),
    ("link to itself", put(lambda f: f.symlink_to(f.name)), "broken", 2),
    ("link to nothing", put(lambda f: f.symlink_to("nothing.png")), "broken", 2),
    ("link to an image elsewhere", outside, "link-outside", 0),
    ("class that is elsewhere", class_outside, "link-outside", 2),
    ("pipe", put(os.mkfifo), "special-file", 0),
    ("link to a device without end", put(lambda f: f.symlink_to("/dev/zero")), "special-file", 0),
    ("socket", put(listen), "special-file", 0),
    ("control in a name", cat("a\x1b[2Jb.png", b"x"), "name", 2),
    ("line feed in a name", put(picture, "cat/a\nb.png"), "name", 2),
    ("name that is not UTF-8", put(picture, "cat/a\udcff.png"), "name", 2),
    ("class that is not UTF-8", lambda r: pets(r, "cat", "dog\udcff"), "name", 2),
    ("class that turns the text", lambda r: pets(r, "cat", "dog\u202egnp"), "name", 2),
    ("checkpoints of a notebook", put(picture, "cat/.ipynb_checkpoints/0-checkpoint.png"), "hidden", 0),
    ("resource forks", put(picture, "__MACOSX/cat/0.png"), "hidden", 0),
    ("other files", cat("notes.txt", b"x"), "passed-over", 0),
    ("one class", one_class, "single-class", 2),
    ("a class of one", too_few, "tiny-class", 2),
    ("empty class", put(Path.mkdir, "bird"), "empty-class", 2),
    ("splits with other classes", classes_of_val_differ, "classes-differ", 2),
    ("a folder beside the splits", stray_beside_train, "layout", 2),
    ("a folder beside near splits", stray_beside_near_splits, "layout", 2),
    ("splits by other names", lambda r: pets(r, "training/cat", "validation/cat"), "layout", 2),
    ("class like a formula", lambda r: pets(r, "cat", "=1+1"), "formula", 0),
]
CHECKS = [Case(f"check: {name}", make, CHECK, (rule,), code, on="stdout") for name, make, rule, code in FINDINGS] + [
    Case("check: no such folder", Path.exists, ("data", "check", "nowhere"), ("nowhere", "must be a folder")),
    Case("check: a folder that is a link to itself", unlistable, CHECK, ("pets", "must be a folder")),
    Case("check: name too long", Path.exists, ("data", "check", "x" * 5000), ("must be a folder",)),
    Case("check: data that is no folder", Path.exists, CHECK_OWN, ("data.source is digits, but only folders",)),
    Case("check: the recipe's own split", too_few, CHECK_OWN, ("tiny-class", "dog (1)"), on="stdout"),
    Case(
        "check: a table",
        lambda r: table(r, rows() + "no.png,cat\n"),
        CHECK_OWN,
        ("row", "line 14: path no.png"),
        on="stdout",
    ),
]
REFUSED = [
    Case("train: truncated", truncated, TRAIN, ("1 images cannot be read", "repair or remove", "cat/cut.jpg")),
    Case(
        "search: truncated",
        lambda r: (truncated(r), whole_study(r)),
        SEARCH,
        ("1 images cannot be read", "cat/cut.jpg"),
    ),
    Case("train: empty", cat("x.png", b""), TRAIN, ("x.png: the file is empty",)),
    Case("train: a bomb", cat("x.png", png(200_000)), TRAIN, ("x.png: its header says more than", "make it smaller")),
    Case("probe: 90 megapixels", cat("x.png", png(9_500)), PROBE, ("9500 x 9500 pixels are more than", "smaller")),
    Case("train: floats", saved("F", "x.tif"), TRAIN, ("x.tif: its pixels are floats", "save it with 8 or 16 bits")),
    Case(
        "train: link to a folder that holds it",
        put(lambda f: f.symlink_to("."), "bird"),
        TRAIN,
        ("links to a folder which holds them: bird; remove",),
    ),
    Case("probe: link to itself", put(lambda f: f.symlink_to(f.name)), PROBE, ("x.png: Too many levels of symbolic",)),
    Case("train: control in a name", cat("a\x1b[2Jb.png", b"x"), TRAIN, ("a\\x1b[2Jb.png; rename",)),
    Case("train: name that is not UTF-8", put(picture, "cat/a\udcff.png"), TRAIN, ("cat/a\\udcff.png; rename",)),
    Case("train: one class", one_class, TRAIN, ("the data has 1 classes (cat), but a classifier needs two; add",)),
    Case("train: a class of one", too_few, TRAIN, ("classes with too few images: dog (1)", "add images")),
    Case("train: empty class", put(Path.mkdir, "bird"), TRAIN, ("has no image in bird", "fill or remove it")),
    Case(
        "train: splits with other classes",
        classes_of_val_differ,
        TRAIN,
        ("train has no images of bird, but val has", "val has no images of dog", "add images"),
    ),
    Case(
        "train: a folder beside the splits",
        stray_beside_train,
        TRAIN,
        ("has train/cat, as splits have, but also other",),
    ),
    Case("train: a folder beside near splits", stray_beside_near_splits, TRAIN, ("validation/cat, as splits have",)),
    Case(
        "train: a folder that is a link to itself",
        unlistable,
        TRAIN,
        ("data.path is", "but cannot be read (Too many levels", "correct it"),
    ),
    Case(
        "init: control in a name",
        cat("a\x1b[2Jb.png", b"x"),
        ("init", "pets", "--name", "new"),
        ("\\x1b[2Jb.png; rename",),
    ),
    Case("init: name that climbs", pets, ("init", "pets", "--name", "../../x"), ("--name: must be", "'../../x'")),
    Case("init: name with a line feed", pets, ("init", "pets", "--name", "a\nb"), ("--name: must be", "a\\nb")),
]


def whole_study(root: Path) -> None:
    """Search lr alone, which every image size allows."""
    from tests.recipes import write_study

    write_study(root)


def cells(text: str | bytes):
    return lambda root: table(root, text)


TABLES = [
    Case(
        "table: absolute path",
        cells(rows() + "/etc/passwd,cat\n"),
        TRAIN,
        ("line 14: path /etc/passwd must be relative",),
    ),
    Case(
        "table: path that climbs",
        cells(rows() + "../../x.png,cat\n"),
        TRAIN,
        ("line 14: path ../../x.png must be relative and without ..",),
    ),
    Case("table: path of a folder", cells(rows() + "cat,cat\n"), TRAIN, ("line 14: path cat is no file",)),
    Case(
        "table: path of a pipe",
        lambda r: (table(r, rows() + "pipe.png,cat\n"), os.mkfifo(r / "pets/pipe.png")),
        TRAIN,
        ("path pipe.png is no file",),
    ),
    Case(
        "table: path that stands twice",
        cells(rows() + "./cat//0.png,dog\n"),
        TRAIN,
        ("line 14: path ./cat//0.png stands twice",),
    ),
    Case("table: NUL", cells(rows().encode() + b"cat/0\x00.png,cat\n"), TRAIN, ("table.csv", "line 14")),
    Case(
        "table: escape sequence",
        cells(rows() + "cat/\x1b[2J.png,cat\n"),
        TRAIN,
        ("line 14: path", "\\x1b[2J", "control characters"),
    ),
    Case("table: label with a line feed", cells(rows().replace(",dog", ',"d\nog"', 1)), TRAIN, ("label is 'd\\nog'",)),
    Case("table: no columns", cells("a,b\n1,2\n"), TRAIN, ("has the columns a, b, but lacks path, label; add them",)),
    Case("table: control in a column", cells("pa\x1bth,label\nx,y\n"), TRAIN, ("pa\\x1bth", "lacks path")),
    Case(
        "table: cell of a million characters",
        cells(rows() + "x" * 1_000_000 + ",cat\n"),
        TRAIN,
        ("line 14: path", "at most 1000 characters"),
    ),
    Case("table: quote that never ends", cells(rows() + '"cat/0.png,cat\n' * 3), TRAIN, ("table.csv",)),
    Case("table: binary", cells(bytes(range(256)) * 9), TRAIN, ("table.csv cannot be read as CSV", "UTF-8 text")),
    Case("table: empty", cells(""), TRAIN, ("table.csv cannot be read as CSV",)),
    Case("table: header alone", cells("path,label\n"), TRAIN, ("the data has 0 classes",)),
    Case("table: empty label", cells(rows() + "cat/0.png,\n"), TRAIN, ("line 14: label is empty",)),
    Case(
        "table: pipe in its place",
        lambda r: (table(r, rows()).unlink(), os.mkfifo(r / "pets/table.csv")),
        TRAIN,
        ("source csv needs a file",),
    ),
    Case(
        "table: link to itself",
        lambda r: (table(r, rows()).unlink(), (r / "pets/table.csv").symlink_to("table.csv")),
        TRAIN,
        ("source csv needs a file",),
    ),
    Case(
        "check: label like a formula",
        cells(rows().replace(",dog", ',"=HYPERLINK(""x"")"')),
        CHECK_OWN,
        ("formula", "spreadsheets"),
        0,
        on="stdout",
    ),
]
