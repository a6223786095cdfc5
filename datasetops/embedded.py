"""What an image file says beside its pixels of where and by whom it was taken, and the same file without that.

Looked for in EXIF, XMP, IPTC and the texts of PNG. Tags are those of Exif 3.0, the XMP specification and IPTC-IIM 4.2.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Final

from PIL import ExifTags, Image, ImageFile, IptcImagePlugin

from datasetops.images import ImageError, opened, read_header

POSITION, PERSON, DEVICE = "position", "person", "device"
KINDS: Final = (POSITION, PERSON, DEVICE)
_TAGS: Final = {
    ExifTags.Base.Artist: PERSON,
    ExifTags.Base.XPAuthor: PERSON,
    ExifTags.Base.CameraOwnerName: PERSON,
    ExifTags.Base.HostComputer: DEVICE,
    ExifTags.Base.BodySerialNumber: DEVICE,
    ExifTags.Base.LensSerialNumber: DEVICE,
    ExifTags.Base.CameraSerialNumber: DEVICE,
}
_PLACES: Final = frozenset(range(1, 32)) - {0x12, 0x1D}  # of the GPS directory: all but its map datum and its date
_XMP: Final = {
    POSITION: re.compile(rb"(?:GPSLatitude|GPSLongitude|Iptc4xmpCore:Location|photoshop:City)[=>\s]"),
    PERSON: re.compile(rb"(?:dc:creator|aux:OwnerName|exifEX:CameraOwnerName|xmpRights:Owner)[=>\s]"),
    DEVICE: re.compile(rb"(?:aux:SerialNumber|aux:LensSerialNumber|exifEX:BodySerialNumber)[=>\s]"),
}
_IPTC: Final = {(2, 80): PERSON, (2, 90): POSITION, (2, 92): POSITION}  # by-line, city, place within it
_TEXTS: Final = {"author": PERSON, "artist": PERSON}  # keywords of PNG, in small letters
_ICC, _MINIMAL_EXIF = b"ICC_PROFILE\x00", b"Exif\x00\x00"
_NOTHING: Final = ()  # no bytes start with any of these
_PNG_START: Final = b"\x89PNG\r\n\x1a\n"
_PNG_DROPPED: Final = (b"eXIf", b"tEXt", b"zTXt", b"iTXt", b"tIME")
_STANDALONE: Final = (*range(0xD0, 0xD8), 0x01)  # JPEG markers without a length


def beside_pixels(data: bytes) -> str:
    """Which of KINDS an image file tells, with ", " between; damaged directories count as far as they can be read."""
    found: set[str] = set()
    with suppress(Exception), opened(data) as image:
        for reader in (_in_exif, _in_texts, _in_iptc):
            with suppress(Exception):  # Pillow's many errors for damaged directories; the picture itself may be sound
                found |= set(reader(image))
    return ", ".join(kind for kind in KINDS if kind in found)


def _in_exif(image: ImageFile.ImageFile) -> Iterator[str]:
    exif = image.getexif()
    if not exif:
        return
    for directory in (exif, exif.get_ifd(ExifTags.IFD.Exif)):
        yield from (kind for tag, kind in _TAGS.items() if _filled(directory.get(tag)))
    if any(tag in _PLACES and _filled(value) for tag, value in exif.get_ifd(ExifTags.IFD.GPSInfo).items()):
        yield POSITION


def _in_texts(image: ImageFile.ImageFile) -> Iterator[str]:
    for name, value in image.info.items():
        if str(name).lower() in ("xmp", "xml:com.adobe.xmp"):
            packet = value if isinstance(value, bytes) else str(value).encode()
            yield from (kind for kind, pattern in _XMP.items() if pattern.search(packet))
        elif str(name).lower() in _TEXTS and image.format == "PNG" and _filled(value):
            yield _TEXTS[str(name).lower()]


def _in_iptc(image: ImageFile.ImageFile) -> Iterator[str]:
    records: Any = IptcImagePlugin.getiptcinfo(image) if image.format in ("JPEG", "MPO", "TIFF") else None
    yield from (kind for key, kind in _IPTC.items() if _filled((records or {}).get(key)))


def _filled(value: Any) -> bool:
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    return bool(str(value).strip(" \x00")) if value is not None else False


def without_metadata(data: bytes) -> bytes:
    """The same pixels, bit for bit, without EXIF, XMP, IPTC, comments, previews and what follows the picture.

    Orientation and colour profile stay. JPEG, PNG and WebP; raises ImageError for other types and broken files.
    """
    header = read_header(data)
    write = STRIPPED.get(header.media_type)
    if write is None:
        raise ImageError(f"{header.media_type} cannot be written without its metadata: make it PNG, JPEG or WebP")
    exif = b""
    if header.orientation not in (None, 1):
        only = Image.Exif()
        only[ExifTags.Base.Orientation] = header.orientation
        exif = only.tobytes()
    try:
        return write(data, exif)
    except (struct.error, IndexError) as error:
        raise ImageError("broken: its parts are not as long as they say") from error


def _jpeg(data: bytes, exif: bytes) -> bytes:
    out = [data[:2]]
    if exif:
        out.append(struct.pack(">BBH", 0xFF, 0xE1, len(exif) + 2) + exif)
    at = 2
    while True:
        while data[at + 1] == 0xFF:  # fill bytes
            at += 1
        marker = data[at + 1]
        if marker == 0xD9:
            return b"".join([*out, data[at : at + 2]])
        end = at + 2 if marker in _STANDALONE else at + 2 + int(struct.unpack_from(">H", data, at + 2)[0])
        if marker == 0xDA:
            end = _scan_end(data, end)
        if _stays(marker, data[at + 4 : end]):
            out.append(data[at:end])
        at = end


def _stays(marker: int, content: bytes) -> bool:
    """Of application segments JFIF, a colour profile and Adobe's colour transform; no comment; all that is picture."""
    if 0xE0 <= marker <= 0xEF:
        return content.startswith({0xE0: b"JFIF\x00", 0xE2: _ICC, 0xEE: b"Adobe"}.get(marker, _NOTHING))
    return marker != 0xFE


def _scan_end(data: bytes, at: int) -> int:
    """Where the next marker stands behind a scan's coded pixels."""
    while True:
        at = data.find(b"\xff", at)
        if at < 0 or at + 1 >= len(data):
            raise IndexError(at)
        if data[at + 1] not in (0x00, *_STANDALONE[:-1]):
            return at
        at += 2


def _png(data: bytes, exif: bytes) -> bytes:
    out, at = [_PNG_START], len(_PNG_START)
    while True:
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if kind == b"IDAT" and exif:
            chunk = b"eXIf" + exif.removeprefix(_MINIMAL_EXIF)
            out.append(struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)))
            exif = b""
        if kind not in _PNG_DROPPED:
            out.append(data[at:end])
        if kind == b"IEND":
            return b"".join(out)
        at = end


def _webp(data: bytes, exif: bytes) -> bytes:
    size = int(struct.unpack_from("<I", data, 4)[0])
    parts, at = [], 12
    while at < 8 + size:
        kind, length = struct.unpack_from("<4sI", data, at)
        end = at + 8 + length + length % 2
        part = data[at:end]
        if kind == b"VP8X":
            flags = part[8] & ~0x0C | (0x08 if exif else 0)  # bits of EXIF and of XMP
            part = part[:8] + bytes([flags]) + part[9:]
        if kind not in (b"EXIF", b"XMP "):
            parts.append(part)
        at = end
    if exif:
        content = exif.removeprefix(_MINIMAL_EXIF)
        parts.append(struct.pack("<4sI", b"EXIF", len(content)) + content + b"\x00" * (len(content) % 2))
    body = b"".join(parts)
    return struct.pack("<4sI4s", b"RIFF", len(body) + 4, b"WEBP") + body


STRIPPED: Final[Mapping[str, Callable[[bytes, bytes], bytes]]] = {  # types of which that can be done
    "image/jpeg": _jpeg,
    "image/png": _png,
    "image/webp": _webp,
}
