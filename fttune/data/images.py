"""From an image file to a square of pixels, or the reason why it cannot be one. Knows no labels and no cache."""

import hashlib
import io
import os
import struct
import warnings
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

from fttune.data.image_data import Geometry, Pixels
from fttune.data.listing import ImageSource

T = TypeVar("T")
U = TypeVar("U")
MAX_PIXELS = 2**28
# What Pillow's plugins raise on broken files, beyond OSError.
_BROKEN = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    TypeError,
    LookupError,
    ArithmeticError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


@dataclass(frozen=True)
class Unreadable:
    """Why an image cannot be used."""

    reason: str


@dataclass(frozen=True)
class Header:
    """What is known of an image file without its pixels: width and height as they are stored, sha256 in hex."""

    size: tuple[int, int]
    sha256: str


def header(file: Path) -> Header | Unreadable:
    """Return the header of a file, or why `decode` could not read it; a JPEG is decoded at an eighth of its size."""
    try:
        if not (raw := file.read_bytes()):
            return Unreadable("the file is empty")
        with Image.open(io.BytesIO(raw)) as image:
            size = image.size
            image.draft(None, (max(1, size[0] // 8), max(1, size[1] // 8)))
            image.load()
            if isinstance(rgb := _rgb(image), Unreadable):
                return rgb
        return Header(size, hashlib.sha256(raw).hexdigest())
    except _BROKEN as error:
        return Unreadable(_reason(error))


def content_hash(source: ImageSource) -> str | Unreadable:
    """Return the sha256 of a file's bytes, or of the mode, size and pixels of an image that is no file, as hex."""
    try:
        if isinstance(source, Path):
            with source.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        with source() as image:
            if file_name := getattr(image, "filename", ""):
                return content_hash(Path(file_name))
            digest = hashlib.sha256(f"{image.mode} {image.size}:".encode())
            digest.update(image.tobytes())
        return digest.hexdigest()
    except _BROKEN as error:
        return Unreadable(_reason(error))


def decode(source: ImageSource, geometry: Geometry, side: int) -> Pixels | Unreadable:
    """Return the image turned upright, in RGB, resized, and its central (side, side, 3) uint8.

    Bit-identical to torchvision's `Resize` and `CenterCrop` on `image.convert("RGB")`; 16-bit greyscale is
    scaled to 8 bits instead of clipped.

    Raises:
        OSError: the file, which has been hashed before, cannot be read any more.
    """
    # Read outside of the try: a disk that fails now is not a broken image, and must not be remembered as one.
    raw = source.read_bytes() if isinstance(source, Path) else source()
    if raw == b"":
        return Unreadable("the file is empty")
    try:
        with Image.open(io.BytesIO(raw)) if isinstance(raw, bytes) else raw as image:
            rgb = _rgb(ImageOps.exif_transpose(image))
        if isinstance(rgb, Unreadable):
            return rgb
        if max(rgb.size) * geometry.resize**2 > MAX_PIXELS * min(rgb.size):
            return Unreadable(f"a strip of {rgb.width} x {rgb.height} pixels is too long to resize")
        resized = F.resize(rgb, [geometry.resize], InterpolationMode(geometry.interpolation), antialias=True)
        return np.asarray(F.center_crop(resized, [side, side]))
    except _BROKEN as error:
        return Unreadable(_reason(error))


@contextmanager
def decoder_threads() -> Iterator[Executor]:
    """Open a thread pool in which Pillow's remarks about odd files are not shown.

    Warning filters belong to the process, so they are set around the pool and not in its threads.
    """
    with warnings.catch_warnings(), ThreadPoolExecutor(min(32, (os.cpu_count() or 1) + 1)) as pool:
        warnings.simplefilter("ignore")
        yield pool


def in_order(pool: Executor, function: Callable[[T], U], items: Iterable[T], *, ahead: int = 64) -> Iterator[U]:
    """Yield `function(item)` in the order of `items`, at most `ahead` of them before they are asked for."""
    pending: deque[Future[U]] = deque()
    for item in items:
        pending.append(pool.submit(function, item))
        if len(pending) >= ahead:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def _rgb(image: Image.Image) -> Image.Image | Unreadable:
    if image.mode == "F":
        return Unreadable("its pixels are floats without a range; save it with 8 or 16 bits")
    if image.mode.partition(";")[0] != "I":
        return image.convert("RGB")
    values = np.asarray(image)  # (H, W), any integer type
    if values.min() < 0 or values.max() > 65535:
        return Unreadable("its pixels are integers beyond 16 bits; save it with 8 or 16 bits")
    return Image.fromarray(np.rint(values / 257).astype(np.uint8)).convert("RGB")


def _reason(error: BaseException) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image, whatever its name says"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
