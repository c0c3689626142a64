"""From an image file to a square of pixels, or the reason why it cannot be one. Knows no labels and no cache."""

import hashlib
import io
import os
import stat
import struct
import warnings
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

from fttune.data.image_data import Geometry, Pixels
from fttune.data.listing import ImageSource

T = TypeVar("T")
U = TypeVar("U")
Kind = Literal["empty", "special", "large", "foreign", "broken"]
MAX_PIXELS = 2**28  # of a strip that was resized
MAX_IMAGE_PIXELS = 89_478_485  # Pillow's own limit: 256 MiB of RGB
MAX_FILE_BYTES = 2**30
# What Pillow's plugins raise on broken files, beyond OSError.
BROKEN = (
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
    """Why an image cannot be used: in words, and as a kind (empty, no regular file, too large, no image, broken)."""

    reason: str
    kind: Kind = field(default="broken", compare=False)


@dataclass(frozen=True)
class Header:
    """What is known of an image file without its pixels: width and height as they are stored, sha256 in hex."""

    size: tuple[int, int]
    sha256: str


def header(file: Path) -> Header | Unreadable:
    """Return the header of a file, or why `decode` could not read it; a JPEG is decoded at an eighth of its size."""
    try:
        if unfit := unfit_file(file):
            return unfit
        raw = file.read_bytes()
        with Image.open(io.BytesIO(raw)) as image:
            size = image.size
            if unfit := unfit_size(image):
                return unfit
            image.draft(None, (max(1, size[0] // 8), max(1, size[1] // 8)))
            image.load()
            if isinstance(rgb := to_rgb(image), Unreadable):
                return rgb
        return Header(size, hashlib.sha256(raw).hexdigest())
    except BROKEN as error:
        return unreadable(error)


def content_hash(source: ImageSource) -> str | Unreadable:
    """Return the sha256 of a file's bytes, or of the mode, size and pixels of an image that is no file, as hex."""
    try:
        if isinstance(source, Path):
            if unfit := unfit_file(source):
                return unfit
            with source.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        with source() as image:
            if file_name := getattr(image, "filename", ""):
                return content_hash(Path(file_name))
            digest = hashlib.sha256(f"{image.mode} {image.size}:".encode())
            digest.update(image.tobytes())
        return digest.hexdigest()
    except BROKEN as error:
        return unreadable(error)


def decode(source: ImageSource, geometry: Geometry, side: int) -> Pixels | Unreadable:
    """Return the image turned upright, in RGB, resized, and its central (side, side, 3) uint8.

    Bit-identical to torchvision's `Resize` and `CenterCrop` on `image.convert("RGB")`; 16-bit greyscale is
    scaled to 8 bits instead of clipped.

    Raises:
        OSError: the file, which has been hashed before, cannot be read any more.
    """
    # Read outside of the try: a disk that fails now is not a broken image, and must not be remembered as one.
    if isinstance(source, Path) and (unfit := unfit_file(source)):
        return unfit
    raw = source.read_bytes() if isinstance(source, Path) else source()
    try:
        with Image.open(io.BytesIO(raw)) if isinstance(raw, bytes) else raw as image:
            rgb = unfit_size(image) or to_rgb(ImageOps.exif_transpose(image))
        if isinstance(rgb, Unreadable):
            return rgb
        if unfit := unfit_strip(rgb.size, geometry.resize):
            return unfit
        resized = F.resize(rgb, [geometry.resize], InterpolationMode(geometry.interpolation), antialias=True)
        return np.asarray(F.center_crop(resized, [side, side]))
    except BROKEN as error:
        return unreadable(error)


def unfit_file(file: Path) -> Unreadable | None:
    """Return why a file must not be opened, None when it may: a pipe waits for ever, and a device has no end.

    Raises:
        OSError: there is no such file.
    """
    found = file.stat()
    if not stat.S_ISREG(found.st_mode):
        return Unreadable("not a regular file, but a folder, pipe, socket or device", "special")
    if found.st_size == 0:
        return Unreadable("the file is empty", "empty")
    if found.st_size > MAX_FILE_BYTES:
        return Unreadable(f"a file of {found.st_size:,} bytes, and no image may have more than 1 GiB", "large")
    return None


def unfit_size(image: Image.Image) -> Unreadable | None:
    """Return why an image that is not decoded yet must not be, None when it may."""
    if image.width * image.height <= MAX_IMAGE_PIXELS:
        return None
    limit = f"more than {MAX_IMAGE_PIXELS:,} pixels in all"
    return Unreadable(f"{image.width} x {image.height} pixels are {limit}; make it smaller", "large")


def unfit_strip(size: tuple[int, int], resize: int) -> Unreadable | None:
    """Return why an image cannot be resized to a shorter side of `resize` pixels, None when it can."""
    if max(size) * resize**2 <= MAX_PIXELS * min(size):
        return None
    return Unreadable(f"a strip of {size[0]} x {size[1]} pixels is too long to resize", "large")


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


def to_rgb(image: Image.Image) -> Image.Image | Unreadable:
    """Return an image in RGB with 8 bits, greyscale of 16 bits scaled, or why there is none."""
    if image.mode == "F":
        return Unreadable("its pixels are floats without a range; save it with 8 or 16 bits")
    if image.mode.partition(";")[0] != "I":
        return image.convert("RGB")
    values = np.asarray(image)  # (H, W), any integer type
    if values.min() < 0 or values.max() > 65535:
        return Unreadable("its pixels are integers beyond 16 bits; save it with 8 or 16 bits")
    return Image.fromarray(np.rint(values / 257).astype(np.uint8)).convert("RGB")


def unreadable(error: BaseException) -> Unreadable:
    """Return what Pillow, or the system, had against a file."""
    if isinstance(error, UnidentifiedImageError):
        return Unreadable("not an image, whatever its name says", "foreign")
    if isinstance(error, Image.DecompressionBombError):
        return Unreadable(f"its header says more than {2 * MAX_IMAGE_PIXELS:,} pixels; make it smaller", "large")
    if isinstance(error, OSError) and error.strerror:
        return Unreadable(error.strerror)
    return Unreadable(str(error) or type(error).__name__)
