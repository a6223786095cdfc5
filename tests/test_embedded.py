"""What files say beside their pixels, and the same files without it."""

from __future__ import annotations

import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image, IptcImagePlugin, PngImagePlugin
from typer.testing import CliRunner

from datasetops.cli.main import app
from datasetops.embedded import beside_pixels, without_metadata
from datasetops.images import ImageError, decode_rgb

PACKET = b'<x:xmpmeta><rdf:Description exif:GPSLatitude="52,31N"/><dc:creator>Jo Doe</dc:creator></x:xmpmeta>'


def picture() -> Image.Image:
    pixels = np.random.default_rng(3).integers(0, 255, (24, 40, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def exif(*, place: bool = True, person: bool = True, orientation: int | None = 6) -> Image.Exif:
    made = Image.Exif()
    made[ExifTags.Base.Make] = "Maker"
    if orientation:
        made[ExifTags.Base.Orientation] = orientation
    if person:
        made[ExifTags.Base.Artist] = "Jo Doe"
        made.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.BodySerialNumber] = "A-4711"
    if place:
        made.get_ifd(ExifTags.IFD.GPSInfo).update({1: "N", 2: (52.0, 31.0, 12.0), 3: "E", 4: (13.0, 24.0, 18.0)})
    return made


def saved(kind: str, **options: Any) -> bytes:
    out = BytesIO()
    picture().save(out, kind, **options)
    return out.getvalue()


def with_texts() -> bytes:
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Author", "Jo Doe")
    texts.add_itxt("XML:com.adobe.xmp", PACKET.decode())
    return saved("PNG", pnginfo=texts, exif=exif(place=False, person=False))


FILES: dict[str, tuple[Callable[[], bytes], str]] = {
    "jpeg": (lambda: saved("JPEG", exif=exif(), comment=b"Jo Doe", icc_profile=b"profile"), "position, person, device"),
    "progressive": (lambda: saved("JPEG", exif=exif(person=False), progressive=True), "position"),
    "xmp": (lambda: saved("JPEG", xmp=PACKET), "position, person"),
    "more pictures": (
        lambda: saved("MPO", save_all=True, append_images=[picture()], exif=exif()),
        "position, person, device",
    ),
    "png": (lambda: saved("PNG", exif=exif()), "position, person, device"),
    "png texts": (with_texts, "position, person"),
    "webp": (lambda: saved("WEBP", exif=exif(), xmp=PACKET, lossless=True), "position, person, device"),
    "plain": (lambda: saved("JPEG"), ""),
    "camera only": (lambda: saved("JPEG", exif=exif(place=False, person=False)), ""),
}


@pytest.mark.parametrize("name", FILES)
def test_the_pixels_stay_and_nothing_else(name: str) -> None:
    make, told = FILES[name]
    data = make()
    assert beside_pixels(data) == told
    plain = without_metadata(data)
    assert beside_pixels(plain) == ""
    for word in (b"Jo Doe", b"4711", b"GPS", b"Maker", b"xmpmeta"):
        assert word not in plain
    before, after = decode_rgb(data), decode_rgb(plain)
    assert before.size == after.size
    assert before.tobytes() == after.tobytes()
    assert Image.open(BytesIO(plain)).info.get("icc_profile") == Image.open(BytesIO(data)).info.get("icc_profile")
    assert without_metadata(plain) == plain


def test_press_fields() -> None:
    record = b"\x1c\x02\x50" + (6).to_bytes(2, "big") + b"Jo Doe"
    block = b"8BIM\x04\x04\x00\x00" + len(record).to_bytes(4, "big") + record
    segment = b"\xff\xed" + (len(block) + 16).to_bytes(2, "big") + b"Photoshop 3.0\x00" + block
    data = saved("JPEG")
    data = data[:2] + segment + data[2:]
    assert IptcImagePlugin.getiptcinfo(Image.open(BytesIO(data)))  # type: ignore[arg-type]
    assert beside_pixels(data) == "person"
    assert beside_pixels(without_metadata(data)) == ""


def test_other_types_and_broken_files() -> None:
    with pytest.raises(ImageError, match="image/tiff cannot be written without"):
        without_metadata(saved("TIFF", exif=exif()))
    data = saved("JPEG", exif=exif())
    for cut in (len(data) // 2, len(data) - 9):
        with pytest.raises(ImageError, match=r"broken|unreadable"):
            without_metadata(data[:cut])
    assert beside_pixels(b"no image") == ""


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for name, data in (("a", saved("JPEG", exif=exif())), ("b", saved("JPEG", quality=30, comment=b"by Jo Doe"))):
        (folder / "0").mkdir(parents=True, exist_ok=True)
        (folder / "0" / f"{name}.jpg").write_bytes(data)
    return folder


def run(root: Path, *words: str) -> Any:
    result = CliRunner().invoke(app, [*words, "-C", str(root)])
    assert result.exit_code == 0, result.output
    return result


@pytest.mark.slow
def test_it_is_told_left_out_on_demand_and_never_handed_over_unsaid(photos: Path, tmp_path: Path) -> None:
    root = tmp_path / "set"
    root.mkdir()
    run(root, "init", "--schema", "digits")
    assert "position: 1 images, person: 1 images" in run(root, "ingest", str(photos)).stderr
    told = run(root, "export", "v1", str(tmp_path / "out"), "--format", "folder").stdout
    assert "CAREFUL: image files say more than their pixels: position in 1, person in 1, device in 1." in told
    assert "position" in run(root, "checkout", "v1", str(tmp_path / "checked")).stdout
    assert "position in 1" in run(root, "export", "v1", str(tmp_path / "bare"), "--format", "folder", "--strip").stdout
    copies = [path.read_bytes() for path in (tmp_path / "bare").rglob("*.jpg")]
    assert len(copies) == 2
    assert not any(map(beside_pixels, copies))
    assert not any(b"Jo Doe" in data for data in copies)
    events = json.loads(
        run(root, "query", "select parameters from events where kind = 'export' order by number", "--json").stdout
    )
    assert [json.loads(row["parameters"])["strip"] for row in events] == [False, True]
    assert json.loads(events[0]["parameters"])["beside"] == {"position": 1, "person": 1, "device": 1}


@pytest.mark.slow
def test_copies_without_it(photos: Path, tmp_path: Path) -> None:
    root = tmp_path / "set"
    root.mkdir()
    run(root, "init", "--schema", "digits")
    assert CliRunner().invoke(app, ["ingest", str(photos), "--strip", "-C", str(root)]).exit_code == 2
    assert "left out of the copies" in run(root, "ingest", str(photos), "--copy", "--strip").stderr
    stored = [path.read_bytes() for path in (root / ".dsops" / "media").rglob("*.jpg")]
    assert len(stored) == 2
    assert not any(map(beside_pixels, stored))
    assert not any(b"Jo Doe" in data for data in stored)
    assert "nothing changed" in run(root, "ingest", str(photos), "--copy", "--strip").stdout
    assert "CAREFUL" not in run(root, "export", "v1", str(tmp_path / "out"), "--format", "folder").stdout
    assert json.loads(run(root, "verify", "--all", "--json").stdout)["damaged"] == []
