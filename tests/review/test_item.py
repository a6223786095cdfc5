"""What a reviewer sees about a finding, and what happened to a sample."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datasetops.audits.decisions import Decision, DecisionLog
from datasetops.audits.decisions.fix import Fix
from datasetops.errors import NotFoundError
from datasetops.ledger import Event
from datasetops.manifest import Change, Repository, Version, merge
from datasetops.records import Finding, findings_table
from datasetops.review.filters import Filters
from datasetops.review.guide_pages import guide_pages, safe_html
from datasetops.review.history import history
from datasetops.review.item import item
from datasetops.review.queue import Queue
from datasetops.review.shown import Sizes, fix_as_shown
from datasetops.schema import LabelSchema

GUIDE = """# Guide

## cat
### Definition
A *cat* <script>alert(1)</script> ![x](http://example.com/x.png)
[a link](https://example.com) [bad](javascript:alert(1))

## dog
Barks.
"""

SCHEMA = LabelSchema.model_validate(
    {
        "name": "pets",
        "version": 1,
        "tasks": [
            {"kind": "box"},
            {"kind": "polygon"},
            {"kind": "mask"},
            {"kind": "text"},
            {
                "kind": "keypoints",
                "keypoints": ["nose", "ear", "tail"],
                "skeleton": [["nose", "ear"], ["nose", "tail"]],
            },
        ],
        "classes": [
            {"id": 0, "name": "cat"},
            {"id": 1, "name": "dog"},
            {"id": 2, "name": "bird", "definition": "Has **feathers**."},
        ],
    }
)
RLE = {"size": [20, 40], "counts": [100, 50, 650]}
ROWS: list[dict[str, Any]] = [
    {"annotation_id": "a/box", "kind": "box", "label": "cat", "x1": 1, "y1": 2, "x2": 11, "y2": 8, "actor": "ann"},
    {"annotation_id": "a/poly", "kind": "polygon", "label": "dog", "geometry": {"polygons": [[0, 0, 10, 0, 10, 5]]}},
    {"annotation_id": "a/mask", "kind": "mask", "label": "bird", "geometry": {"rle": RLE}},
    {"annotation_id": "a/points", "kind": "keypoints", "label": "cat", "geometry": {"keypoints": [1, 2, 2, 3, 4, 1, 0, 0, 0]}},
    {"annotation_id": "a/text", "kind": "text", "text": "<b>" + "x" * 3_000},
    {"annotation_id": "a/vote", "kind": "box", "label": "dog", "x1": 1, "y1": 2, "x2": 11, "y2": 8, "role": "vote"},
]  # fmt: skip
SUSPICIONS = findings_table(
    [
        Finding("swapped_box", "high", 0.1, "cat or dog?", sample_id="a", annotation_id="a/box", given="cat", suggested="dog"),
        Finding("missing_box", "medium", 0.2, "m" * 5_000, sample_id="a", suggested="bird", box=(10.0, 0.0, 20.0, 5.0)),
        Finding("swapped_box", "high", 0.3, "dog or cat?", sample_id="b", annotation_id="b/box", given="dog", suggested="cat"),
        Finding("outlier", "low", 0.9, "odd", sample_id="c", related=("a", "b")),
    ]
)  # fmt: skip
BOX, MISSING, OTHER, ODD = SUSPICIONS["finding_id"].to_pylist()


def picture(orientation: int | None = None) -> bytes:
    sink = io.BytesIO()
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 40, 3), dtype=np.uint8))
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    image.save(sink, "JPEG", exif=exif)
    return sink.getvalue()


def store(repository: Repository, orientation: int | None = None) -> Version:
    if repository.root is None:
        pytest.fail("the repository has a folder")
    (repository.root / "a.jpg").write_bytes(picture(orientation))
    metadata = {
        "note": "y" * 1_000_000,
        "nested": {"deep": ["z" * 3_000]},
        "<i>": "<script>",
        "many": list(range(9_000)),
    }
    samples = [
        {"sample_id": "a", "uri": "a.jpg", "width": 40, "height": 20, "media_type": "image/jpeg", "metadata": metadata},
        {"sample_id": "b", "uri": "lost/b.jpg", "width": 30, "height": 10},
        {"sample_id": "c", "uri": "c.jpg"},
    ]  # fmt: skip
    rows = [row | {"sample_id": "a"} for row in ROWS]
    other = {
        "annotation_id": "b/box",
        "sample_id": "b",
        "kind": "box",
        "label": "dog",
        "x1": 1,
        "y1": 1,
        "x2": 5,
        "y2": 5,
    }
    repository.commit(Change(samples=samples, annotations=[*rows, other], guide=GUIDE), message="pets")
    return repository.version()


@pytest.fixture
def repository(tmp_path: Any) -> Repository:
    return Repository.init(tmp_path, SCHEMA)


def told(repository: Repository, version: Version, finding_id: str = BOX, **more: Any) -> dict[str, Any]:
    log = DecisionLog(repository)
    log.refresh()
    found = item(repository, version, Queue(version, SUSPICIONS, log), log, finding_id, **more)
    json.dumps(found, allow_nan=False)
    return found


def test_an_item_has_all_that_is_drawn(repository: Repository) -> None:
    version = store(repository)
    found = told(repository, version)
    by_id = {row["annotation_id"]: row for row in found["annotations"]}
    assert set(by_id) == {"a/box", "a/poly", "a/mask", "a/points", "a/text"}  # a vote was merged into others
    assert by_id["a/box"]["box"] == [1, 2, 11, 8]
    assert [row["annotation_id"] for row in found["annotations"] if row["subject"]] == ["a/box"]
    assert by_id["a/poly"]["polygons"] == [[0, 0, 10, 0, 10, 5]]
    assert by_id["a/poly"]["box"] == [0, 0, 10, 5]
    assert (by_id["a/mask"]["mask"], by_id["a/mask"]["polygons"]) == (True, None)
    assert by_id["a/mask"]["box"] == [5, 0, 8, 20]
    assert by_id["a/points"]["keypoints"] == [[1, 2, 2], [3, 4, 1], [0, 0, 0]]
    assert by_id["a/points"]["skeleton"] == [[0, 1], [0, 2]]
    assert by_id["a/box"]["colour"] == next(one["colour"] for one in found["classes"] if one["name"] == "cat")
    assert found["suggestion"]["fix"]["put"][0] == {"annotation_id": "a/box", "label": "dog"}
    assert "dog" in found["suggestion"]["words"]
    assert found["kinds"] == ["box", "polygon", "mask", "text", "keypoints"]
    assert [one["name"] for one in found["classes"]] == ["cat", "dog", "bird"]
    assert (found["sample"]["width"], found["sample"]["height"], found["sample"]["name"]) == (40, 20, "a.jpg")
    assert [other["finding_id"] for other in found["others"]] == [MISSING]
    assert found["finding"]["at_random"] is False
    assert "The other finding of swapped box does not look worse" in found["finding"]["evidence"]
    assert "The other finding of swapped box looks worse" in told(repository, version, OTHER)["finding"]["evidence"]
    assert (found["held_by"], found["history"]) == (None, None)


def test_huge_and_hostile_texts_are_cut_and_kept_as_texts(repository: Repository) -> None:
    found = told(repository, store(repository), MISSING)
    metadata = found["sample"]["metadata"]
    assert metadata["note"] == "y" * 2_000 + "… (1,000,000 characters in all)"
    assert metadata["nested"]["deep"][0].endswith("… (3,000 characters in all)")
    assert metadata["many"][-1] == "… (9,000 entries in all)"
    assert metadata["<i>"] == "<script>"
    assert found["finding"]["message"].endswith("… (5,000 characters in all)")
    assert len(json.dumps(found)) < 40_000


@pytest.mark.parametrize("orientation", range(1, 9))
def test_places_are_those_of_the_image_as_shown(repository: Repository, orientation: int) -> None:
    version = store(repository, orientation)
    found = told(repository, version, MISSING)
    stored = np.zeros((20, 40), dtype=np.uint8)
    stored[0:5, 10:20] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    sink = io.BytesIO()
    Image.fromarray(stored).save(sink, "PNG", exif=exif)
    from PIL import ImageOps

    shown = ImageOps.exif_transpose(Image.open(sink))
    assert found["finding"]["box"] == list(shown.getbbox() or ())
    assert (found["sample"]["width"], found["sample"]["height"]) == shown.size
    drawn = next(row for row in found["annotations"] if row["annotation_id"] == "a/box")
    assert (drawn["box"] == [1, 2, 11, 8]) == (orientation == 1)
    put = found["suggestion"]["fix"]["put"][0]
    assert [put[corner] for corner in ("x1", "y1", "x2", "y2")] == found["finding"]["box"]


def test_outlines_of_a_fix_are_turned_too(repository: Repository) -> None:
    version = store(repository, 6)
    size = Sizes(repository).of(version.table("samples").to_pylist()[0])
    geometries = [{"polygons": [[0.0, 0.0, 10.0, 0.0, 10.0, 5.0]]}, {"keypoints": [1.0, 2.0, 2.0, 3.0, 4.0, 1.0]}]
    fix = Fix("edit", tuple({"annotation_id": str(at), "geometry": one} for at, one in enumerate(geometries)))
    shown = fix_as_shown(fix, size)
    assert shown.put[0]["geometry"]["polygons"] == [[20, 0, 20, 10, 15, 10]]
    assert shown.put[1]["geometry"]["keypoints"] == [18, 1, 2, 16, 3, 1]


def test_images_that_are_gone_are_still_told(repository: Repository) -> None:
    version = store(repository)
    found = told(repository, version, OTHER)
    assert (found["sample"]["width"], found["sample"]["height"]) == (30, 10)
    assert found["annotations"][0]["box"] == [1, 1, 5, 5]
    odd = told(repository, version, ODD)
    assert (odd["sample"]["width"], odd["annotations"], odd["suggestion"]) == (None, [], None)
    assert odd["finding"]["related"] == ["a", "b"]


def test_an_item_knows_its_place_and_its_decisions(repository: Repository) -> None:
    version = store(repository)
    log = DecisionLog(repository)
    to_dog = Fix("edit", ({"annotation_id": "a/box", "label": "dog"},))
    said = [
        Decision(BOX, "error", "ann", "swapped_box", "high", 0.1, "clearly", fix=to_dog),
        Decision(MISSING, "fine", "ann", "missing_box", "medium", 0.2),
    ]  # fmt: skip
    log.add(version, said)
    log.add(version, [Decision(BOX, "fine", "bob", "swapped_box", "high", 0.1)], second=True)
    every = Filters(decided="all")
    found = told(repository, version, filters=every)
    assert found["total"] == 4
    order = [row["finding_id"] for row in Queue(version, SUSPICIONS, log).page(every).rows]
    at = order.index(BOX)
    assert found["position"] == at
    assert found["previous"] == (order[at - 1] if at else None)
    assert found["next"] == (order[at + 1] if at < 3 else None)
    notes = [(made["actor"], made["verdict"], made["note"]) for made in found["decisions"]]
    assert notes == [("ann", "error", "clearly"), ("bob", "fine", "")]
    assert "dog" in found["decisions"][0]["words"]
    assert found["others"][0]["decided"] is True
    assert "that were decided" in told(repository, version, OTHER)["finding"]["evidence"]
    with pytest.raises(NotFoundError, match="has no finding"):
        told(repository, version, "0" * 16)


def test_the_guide_is_told_as_safe_html(repository: Repository) -> None:
    version = store(repository)
    pages = guide_pages(version, [("given", "cat"), ("suggested", "cat"), ("suggested", "bird"), ("given", None)])
    assert [(page["class"], page["role"]) for page in pages] == [("cat", "given"), ("bird", "suggested")]
    html = pages[0]["html"]
    assert "&lt;script&gt;" in html
    assert "<script" not in html
    assert "<img" not in html
    assert "javascript:" not in html.replace("[bad](javascript:alert(1))", "")
    assert 'rel="noopener noreferrer"' in html
    assert "<em>cat</em>" in html
    assert "<strong>feathers</strong>" in pages[1]["html"]
    assert guide_pages(version, [("given", "zebra")]) == []
    assert len(safe_html("a" * 100_000)) < 51_000


def test_the_history_of_annotations(repository: Repository) -> None:
    store(repository)
    first = {"sample_id": "a", "annotation_id": "a/box", "kind": "box", "label": "cat", "actor": "ann"}
    box = {"x1": 1, "y1": 2, "x2": 11, "y2": 8}

    def edit(row: dict[str, Any], actor: str, **event: Any) -> None:
        made = Event("label-pull", actor, **event)
        repository.commit(Change(annotations=[row]), message="edit", event=made)

    edit(first | box | {"label": "dog", "actor": "bob"}, "lead", parameters={"tool": "label-studio"})
    repository.commit(
        Change(annotations=[{"sample_id": "b", "annotation_id": "b/2", "kind": "text", "text": "t"}]), message="b"
    )
    moved = box | {"x2": 14.5}
    edit(first | moved | {"label": "dog", "source": "model", "model": "detector@1"}, "robot")
    repository.commit(Change(remove_annotations=["a/poly"]), message="no outline", event=Event("commit", "cleo"))
    version = repository.version()
    told = history(repository, version, "a")
    words = [(entry["version"], entry["actor"], entry["words"]) for entry in told]
    assert words[:3] == [
        ("v5", "cleo", "polygon dog removed"),
        ("v4", "ann", "box dog: box moved by up to 3.5 px"),
        ("v2", "bob", "box cat: cat becomes dog"),
    ]
    assert {version for version, _, _ in words[3:]} == {"v1"}
    added = " ".join(entry["words"] for entry in told[3:])
    for thing in ("polygon dog", "mask bird", "keypoints cat", "box cat", "added"):
        assert thing in added
    assert told[2]["tool"] == "label-studio"
    assert (told[1]["model"], told[1]["source"]) == ("detector@1", "model")
    assert len(max((entry["words"] for entry in told), key=len)) < 400
    assert [entry["version"] for entry in history(repository, version, "b")] == ["v3", "v1"]
    assert history(repository, version, "nobody") == []
    assert [entry["version"] for entry in history(repository, repository.version("v2"), "a")][:1] == ["v2"]


def test_the_history_goes_through_merges_and_ends_in_time(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(repository)
    repository.create_branch("side")
    box = {"sample_id": "b", "annotation_id": "b/box", "kind": "box", "x1": 1, "y1": 1, "x2": 5, "y2": 5}
    repository.commit(Change(annotations=[box | {"label": "bird"}]), message="side", branch="side")
    for number in range(3):
        repository.commit(Change(samples=[{"sample_id": f"n{number}", "uri": "n"}]), message="more")
    merge(repository, "side")
    versions = [entry["version"] for entry in history(repository, repository.version(), "b")]
    assert versions[0] in ("v2", "v6")
    assert versions[-1] == "v1"
    monkeypatch.setattr("datasetops.review.history.MOST_VERSIONS", 3)
    for number in range(3):
        repository.commit(Change(samples=[{"sample_id": f"m{number}", "uri": "m"}]), message="more")
    late = history(repository, repository.version(), "b")
    assert [entry["version"] for entry in late] == [""]
    assert late[0]["words"] == "box bird made"
    assert late[0]["time"]
