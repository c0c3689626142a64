import hashlib
import io
import os
import struct
import zlib
from functools import partial

import numpy as np
import pytest
from PIL import Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from fttune.data import Geometry
from fttune.data.images import Unreadable, content_hash, decode, decoder_threads, in_order

GEOMETRY = Geometry(resize=14, image_size=12, interpolation="bilinear")


def reference(image: Image.Image, geometry: Geometry, side: int) -> np.ndarray:
    mode = InterpolationMode(geometry.interpolation)
    steps = [transforms.Resize(geometry.resize, mode, antialias=True), transforms.CenterCrop(side)]
    return np.asarray(transforms.Compose(steps)(image))


def gradient(width: int, height: int) -> np.ndarray:
    return np.linspace(0, 65535, width * height).reshape(height, width)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest", "lanczos"])
@pytest.mark.parametrize("size", [(40, 30), (31, 57), (9, 7), (14, 14)])
def test_a_jpeg_becomes_exactly_what_torchvision_makes_of_it(tmp_path, write_image, interpolation, size):
    path = write_image(tmp_path / "a.jpg", size=size)
    geometry = Geometry(14, 12, interpolation)
    plain = Image.open(path).convert("RGB")
    assert np.array_equal(decode(path, geometry, 12), reference(plain, geometry, 12))
    assert np.array_equal(decode(path, geometry, 14), reference(plain, geometry, 14))


@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        (2, Image.Transpose.FLIP_LEFT_RIGHT),
        (3, Image.Transpose.ROTATE_180),
        (6, Image.Transpose.ROTATE_270),
        (8, Image.Transpose.ROTATE_90),
    ],
)
def test_the_exif_orientation_is_applied(tmp_path, write_image, orientation, turn):
    upright = Image.open(write_image(tmp_path / "a.png", size=(33, 21)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright.save(tmp_path / "turned.png", exif=exif)
    expected = reference(upright.transpose(turn), GEOMETRY, 12)
    assert np.array_equal(decode(tmp_path / "turned.png", GEOMETRY, 12), expected)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_every_colour_mode_becomes_rgb_without_a_warning(tmp_path, write_image, mode):
    converted = Image.open(write_image(tmp_path / "a.png")).convert(mode)
    path = tmp_path / ("b.tif" if mode == "CMYK" else "b.png")
    converted.save(path)
    with decoder_threads() as pool:
        (pixels,) = in_order(pool, partial(decode, geometry=GEOMETRY, side=12), [path])
    assert np.array_equal(pixels, reference(converted.convert("RGB"), GEOMETRY, 12))


def test_a_palette_with_transparency_raises_no_warning(tmp_path):
    image = Image.new("P", (20, 20), 1)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.save(tmp_path / "a.png", transparency=b"\x00\x80")
    with pytest.warns(UserWarning, match="Transparency"):
        decode(tmp_path / "a.png", GEOMETRY, 12)
    with decoder_threads() as pool:
        (pixels,) = in_order(pool, partial(decode, geometry=GEOMETRY, side=12), [tmp_path / "a.png"])
    assert (pixels == [0, 0, 255]).all()


@pytest.mark.parametrize("dtype", ["<u2", ">u2", "<i4"])
def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path, dtype):
    values = gradient(12, 12).astype(dtype)
    path = tmp_path / "a.tif"
    Image.fromarray(values).save(path)
    pixels = decode(path, Geometry(12, 12, "nearest"), 12)
    with Image.open(path) as image:
        assert image.mode == {"<u2": "I;16", ">u2": "I;16B", "<i4": "I"}[dtype]
    assert np.abs(pixels[..., 0] - values / 257).max() <= 0.5
    assert np.array_equal(pixels[..., 0], pixels[..., 2])


def test_a_sixteen_bit_png_keeps_its_shades(tmp_path):
    Image.fromarray(gradient(12, 12).astype(np.uint16)).save(tmp_path / "a.png")
    pixels = decode(tmp_path / "a.png", Geometry(12, 12, "nearest"), 12)
    assert len(np.unique(pixels)) > 100 and pixels.min() == 0 and pixels.max() == 255


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (gradient(8, 8).astype(np.float32), "its pixels are floats without a range; save it with 8 or 16 bits"),
        (gradient(8, 8).astype(np.int32) * 2, "its pixels are integers beyond 16 bits; save it with 8 or 16 bits"),
    ],
)
def test_pixels_without_a_known_range_are_refused(tmp_path, values, reason):
    Image.fromarray(values).save(tmp_path / "a.tif")
    assert decode(tmp_path / "a.tif", GEOMETRY, 12) == Unreadable(reason)


def test_broken_files_have_a_reason(tmp_path, write_image):
    whole = write_image(tmp_path / "whole.jpg", size=(64, 64)).read_bytes()
    files = {"truncated": whole[: len(whole) // 2], "empty": b"", "text": b"this is no image" * 9}
    found = {}
    for name, content in files.items():
        (tmp_path / f"{name}.jpg").write_bytes(content)
        found[name] = decode(tmp_path / f"{name}.jpg", GEOMETRY, 12).reason
    assert found.pop("truncated").startswith("image file is truncated")
    assert found == {"empty": "the file is empty", "text": "not an image, whatever its name says"}


def test_a_broken_png_chunk_has_a_reason(tmp_path, write_image):
    content = bytearray(write_image(tmp_path / "a.png").read_bytes())
    content[20] ^= 0xFF
    (tmp_path / "a.png").write_bytes(content)
    assert isinstance(decode(tmp_path / "a.png", GEOMETRY, 12), Unreadable)


def test_images_that_would_fill_the_memory_are_refused(tmp_path, monkeypatch):
    Image.new("L", (60_000, 1)).save(tmp_path / "strip.png")
    strip = decode(tmp_path / "strip.png", Geometry(256, 224, "bilinear"), 224)
    assert strip == Unreadable("a strip of 60000 x 1 pixels is too long to resize")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert decode(tmp_path / "strip.png", GEOMETRY, 12).kind == "large", "Pillow itself refuses it"


def test_an_image_of_too_many_pixels_is_refused_by_its_header(tmp_path):
    side = 9_500  # 90,250,000 pixels, and in the file none
    data = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in ((b"IHDR", data), (b"IDAT", b""), (b"IEND", b""))
    )
    (tmp_path / "bomb.png").write_bytes(png)
    with decoder_threads() as pool:
        (found,) = in_order(pool, partial(decode, geometry=GEOMETRY, side=12), [tmp_path / "bomb.png"])
    assert found.reason == "9500 x 9500 pixels are more than 89,478,485 pixels in all; make it smaller"


def test_a_pipe_and_a_file_of_more_than_a_gibibyte_are_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with (tmp_path / "sparse.png").open("wb") as file:
        file.truncate(2**30 + 1)
    assert decode(tmp_path / "pipe.png", GEOMETRY, 12).kind == "special"
    assert content_hash(tmp_path / "pipe.png") == decode(tmp_path / "pipe.png", GEOMETRY, 12)
    assert decode(tmp_path / "sparse.png", GEOMETRY, 12).reason.startswith("a file of 1,073,741,825 bytes")


@pytest.mark.parametrize("seed", range(40))
def test_damaged_bytes_never_raise(tmp_path, write_image, seed):
    rng = np.random.default_rng(seed)
    suffix = ("jpg", "png", "tif", "bmp", "webp")[seed % 5]
    content = np.frombuffer(write_image(tmp_path / f"a.{suffix}").read_bytes(), dtype=np.uint8).copy()
    content[rng.integers(0, len(content), 8)] = rng.integers(0, 256, 8)
    (tmp_path / f"a.{suffix}").write_bytes(content.tobytes())
    with decoder_threads() as pool:
        (result,) = in_order(pool, partial(decode, geometry=GEOMETRY, side=12), [tmp_path / f"a.{suffix}"])
    assert isinstance(result, Unreadable) or result.shape == (12, 12, 3)


def test_a_file_that_vanished_is_no_broken_image(tmp_path):
    with pytest.raises(FileNotFoundError):
        decode(tmp_path / "gone.png", GEOMETRY, 12)


def test_the_content_hash_of_a_file_is_its_sha256(tmp_path, write_image):
    path = write_image(tmp_path / "a.png")
    assert content_hash(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    assert content_hash(tmp_path / "gone.png") == Unreadable("No such file or directory")


def test_the_content_hash_of_an_image_knows_its_shape():
    wide, tall = Image.new("L", (4, 2)), Image.new("L", (2, 4))
    assert content_hash(wide.copy) == content_hash(wide.copy) != content_hash(tall.copy)


def test_an_image_that_was_opened_from_a_file_is_hashed_as_the_file(tmp_path, write_image):
    path = write_image(tmp_path / "a.jpg")
    assert content_hash(lambda: Image.open(path)) == content_hash(path)


def test_an_image_that_cannot_be_made_has_a_reason_in_its_hash():
    broken = io.BytesIO(b"no image")
    assert content_hash(lambda: Image.open(broken)) == Unreadable("not an image, whatever its name says")

    def nameless() -> Image.Image:
        raise struct.error

    assert content_hash(nameless) == Unreadable("error")


def test_results_come_in_order_and_not_far_ahead():
    asked = []

    def items():
        for number in range(50):
            asked.append(number)
            yield number

    with decoder_threads() as pool:
        results = in_order(pool, lambda n: n * n, items(), ahead=4)
        assert next(results) == 0
        assert len(asked) <= 4
        assert list(results) == [n * n for n in range(1, 50)]
