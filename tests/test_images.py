from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from datasetops.images import PIXEL_LIMIT, ImageError, check_image, quiet_decoding, read_header


def encoded(kind: str, size: tuple[int, int] = (60, 40), **options: object) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    head = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return head + struct.pack(">I", 1000) + b"IDAT" + b"\x00" * 50


@pytest.mark.parametrize(
    ("kind", "media_type"),
    [
        ("JPEG", "image/jpeg"),
        ("PNG", "image/png"),
        ("WEBP", "image/webp"),
        ("GIF", "image/gif"),
        ("BMP", "image/bmp"),
        ("TIFF", "image/tiff"),
        ("PPM", "image/x-portable-pixmap"),
    ],
)
def test_sound_images(kind: str, media_type: str) -> None:
    header = check_image(encoded(kind))
    assert (header.width, header.height, header.media_type, header.orientation) == (60, 40, media_type, None)
    assert read_header(encoded(kind)) == header


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_truncated_images(kind: str, share: float) -> None:
    data = encoded(kind, (200, 200))
    with pytest.raises(ImageError, match=r"truncated|unreadable"), quiet_decoding():
        check_image(data[: int(len(data) * share)])


def test_progressive_jpeg_that_lacks_its_end() -> None:
    data = encoded("JPEG", (200, 200), progressive=True)
    with pytest.raises(ImageError, match="truncated"):
        check_image(data[: len(data) * 2 // 3])


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "empty file"),
        (b"hello", "no image of a known type"),
        (b"\x00" * 5000, "no image of a known type"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "no image of a known type"),
        (png_header(100_000, 100_000), "decompression bomb"),
        (png_header(20_000, 9_000), "decompression bomb"),
    ],
)
def test_what_is_no_usable_image(data: bytes, text: str) -> None:
    with pytest.raises(ImageError, match=text), quiet_decoding():
        check_image(data)


@pytest.mark.slow
def test_large_images_below_the_limit_are_read() -> None:
    header = (13_000, 13_000)
    assert header[0] * header[1] < PIXEL_LIMIT
    with quiet_decoding():
        assert read_header(png_header(*header)).width == 13_000


def test_size_is_that_of_the_file_before_it_is_turned() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    header = check_image(encoded("JPEG", exif=exif))
    assert (header.width, header.height, header.orientation) == (60, 40, 6)


def test_damaged_exif_does_no_harm() -> None:
    with quiet_decoding():
        header = check_image(encoded("JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff broken"))
    assert header.orientation is None
