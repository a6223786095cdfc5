"""Files that are no export of CVAT's, and shapes that cannot be read."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from datasetops.errors import FormatError
from datasetops.labeling.base import ImageSize
from datasetops.labeling.cvat import CvatFiles
from datasetops.progress import no_progress
from datasetops.schema import LabelSchema

WIDTH, HEIGHT = 64, 40
POINTS = ["nose", "left eye", "right eye"]
SCHEMA = LabelSchema.model_validate(
    {
        "name": "street",
        "version": 1,
        "tasks": [{"kind": "box"}, {"kind": "polygon"}, {"kind": "mask"}, {"kind": "keypoints", "keypoints": POINTS}],
        "classes": [{"id": 0, "name": "car"}],
    }
)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ('<mask rle="0,2147483647" left="0" top="0" width="2147483647" height="1"/>', "larger than the image"),
        ('<mask rle="0,5" left="0" top="0" width="2" height="2"/>', "runs cover 5 pixels, not 2 x 2"),
        ('<mask rle="4" left="0" top="0" width="2" height="2"/>', "no pixel in the image"),
        ('<mask rle="0,x" left="0" top="0" width="2" height="2"/>', "rle 'x' is not a number"),
        ('<polygon points="1,1;2,2"/>', "a polygon has at least three"),
        ('<polygon points="1,1;2;3,3"/>', "are no pairs of numbers"),
        ('<points points="1,1;2,2"/>', "it has 2 points; the schema names 3"),
        ('<skeleton ><points label="tail" points="1,1"/></skeleton>', "the schema has no keypoint 'tail'"),
        ('<box xtl="nan" ytl="1" xbr="2" ybr="2"/>', "xtl 'nan' is not a number"),
        ('<box xtl="1" ytl="1" xbr="2"/>', "it has no ybr"),
    ],
)
def test_shapes_that_cannot_be_read(tmp_path: Path, shape: str, message: str) -> None:
    file = tmp_path / "annotations.xml"
    tag = shape[1:].split(maxsplit=1)[0].rstrip(">")
    shape = shape.replace(tag, f'{tag} label="car"', 1)
    image = f'<image id="0" name="s1.png" width="{WIDTH}" height="{HEIGHT}">{shape}</image>'
    file.write_text(f"<annotations>{image}</annotations>")
    (task,) = CvatFiles().read(file, SCHEMA, {"s1": ImageSize(WIDTH, HEIGHT)}, actor=None)
    (answer,) = task.answers
    assert answer.regions == ()
    (sentence,) = answer.unread
    assert message in sentence


BOMB = '<!DOCTYPE a [<!ENTITY x "ha"><!ENTITY y "&x;&x;">]><annotations>&y;</annotations>'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"<annotations>\n<image></imag></annotations>",
            r"annotations.xml, line \d+, column \d+: broken XML: mismatched",
        ),
        (BOMB.encode(), r"XML with entities is refused"),
        (b"<svg/>", r"begins with <svg>"),
        (b"<annotations><track/></annotations>", r"it is a video's export"),
        (b"<annotations><image id='0'/></annotations>", r"image 0 of the file has no name"),
        (b"", r"line 1, column 1: broken XML: no element"),
        (b"PK\x03\x04 no zip", r"line 1, column 3: broken XML"),
        (b'{"images": [', r"line 1, column \d+: broken JSON"),
        (b'{"images": []}', r"no list 'annotations'"),
    ],
)
def test_broken_files_name_the_place(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "annotations.xml"
    file.write_bytes(content)
    with pytest.raises(FormatError, match=message) as caught:
        CvatFiles().read(file, SCHEMA, {}, actor=None)
    assert str(file) in caught.value.message


def test_broken_zips(tmp_path: Path) -> None:
    out = tmp_path / "out.zip"
    CvatFiles().write([], SCHEMA, out, read_media={}.__getitem__, progress=no_progress)
    data = bytearray(out.read_bytes())
    data[data.index(b"annotations.xml") + 20] ^= 0xFF
    damaged = tmp_path / "damaged.zip"
    damaged.write_bytes(data)
    with pytest.raises(FormatError, match=r"damaged\.zip cannot be unpacked"):
        CvatFiles().read(damaged, SCHEMA, {}, actor=None)
    empty = tmp_path / "empty.zip"
    zipfile.ZipFile(empty, "w").close()
    with pytest.raises(FormatError, match=r"holds neither annotations\.xml nor"):
        CvatFiles().read(empty, SCHEMA, {}, actor=None)
    with pytest.raises(FormatError, match=r"nowhere\.zip cannot be read: No such file"):
        CvatFiles().read(tmp_path / "nowhere.zip", SCHEMA, {}, actor=None)
