"""Pictures over HTTP: as browsers show them, small and cached, masks, and nothing that is no picture of the version."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from review_site import HEIGHT, WIDTH, Dataset, Refusing, Serve, Site, class_row, photo, sample

from datasetops.labeling.base import ImageSize
from datasetops.labeling.masks import encoded
from datasetops.manifest import Change, Repository
from datasetops.review.shown import shown_box
from datasetops.web.edits import stored_box

pytestmark = pytest.mark.server

SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
PNG = b"\x89PNG"
JPEG = b"\xff\xd8\xff"


def exif(orientation: int) -> Image.Exif:
    made = Image.Exif()
    made[0x0112] = orientation
    return made


def site_of(
    serve: Serve, repository: Repository, files: dict[str, bytes], annotations: Sequence[dict[str, Any]] = ()
) -> Site:
    rows = [sample(repository, name, data) for name, data in files.items()]
    first = rows[0]["sample_id"]
    repository.commit(Change(samples=rows, annotations=list(annotations) or [class_row(first, "cat")]), message="files")
    return serve(repository)


def opened(answer: httpx.Response) -> Image.Image:
    assert answer.status_code == 200, answer.text
    return Image.open(io.BytesIO(answer.content))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP"])
def test_what_browsers_show_is_served_as_it_is(serve: Serve, repository: Repository, kind: str) -> None:
    data = photo(1, kind)
    site = site_of(serve, repository, {"photo.bin": data})
    answer = site.browser("ann").get("/media/v1/full/photo")
    assert answer.content == data
    assert answer.headers["content-type"] == f"image/{kind.lower()}"


@pytest.mark.parametrize("kind", ["TIFF", "JPEG2000", "PPM"])
def test_other_formats_are_converted_without_loss(serve: Serve, repository: Repository, kind: str) -> None:
    data = photo(1, kind)
    site = site_of(serve, repository, {"photo.bin": data})
    answer = site.browser("ann").get("/media/v1/full/photo")
    assert answer.headers["content-type"] == "image/png"
    assert np.array_equal(np.asarray(opened(answer)), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


def test_turned_pictures_come_as_everybody_shows_them(serve: Serve, repository: Repository) -> None:
    jpeg, png = photo(1, "JPEG", exif=exif(6)), photo(1, "PNG", exif=exif(6))
    client = site_of(serve, repository, {"a.jpg": jpeg, "b.png": png}).browser("ann")
    assert client.get("/media/v1/full/a").content == jpeg  # every browser turns it
    turned = opened(client.get("/media/v1/full/b"))
    assert turned.size == (HEIGHT, WIDTH)
    assert turned.getexif().get(0x0112, 1) == 1
    assert np.array_equal(np.asarray(turned), np.rot90(np.asarray(Image.open(io.BytesIO(png))), -1))
    assert opened(client.get("/media/v1/thumb/a?side=64")).size == (48, 64)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (SVG, "no image of a known type"),
        (b"<!doctype html><script>alert(1)</script>", "no image of a known type"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "no image of a known type"),
        (b"", "empty file"),
    ],
)
@pytest.mark.parametrize("name", ["x.svg", "x.jpg"])
def test_what_is_no_picture_is_never_served(
    serve: Serve, repository: Repository, name: str, data: bytes, words: str
) -> None:
    client = site_of(serve, repository, {name: data}).browser("ann")
    for path in ("/media/v1/full/x", "/media/v1/thumb/x"):
        answer = client.get(path)
        assert answer.status_code == 415
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        assert words in answer.text
        assert "alert" not in answer.text


def test_damaged_and_missing_files_are_told(serve: Serve, repository: Repository) -> None:
    client = site_of(serve, repository, {"cut.png": photo(1, "PNG")[:400], "gone.jpg": photo(2)}).browser("ann")
    (Path(str(repository.root)) / "gone.jpg").unlink()
    assert client.get("/media/v1/thumb/cut").status_code == 415
    for path in ("/media/v1/full/gone", "/media/v1/thumb/gone"):
        assert client.get(path).status_code == 404


@pytest.mark.parametrize(
    "tail",
    [
        "../../../../etc/passwd",
        "..%2f..%2f..%2fdsops.toml",
        "%2e%2e/dsops.toml",
        "/etc/passwd",
        "%2Fetc%2Fpasswd",
        "photos/s000.jpg",
        "s000.jpg",
        "s000%00",
        "file:///etc/passwd",
        "media:0000",
        "",
        "%ff%fe",
        "a" * 3000,
    ],
)
def test_ids_are_names_and_never_paths(refusing: Refusing, tail: str) -> None:
    (Path(str(refusing.dataset.repository.root)) / "dsops.toml").touch()
    client = refusing.client
    for what in ("full", "thumb", "mask"):
        raw = f"/media/v1/{what}/{tail}".encode()
        answer = client.get(httpx.URL(refusing.site.url).copy_with(raw_path=raw))
        assert answer.status_code in (400, 403, 404)
        assert b"root:" not in answer.content
        assert not answer.headers["content-type"].startswith("image/")


def test_only_pictures_of_that_version_are_served(site: Site, dataset: Dataset) -> None:
    later = sample(dataset.repository, "photos/later.jpg", photo(50))
    dataset.repository.commit(Change(samples=[later]), message="one more")
    client = site.browser("ann")
    assert client.get("/media/v1/full/later").status_code == 404
    assert client.get("/media/v2/full/later").status_code == 200
    assert client.get("/media/v3/full/later").status_code == 404


@pytest.mark.parametrize("name", ["train/0001", "a#b", "ä ö?x=1", "100%", "-", "<b>.jpg"])
def test_any_id_can_be_asked_for(serve: Serve, repository: Repository, name: str) -> None:
    row = sample(repository, "file.jpg", photo(3)) | {"sample_id": name}
    repository.commit(Change(samples=[row], annotations=[class_row(name, "cat")]), message="odd name")
    client = serve(repository).browser("ann")
    path = "".join(f"%{byte:02X}" for byte in name.encode())
    for what in ("full", "thumb"):
        assert client.get(f"/media/v1/{what}/{path}").status_code == 200


def test_thumbnails_are_made_once_and_kept_by_browsers(site: Site, dataset: Dataset) -> None:
    client = site.browser("ann")
    first = client.get("/media/v1/thumb/s000?side=50")
    assert opened(first).size == (64, 48)
    kept = [file for file in (dataset.repository.cache / "thumbnails").rglob("*") if file.is_file()]
    assert len(kept) == 1
    (Path(str(dataset.repository.root)) / "photos" / "s000.jpg").unlink()
    again = client.get("/media/v1/thumb/s000?side=64")  # the same, since sizes are rounded up
    assert again.content == first.content
    assert "immutable" in again.headers["cache-control"]
    assert again.headers["vary"] == "cookie"
    assert "sandbox" in again.headers["content-security-policy"]
    known = client.get("/media/v1/thumb/s000?side=64", headers={"if-none-match": again.headers["etag"]})
    assert (known.status_code, known.content) == (304, b"")


def test_a_thumbnail_of_a_box_shows_what_is_around_it(site: Site, dataset: Dataset) -> None:
    client = site.browser("ann")
    picture = opened(client.get("/media/v1/thumb/s000?side=640&box=20,10,40.5,30"))
    assert picture.size == (37, 37)  # the box, and 8 pixels around it
    whole = np.asarray(opened(client.get("/media/v1/full/s000")).convert("RGB"))
    assert np.array_equal(np.asarray(picture), whole[2:39, 12:49])
    outside = client.get("/media/v1/thumb/s000?box=-50,-50,-10,-10")
    assert opened(outside).size[0] >= 1


@pytest.mark.parametrize(
    "query",
    ["side=0", "side=x", "side=100000", "box=1,2,3", "box=3,2,1,4", "box=1,2,3,nan", "box=1,2,3,1e309", "box=a"],
)
def test_sizes_and_boxes_that_cannot_be(refusing: Refusing, query: str) -> None:
    answer = refusing.client.get(f"/media/v1/thumb/s000?{query}")
    assert answer.status_code == 400
    assert answer.text.startswith(query.partition("=")[0])


def mask_row(name: str, mask: Any, label: str = "dog") -> dict[str, Any]:
    return {"annotation_id": f"{name}#mask", "sample_id": name, "kind": "mask", "label": label, "source": "human",
            "geometry": {"rle": encoded(mask)}, "x1": 0.0, "y1": 0.0, "x2": 9.0, "y2": 9.0}  # fmt: skip


def test_masks_lie_over_the_picture_as_it_is_shown(serve: Serve, repository: Repository) -> None:
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[5:20, 10:30] = True
    rows = [mask_row("up", mask), mask_row("turned", mask), class_row("up", "cat")]
    files = {"up.jpg": photo(1), "turned.jpg": photo(2, exif=exif(6))}
    client = site_of(serve, repository, files, rows).browser("ann")
    answer = client.get("/media/v1/mask/up%23mask.png")
    assert answer.headers["content-type"] == "image/png"
    picture = np.asarray(opened(answer).convert("RGBA"))
    colour = repository.version().schema.find("dog").colour  # type: ignore[union-attr]
    assert picture.shape == (HEIGHT, WIDTH, 4)
    assert "#" + bytes(picture[10, 15, :3].tolist()).hex() == colour
    assert np.array_equal(picture[..., 3] > 0, mask)
    assert set(np.unique(picture[..., 3])) == {0, round(0.45 * 255)}
    turned = np.asarray(opened(client.get("/media/v1/mask/turned%23mask.png")).convert("RGBA"))
    assert np.array_equal(turned[..., 3] > 0, np.rot90(mask, -1))
    assert client.get("/media/v1/mask/up/label.png").status_code == 404


def test_masks_that_do_not_fit_are_told(serve: Serve, repository: Repository) -> None:
    small = np.ones((3, 4), dtype=bool)
    client = site_of(serve, repository, {"up.jpg": photo(1)}, [mask_row("up", small)]).browser("ann")
    answer = client.get("/media/v1/mask/up%23mask.png")
    assert answer.status_code == 415
    assert "does not fit" in answer.text


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_come_back_from_the_shown_picture(orientation: int) -> None:
    size = ImageSize(80, 60, orientation)
    stored = (3.0, 5.0, 31.5, 40.0)
    assert stored_box(shown_box(stored, size) or (), size) == pytest.approx(stored)


def test_a_thumbnail_shows_the_box_of_an_annotation(serve: Serve, repository: Repository) -> None:
    """On a turned picture too, whose boxes are those of the file as it is stored."""
    box = {"kind": "box", "label": "cat", "x1": 10.0, "y1": 10.0, "x2": 40.0, "y2": 30.0}
    rows = [box | {"annotation_id": f"{name}#1", "sample_id": name} for name in ("up", "turned")]
    files = {"up.jpg": photo(1), "turned.jpg": photo(1, exif=exif(6))}
    client = site_of(serve, repository, files, rows).browser("ann")
    up = opened(client.get("/media/v1/thumb/up?side=640&annotation=up%231")).convert("L")
    turned = opened(client.get("/media/v1/thumb/turned?side=640&annotation=turned%231")).convert("L")
    assert up.size == (47, 37)
    stored = np.rot90(np.asarray(turned, float))
    assert np.abs(np.subtract(stored.shape, (37, 47))).max() <= 1
    assert np.abs(stored[:36, :46] - np.asarray(up, float)[:36, :46]).mean() < 20
    whole = client.get("/media/v1/thumb/up?side=640").content
    assert client.get("/media/v1/thumb/up?side=640&annotation=turned%231").content == whole  # somebody else's
