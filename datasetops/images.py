"""What an image file is, from its bytes: size and type from the header, and whether all of it can be decoded."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from typing import Final

from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

PIXEL_LIMIT: Final = 178_956_970  # what Pillow itself refuses as a decompression bomb: 0.5 GB as RGB
# Named, since others that Pillow knows start programs (EPS) or have no mark to tell them from noise (TGA).
_FORMATS: Final = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")
_MEDIA_TYPES: Final = {"MPO": "image/jpeg", "PPM": "image/x-portable-pixmap"}
_ORIENTATION: Final = 0x0112  # EXIF tag


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """`width` and `height` are as stored; `orientation` is EXIF's, 1 to 8: from 5 on viewers swap the two."""

    width: int
    height: int
    media_type: str
    orientation: int | None


class ImageError(Exception):
    """An image that cannot be used; the message says why, in a few words."""


def read_header(data: bytes) -> ImageHeader:
    """Size and type without decoding; the first part of a file is enough for most. Raises ImageError."""
    with _reasons(data):
        image = opened(data)
        return _header(image)


def check_image(data: bytes) -> ImageHeader:
    """Decodes the whole image. Raises ImageError if it is empty, no image, truncated, damaged or too large."""
    with _reasons(data):
        image = opened(data)
        header = _header(image)
        # At an eighth of the size JPEG reads every byte all the same, in half the time.
        image.draft(image.mode, (1, 1))
        image.load()
        return header


@contextmanager
def quiet_decoding() -> Iterator[None]:
    """Keeps Pillow's warnings about odd files to itself. For the whole process: enter it once, around all threads."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def opened(data: bytes) -> ImageFile.ImageFile:
    """One of the known types, its header read and nothing decoded; with Pillow's own errors."""
    return Image.open(BytesIO(data), formats=_known_formats())


@cache
def _known_formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)  # AVIF is not in every build of Pillow


def _header(image: Image.Image) -> ImageHeader:
    width, height = image.size
    if width * height > PIXEL_LIMIT:
        raise Image.DecompressionBombError(f"{width} x {height} pixels are over the limit of {PIXEL_LIMIT:,}")
    kind = image.format or ""
    return ImageHeader(width, height, _MEDIA_TYPES.get(kind) or Image.MIME[kind], _orientation(image))


def _orientation(image: Image.Image) -> int | None:
    try:
        value = image.getexif().get(_ORIENTATION)
    except Exception:  # damaged EXIF data; the picture itself may be sound
        return None
    return value if isinstance(value, int) and 1 <= value <= 8 else None


@contextmanager
def _reasons(data: bytes) -> Iterator[None]:
    """Pillow's many errors, among them plain SyntaxError and struct.error, as an ImageError."""
    if not data:
        raise ImageError("empty file")
    try:
        yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"decompression bomb: {error}") from error
    except UnidentifiedImageError as error:
        raise ImageError("unreadable: no image of a known type, or cut off in its header") from error
    except MemoryError as error:
        raise ImageError("too large for this machine's memory") from error
    except Exception as error:
        kind = "truncated" if "truncated" in str(error) or isinstance(error, EOFError) else "unreadable"
        raise ImageError(f"{kind}: {error or type(error).__name__}") from error


def decode_rgb(data: bytes, *, at_least: int | None = None) -> Image.Image:
    """The picture as viewers show it: RGB, EXIF orientation applied. Raises ImageError.

    With `at_least`, a JPEG may be decoded at a reduced size whose sides are not below that many pixels: much faster.
    """
    with _reasons(data):
        image = opened(data)
        _header(image)
        if at_least is not None:
            image.draft("RGB", (at_least, at_least))
        return ImageOps.exif_transpose(image).convert("RGB")
