"""All that one look at an image file tells: it is decoded as a whole, once. Decides nothing."""

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

from fttune.data.images import BROKEN, Header, Unreadable, to_rgb, unfit_file, unfit_size, unreadable
from fttune.data.near import Likeness, likeness

_SAME = {"MPO": "JPEG"}  # a JPEG of several pictures, as phones write them
_TIFF_BITS = 258


@dataclass(frozen=True)
class Facts:
    """What is known of an image file.

    `header` has its size as stored, `format` and `mode` are Pillow's names, `bits` those of a channel, `orientation`
    is EXIF's (1 is upright), `frames` counts the pictures in it, `transparent` says whether it has such pixels.
    """

    header: Header
    format: str
    mode: str
    bits: int
    orientation: int
    frames: int
    transparent: bool
    likeness: Likeness | None


def look_at(file: Path) -> Facts | Unreadable:
    """Decode a file as a whole and return what is known of it, or why it cannot be used."""
    try:
        if unfit := unfit_file(file):
            return unfit
        raw = file.read_bytes()
        with Image.open(io.BytesIO(raw)) as image:
            if unfit := unfit_size(image):
                return unfit
            size, kind, bits = image.size, str(image.format), _bits(image, raw)
            frames = getattr(image, "n_frames", 1)
            upright = ImageOps.exif_transpose(image)
            rgb = to_rgb(upright)
            orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
            transparent = image.has_transparency_data and _lowest_alpha(image) < 255
            mode = image.mode
        if isinstance(rgb, Unreadable):
            return rgb
        header = Header(size, hashlib.sha256(raw).hexdigest())
        turned = orientation if isinstance(orientation, int) and orientation in range(1, 9) else 1
        return Facts(header, kind, mode, bits, turned, frames, transparent, likeness(rgb))
    except BROKEN as error:
        return unreadable(error)


def named_format(file: Path) -> str | None:
    """Return the format that a file's extension promises."""
    return Image.registered_extensions().get(file.suffix.lower())


def same_format(first: str, second: str) -> bool:
    """Return whether two of Pillow's formats are one for whoever names a file."""
    return _SAME.get(first, first) == _SAME.get(second, second)


def _bits(image: Image.Image, raw: bytes) -> int:
    """Return the bits of a channel as stored: Pillow itself cuts a PNG with 16 bits and colours to 8."""
    if image.format == "PNG":
        return raw[24]  # of the header, which comes first
    if image.format == "TIFF":
        return max(map(int, image.tag_v2.get(_TIFF_BITS, (1,))))  # type: ignore[attr-defined]
    return 16 if image.mode.startswith("I") else 8


def _lowest_alpha(image: Image.Image) -> int:
    return int(np.asarray(image.convert("RGBA"))[..., 3].min())
