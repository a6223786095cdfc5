"""The audit report: one HTML file with pictures and plots that opens without a network."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Iterable, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image, ImageDraw

from datasetops.audits import charts
from datasetops.audits.images.marks import mark
from datasetops.audits.record import AuditRecord
from datasetops.errors import DatasetOpsError
from datasetops.images import ImageError, decode_rgb
from datasetops.manifest import Repository, Version
from datasetops.plugins import load_plugin
from datasetops.progress import Progress, no_progress
from datasetops.records import SEVERITIES
from datasetops.store.media import Media

SHOWN_PER_CHECK = 48  # with pictures; all others stand in the findings table
_RELATED_SHOWN = 3
_SIDE = 144  # pixels of a thumbnail's longer side
_CORNERS = ("x1", "y1", "x2", "y2")
_ROOM = 2.5  # sides of a box that its picture shows


def write_report(
    repository: Repository,
    version: Version,
    record: AuditRecord,
    out: Path,
    *,
    progress: Progress = no_progress,
) -> None:
    """Write the report of an audit to a file in a folder that exists; raises OSError where it cannot be written.

    Images that cannot be read are left blank and said to be.
    """
    from jinja2 import Environment, PackageLoader

    wanted = {name: _of_check(record, name) for name in record.info["checks"]}
    rows = [row for found in wanted.values() for row in found]
    pictures = _Pictures(repository, version, rows)
    sections = []
    for row in progress(rows, len(rows), "Drawing the report"):
        row["picture"] = pictures.of(row)
        row["others"] = [pictures.plain(sample_id) for sample_id in row["related"][:_RELATED_SHOWN]]
    for name, found in wanted.items():
        check = load_plugin("checks", name)
        summary = record.summaries.get(name, {})
        facts = record.info["checks"][name]
        sections.append(
            {
                "name": name,
                "title": check.title,
                "facts": facts,
                "notes": _notes(summary),
                "charts": [{**chart, "svg": charts.draw(chart)} for chart in summary.get("charts", [])],
                "findings": found,
                "more": facts["findings"] - len(found),
            }
        )
    folder = _folder_of(row["uri"] for row in rows if row["uri"] and row["sample_id"])
    for row in rows if folder else ():
        row["uri"], row["message"] = ((row[name] or "").replace(folder, "") for name in ("uri", "message"))
    sections.sort(key=lambda section: [-section["facts"]["severity"][name] for name in reversed(SEVERITIES)])
    environment = Environment(loader=PackageLoader("datasetops.audits"), autoescape=True, trim_blocks=True)
    severity = record.findings["severity"]
    html = environment.get_template("report.html").render(
        info=record.info,
        sections=sections,
        folder=folder,
        message=version.commit.message,
        time=version.commit.time[:16].replace("T", " "),
        author=version.commit.author,
        totals={name: int(pc.sum(pc.equal(severity, name)).as_py() or 0) for name in reversed(SEVERITIES)},
    )
    out.write_text(html, encoding="utf-8")


def _of_check(record: AuditRecord, name: str) -> list[dict[str, Any]]:
    rows = record.findings.filter(pc.equal(record.findings["check"], name)).slice(0, SHOWN_PER_CHECK).to_pylist()
    return [row | {"related": json.loads(row["related"]) if row["related"] else []} for row in rows]


def _folder_of(uris: Iterable[str]) -> str:
    """The folder that all files are in, with its slash; "" where they share none but the root."""
    folders = [uri.split("/")[:-1] for uri in uris]
    shared = takewhile(
        lambda pair: pair[0] == pair[1], zip(min(folders, default=[]), max(folders, default=[]), strict=False)
    )
    folder = "/".join(one for one, _ in shared)
    return f"{folder}/" if folder.strip("/") and not folder.endswith(":/") else ""


def _notes(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Plain numbers and words of a summary, for a line under the heading."""
    return [
        (
            key.replace("_", " "),
            f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if _is_int(value) else value,
        )
        for key, value in summary.items()
        if isinstance(value, str | float) or _is_int(value)
    ]


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


class _Pictures:
    """Thumbnails as data URLs, each made once."""

    def __init__(self, repository: Repository, version: Version, rows: list[dict[str, Any]]) -> None:
        ids = {row["sample_id"] for row in rows if row["sample_id"]}
        ids |= {sample_id for row in rows for sample_id in row["related"][:_RELATED_SHOWN]}
        samples = version.state("samples").rows(pa.array(sorted(ids), pa.string()), ["sample_id", "uri", "sha256"])
        self._uris = {row["sample_id"]: row["uri"] for row in samples.to_pylist() if row["sha256"]}
        boxed = pa.array(sorted({row["annotation_id"] for row in rows if row["annotation_id"]}), pa.string())
        boxes = version.state("annotations").rows(boxed, ["annotation_id", *_CORNERS, "geometry"])
        self._annotated = {row["annotation_id"]: row for row in boxes.to_pylist()}
        self._media = Media(repository.store, repository.root)
        self._plain: dict[str, str | None] = {}

    def of(self, row: Mapping[str, Any]) -> str | None:
        """The finding's image, with the annotation or the box that it is about, if any."""
        if row["sample_id"] is None:
            return None
        given = self._annotated.get(row["annotation_id"], {})
        named = row["box"] if row["annotation_id"] is None else None
        box = json.loads(named) if named else tuple(given.get(name) for name in _CORNERS)
        geometry = given.get("geometry")
        if None not in box or geometry is not None:
            return self._draw(row["sample_id"], None if None in box else box, geometry)
        return self.plain(row["sample_id"])

    def plain(self, sample_id: str) -> str | None:
        if sample_id not in self._plain:
            self._plain[sample_id] = self._draw(sample_id, None)
        return self._plain[sample_id]

    def _draw(self, sample_id: str, box: tuple[float, ...] | None, geometry: str | None = None) -> str | None:
        uri = self._uris.get(sample_id)
        if uri is None:
            return None
        try:
            image = decode_rgb(self._media.read(uri))
        except (DatasetOpsError, ImageError):
            return None
        corners, offset = _ordered(box) if box else None, (0, 0)
        if corners:
            image, offset = _around(image, corners)
        scale = _SIDE / max(image.size)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        thumbnail = image.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)
        if geometry is not None:
            thumbnail = mark(thumbnail, geometry, offset, scale)
        if corners:
            scaled = [(value - offset[i % 2]) * scale for i, value in enumerate(corners)]
            ImageDraw.Draw(thumbnail).rectangle(scaled, outline=(255, 64, 64), width=2)
        sink = io.BytesIO()
        thumbnail.save(sink, "JPEG", quality=82)
        return f"data:image/jpeg;base64,{base64.b64encode(sink.getvalue()).decode()}"


def _ordered(box: tuple[float, ...]) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = box
    return min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)


def _around(image: Image.Image, box: tuple[float, float, float, float]) -> tuple[Image.Image, tuple[int, int]]:
    """The part of an image that shows a box with what is around it, and where that begins (x, y)."""
    x1, y1, x2, y2 = box
    half = max(_ROOM * max(x2 - x1, y2 - y1) / 2, _SIDE / 4)
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    left, top = max(0, math.floor(x - half)), max(0, math.floor(y - half))
    right, bottom = min(image.width, math.ceil(x + half)), min(image.height, math.ceil(y + half))
    if right - left < 1 or bottom - top < 1:  # a box outside of its image
        return image, (0, 0)
    return image.crop((left, top, right, bottom)), (left, top)
