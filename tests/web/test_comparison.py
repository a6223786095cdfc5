"""The comparison page, on two versions of a real repository, drawn with the app's templates."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from datasetops.manifest import Change, Repository, Version
from datasetops.schema import LabelSchema
from datasetops.web.comparison import comparison, relabel_filter
from datasetops.web.render import page_context, render

EVIL = '<script>alert("x")</script>'


def label(sample: str, name: str, **more: Any) -> dict[str, Any]:
    return {"annotation_id": f"{sample}/c", "sample_id": sample, "kind": "classification", "label": name} | {
        "source": "human", "actor": "ann", **more
    }  # fmt: skip


def box(sample: str, number: int, name: str, *corners: float, **more: Any) -> dict[str, Any]:
    places = dict(zip(("x1", "y1", "x2", "y2"), corners, strict=True))
    row = {"annotation_id": f"{sample}/{number}", "sample_id": sample, "kind": "box", "label": name, "source": "human"}
    return row | places | more


def sample(name: str, **more: Any) -> dict[str, Any]:
    row = {"sample_id": name, "uri": f"{name}.png", "sha256": "0" * 64, "width": 80, "height": 40, "media_type": "x"}
    return row | more


def first(repository: Repository, *names: str, rows: list[dict[str, Any]] | None = None) -> Version:
    rows = [label(name, "cat") for name in names] if rows is None else rows
    return repository.commit(
        Change(samples=[sample(name) for name in names], annotations=rows), message="first"
    ).version


def page(data: dict[str, Any]) -> str:
    names = [data["b"]["name"], data["a"]["name"]]
    return render("compare.html", page_context(title="t", version=names[0], versions=names, nav="compare", data=data))


def samples_of(data: dict[str, Any]) -> list[str]:
    return [row["sample_id"] for row in data["rows"]]


def test_every_kind_of_change_is_found_and_told(repository: Repository) -> None:
    names = "abcdefgh"
    boxes = [box(name, 0, "dog", 10, 10, 30, 30) for name in "bcd"]
    old = first(repository, *names, rows=[*(label(name, "cat") for name in names), *boxes])
    change = Change(
        samples=[sample("g", split="train", metadata={"light": "day"}), sample("new")],
        annotations=[
            label("a", "dog"), box("b", 0, "dog", 12, 10, 32, 30), box("c", 1, "bird", 1, 1, 9, 9),
            label("e", "cat", attributes={"sure": False}), label("new", "bird"),
        ],
        remove_annotations=["d/0"],
        remove_samples=["h"],
    )  # fmt: skip
    new = repository.commit(change, message="second").version
    data = comparison(repository, old, new)
    assert json.loads(json.dumps(data)) == data
    assert {one["only"]: one["count"] for one in data["kinds"]} == dict.fromkeys(
        ("relabeled", "moved", "drawn", "deleted", "other", "fields", "added", "removed"), 1
    )
    assert samples_of(data) == ["a", "b", "c", "d", "e", "g", "new", "h"]
    by_name = {row["sample_id"]: row for row in data["rows"]}
    assert by_name["a"]["words"] == ["cat is now dog"]
    assert by_name["b"]["words"] == ["dog box moved by 2 px"]
    assert by_name["c"]["words"] == ["bird box added"]
    assert by_name["d"]["words"] == ["dog box removed"]
    assert by_name["e"]["words"] == ["cat: sure nothing → false"]
    assert by_name["g"]["fields"] == ["split nothing → train", "light nothing → day"]
    assert (by_name["new"]["state"], by_name["h"]["state"]) == ("added", "removed")
    assert by_name["new"]["before"] is None
    assert by_name["h"]["after"] is None
    for only in ("relabeled", "moved", "drawn", "deleted", "other", "fields", "added", "removed"):
        assert len(samples_of(comparison(repository, old, new, only=only))) == 1
    classes = {row["name"]: row["net"] for row in data["classes"]["rows"]}
    assert classes == {"cat": -2, "dog": 0, "bird": 2}
    html = page(data)
    assert "dog box moved by 2 px" in html
    assert "Facts of the sample" in html


def test_boxes_of_both_versions_lie_over_the_pictures(repository: Repository) -> None:
    boxes = [box("a", 0, "dog", 10, 10, 30, 30), box("a", 1, "cat", 50, 5, 70, 35)]
    old = first(repository, "a", rows=boxes)
    new = repository.commit(Change(annotations=[box("a", 0, "dog", 10, 10, 40, 30)]), message="wider").version
    data = comparison(repository, old, new)
    row = data["rows"][0]
    assert row["pair"]
    assert row["words"] == ["dog box 20 × 20 px is now 30 × 20 px"]
    assert [(one["box"], one["changed"]) for one in row["before"]["shapes"]] == [
        ([10, 10, 30, 30], True), ([50, 5, 70, 35], False)
    ]  # fmt: skip
    assert row["after"]["shapes"][0]["box"] == [10, 10, 40, 30]
    html = page(data)
    assert html.count('viewBox="0 0 80 40"') == 2
    assert html.count('stroke-dasharray="5 3"') == 2  # the key, and the box as it was
    assert 'src="/media/v1/thumb/a?side=320"' in html
    assert 'src="/media/v2/thumb/a?side=320"' in html


def test_boxes_turn_with_their_picture(tmp_path: Path, schema: LabelSchema) -> None:
    repository = Repository.init(tmp_path, schema)
    image = Image.new("RGB", (80, 40))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.jpg", exif=exif)
    turned = sample("a", uri="a.jpg", media_type="image/jpeg")
    rows = [box("a", 0, "dog", 10, 5, 30, 20)]
    old = repository.commit(Change(samples=[turned], annotations=rows), message="one").version
    new = repository.commit(Change(annotations=[box("a", 0, "cat", 10, 5, 30, 20)]), message="two").version
    shown = comparison(repository, old, new)["rows"][0]["after"]
    assert (shown["width"], shown["height"]) == (40, 80)
    assert shown["shapes"][0]["box"] == [20, 10, 35, 30]


def test_outlines_points_and_masks_are_drawn(tmp_path: Path) -> None:
    schema = LabelSchema.model_validate(
        {
            "name": "shapes", "version": 1, "classes": [{"id": 0, "name": "leaf"}],
            "tasks": [{"kind": "polygon"}, {"kind": "mask"}, {"kind": "keypoints", "keypoints": ["tip", "stem"]}],
        }
    )  # fmt: skip
    repository = Repository.init(tmp_path, schema)
    base = {"sample_id": "a", "label": "leaf", "source": "human"}
    old = repository.commit(Change(samples=[sample("a")]), message="no label").version
    shapes = [
        {"annotation_id": "p", "kind": "polygon", "geometry": {"polygons": [[1, 2, 30, 2, 30, 20]]}},
        {"annotation_id": "k", "kind": "keypoints", "geometry": {"keypoints": [5, 6, 2, 0, 0, 0]}},
        {"annotation_id": "m/1", "kind": "mask", "geometry": {"rle": {"size": [40, 80], "counts": [0, 3200]}}},
    ]
    new = repository.commit(Change(annotations=[base | one for one in shapes]), message="drawn").version
    html = page(comparison(repository, old, new))
    assert '<polygon points="1.0 2.0 30.0 2.0 30.0 20.0"' in html
    assert html.count("<circle") == 1
    assert 'src="/media/v2/mask/m/1.png"' in html


def test_relabels_make_a_matrix_whose_cells_filter(repository: Repository) -> None:
    old = first(repository, *"abcdef")
    rows = [label("a", "dog"), label("b", "dog"), label("c", "bird")]
    mid = repository.commit(Change(annotations=rows), message="some").version
    new = repository.commit(Change(annotations=[label("a", "cat"), label("d", "dog")]), message="more").version
    data = comparison(repository, mid, new)
    assert [(pair["before"], pair["after"], pair["count"]) for pair in data["relabels"]["pairs"]] == [
        ("cat", "dog", 1), ("dog", "cat", 1)
    ]  # fmt: skip
    assert "matrix" not in data["relabels"]
    chosen = comparison(repository, mid, new, only=relabel_filter("dog", "cat"))
    assert (samples_of(chosen), chosen["only_words"], chosen["all"]) == (["a"], "dog → cat", 2)
    assert 'href="/compare/v2/v3?only=dog%3Ecat#samples"' in page(data)
    back = repository.commit(Change(annotations=[label("d", "bird"), label("e", "bird")]), message="birds").version
    matrix = comparison(repository, mid, back)["relabels"].get("matrix")
    assert matrix is None
    assert comparison(repository, old, back)["relabels"]["total"] == 4
    with pytest.raises(ValueError, match="only: expected one of relabeled"):
        comparison(repository, old, new, only="nonsense")


def test_a_matrix_is_in_the_order_of_the_schema(repository: Repository) -> None:
    old = first(
        repository, *"abcd", rows=[label(*pair) for pair in zip("abcd", ("dog", "cat", "cat", "bird"), strict=True)]
    )
    rows = [label(*pair) for pair in zip("abcd", ("cat", "bird", "dog", "cat"), strict=True)]
    data = comparison(repository, old, repository.commit(Change(annotations=rows), message="turned").version)
    matrix = data["relabels"]["matrix"]
    assert matrix["rows"] == matrix["columns"] == ["cat", "dog", "bird"]
    assert [[cell and cell["count"] for cell in row] for row in matrix["cells"]] == [
        [None, 1, 1], [1, None, None], [1, None, None]
    ]  # fmt: skip
    assert "1 from dog to cat" in page(data)


def test_pages_hold_what_is_left(repository: Repository) -> None:
    names = [f"s{i:02}" for i in range(25)]
    old = first(repository, *names)
    new = repository.commit(Change(annotations=[label(name, "dog") for name in names]), message="dogs").version
    data = comparison(repository, old, new, start=20, size=10)
    assert (samples_of(data), data["total"]) == (names[20:], 25)
    assert samples_of(comparison(repository, old, new, start=10**9, size=10)) == names[20:]
    assert samples_of(comparison(repository, old, new, start=-5, size=10)) == names[:10]
    html = page(comparison(repository, old, new, start=10, size=10, only="relabeled"))
    assert "only=relabeled&amp;start=20#samples" in html
    assert "11–20 of 25" in html


def test_versions_that_say_the_same(repository: Repository) -> None:
    version = first(repository, "a")
    data = comparison(repository, version, version)
    assert (data["all"], data["rows"], data["classes"]["rows"]) == (0, [], [])
    assert "are the same" in page(data)


def test_votes_are_no_labels(repository: Repository) -> None:
    old = first(repository, "a", "b")
    vote = label("a", "dog", annotation_id="a/v", role="vote")
    new = repository.commit(Change(annotations=[vote, label("b", "dog")]), message="votes").version
    data = comparison(repository, old, new)
    assert samples_of(data) == ["b"]


def test_a_sample_without_a_picture_is_still_told(repository: Repository) -> None:
    bare = {"sample_id": "a", "uri": "a.png"}
    old = repository.commit(Change(samples=[bare], annotations=[box("a", 0, "cat", 1, 1, 5, 5)]), message="1").version
    new = repository.commit(Change(annotations=[box("a", 0, "dog", 1, 1, 5, 5)]), message="2").version
    data = comparison(repository, old, new)
    assert data["rows"][0]["words"] == ["cat box is now dog"]
    html = page(data)
    assert "no picture" in html
    assert "<img" not in html


def test_what_stands_in_the_data_is_text(tmp_path: Path) -> None:
    classes = [{"id": 0, "name": f'{EVIL}"/>'}, {"id": 1, "name": "a>b&c"}]
    schema = LabelSchema.model_validate(
        {"name": "evil", "version": 1, "tasks": [{"kind": "classification"}], "classes": classes}
    )
    repository = Repository.init(tmp_path, schema)
    name = f'x"{EVIL}'
    old = repository.commit(
        Change(samples=[sample(name, uri=f"{EVIL}.png")], annotations=[label(name, classes[0]["name"])]), message=EVIL
    ).version
    long = "y" * 1_000_000
    new = repository.commit(
        Change(samples=[sample(name, uri=f"{EVIL}.png", metadata={EVIL: long})], annotations=[label(name, "a>b&c")]),
        message=EVIL,
    ).version
    data = comparison(repository, old, new)
    html = page(data)
    assert "<script>alert" not in html
    assert len(html) < 30_000
    assert not re.search(r"\sstyle\s*=|<style", html)
    only = data["relabels"]["pairs"][0]["only"]
    assert samples_of(comparison(repository, old, new, only=only)) == [name]
