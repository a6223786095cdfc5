"""Hostile content: names, labels, messages, notes and metadata that are HTML or script are shown as text."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from review_site import Serve, Site, audited, class_row, photo, sample

from datasetops.manifest import Change, Repository
from datasetops.records import Finding
from datasetops.schema import LabelSchema
from datasetops.web.render import tojson_safe

pytestmark = pytest.mark.server

SCRIPT = "<script>alert(1)</script>"
IMAGE = "\"'><img src=x onerror=alert(1)>"
CLOSING = "</script><script>alert(2)</script><!-- \u2028\u2029 &lt; {{ 7*7 }} {% raw %}"
LINK = "javascript:alert(3)"
LABEL = f"{IMAGE} {SCRIPT}"
GUIDE = f"# Guide\n\n## {LABEL}\n\n{SCRIPT} [click]({LINK}) <iframe src='//evil.example'></iframe>\n"


@pytest.fixture
def hostile(tmp_path: Path, serve: Serve) -> tuple[Site, list[str]]:
    """A repository where everything that somebody else wrote is an attack, its server, and its findings."""
    classes = [{"id": 0, "name": LABEL}, {"id": 1, "name": CLOSING.replace("\u2028\u2029 ", "")}]
    schema = LabelSchema.model_validate(
        {"name": "pets", "version": 1, "tasks": [{"kind": "classification"}], "classes": classes}
    )
    repository = Repository.init(tmp_path / "hostile", schema, guide=GUIDE)
    names = [f"{number}{SCRIPT.replace('/', '∕')}.jpg" for number in range(4)]
    rows = []
    for number, name in enumerate(names):
        row = sample(repository, name, photo(number), group=IMAGE, origin=SCRIPT, license=LINK, split=IMAGE)
        more = {"note": CLOSING, SCRIPT: IMAGE, "long": "x" * 2**20} if number == 0 else {"light": SCRIPT}
        rows.append(row | {"sample_id": f"s{number}{IMAGE}", "metadata": more})
    labels = [str(classes[number % 2]["name"]) for number in range(4)]
    annotations = [
        class_row(str(row["sample_id"]), label, IMAGE) | {"attributes": {SCRIPT: CLOSING}}
        for row, label in zip(rows, labels, strict=True)
    ]
    version = repository.commit(Change(samples=rows, annotations=annotations), message=CLOSING).version
    findings = [
        Finding("label_noise", "high", 0.1, f"{CLOSING} {IMAGE}", sample_id=str(row["sample_id"]), uri=str(row["uri"]),
                annotation_id=f"{row['sample_id']}/label", split=IMAGE, given=label, suggested=labels[number - 1])
        for number, (row, label) in enumerate(zip(rows, labels, strict=True))
    ]  # fmt: skip
    ids = audited(repository, version, findings)
    repository.commit(Change(annotations=[annotations[0] | {"label": labels[1]}]), message=IMAGE)
    return serve(repository), ids


_HARMLESS = re.compile(r"/(?!/)|#|\?|$|data:image/")


class _Reader(HTMLParser):
    """Collects what a browser would run or load."""

    def __init__(self) -> None:
        super().__init__()
        self.faults: list[str] = []
        self.data: list[str] = []
        self._in_data = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self._in_data = tag == "script" and given.get("type") == "application/json"
        if tag == "script" and not self._in_data and not (given.get("src") or "").startswith("/static/"):
            self.faults.append(f"script {given}")
        if tag in ("iframe", "object", "embed", "base", "frame"):
            self.faults.append(tag)
        for name, value in attrs:
            text = (value or "").strip().lower()
            if name.startswith("on") or name == "style" or name == "srcdoc":
                self.faults.append(f"{tag} {name}")
            if name in ("href", "src", "action", "formaction", "xlink:href") and not re.match(
                r"(/(?!/)|#|\?|$|data:image/)", text
            ):
                self.faults.append(f"{tag} {name}={value}")

    def handle_data(self, data: str) -> None:
        if self._in_data:
            self.data.append(data)
            self._in_data = False


def read(text: str) -> _Reader:
    reader = _Reader()
    reader.feed(text)
    reader.close()
    assert reader.faults == []
    return reader


def test_pages_show_it_as_text(hostile: tuple[Site, list[str]]) -> None:
    site, ids = hostile
    client = site.browser("ann")
    assert client.post("/api/v/v1/decisions", json={"decision_id": "1", "finding_ids": ids[1:2], "action": "keep", "note": CLOSING}).status_code == 200  # fmt: skip # noqa: E501
    pages = ["/v/v1/", "/v/v2/", "/v/v1/review?decided=all", "/v/v1/review?decided=all&view=grid", "/compare/v1/v2"]
    pages += [f"/v/v1/review/{name}" for name in ids]
    pages += [f"/v/v1/review?search={SCRIPT}&like=", f"/v/{SCRIPT.replace('/', '')}/", f"/nothing/{IMAGE}"]
    for path in pages:
        answer = client.get(path)
        assert answer.status_code in (200, 404), f"{path}: {answer.text[:500]}"
        reader = read(answer.text)
        for data in reader.data:
            json.loads(data)


def test_saved_pages_show_it_as_text(hostile: tuple[Site, list[str]]) -> None:
    site, ids = hostile
    client = site.browser("ann")
    for path in ("/v/v1/", "/v/v1/review", f"/v/v1/review/{ids[0]}", "/compare/v1/v2"):
        answer = client.get(path, params={"save": "1"})
        assert answer.status_code == 200
        read(answer.text)
        assert "<script" not in answer.text.lower()
        assert re.fullmatch(r'attachment; filename="[\w?-]+\.html"', answer.headers["content-disposition"])


def test_the_json_in_a_page_says_what_the_api_says(hostile: tuple[Site, list[str]]) -> None:
    site, ids = hostile
    client = site.browser("ann")
    item = client.get(f"/api/v/v1/findings/{ids[0]}").json()
    (data,) = read(client.get(f"/v/v1/review/{ids[0]}").text).data
    inside = json.loads(data)
    assert inside["finding"] == item["finding"]
    assert inside["annotations"] == item["annotations"]
    assert item["finding"]["message"] == f"{CLOSING} {IMAGE}"
    assert item["annotations"][0]["label"] == LABEL


def test_huge_metadata_does_not_stop_a_page(hostile: tuple[Site, list[str]]) -> None:
    site, ids = hostile
    answer = site.browser("ann").get(f"/v/v1/review/{ids[0]}")
    assert answer.status_code == 200


def test_the_guide_is_text_and_links_that_lead_to_pages(hostile: tuple[Site, list[str]]) -> None:
    site, ids = hostile
    item = site.browser("ann").get(f"/api/v/v1/findings/{ids[0]}").json()
    for section in item["guide"]:
        read(section["html"])


@pytest.mark.parametrize("value", [SCRIPT, IMAGE, CLOSING, "\ud800", {"a": [float("nan"), 2**70]}, {1: b"x"}])
def test_json_inside_a_script_element_cannot_leave_it(value: Any) -> None:
    text = str(tojson_safe(value))
    assert not set(text) & set("<>&\u2028\u2029")
    if isinstance(value, str):
        assert json.loads(text) == value
