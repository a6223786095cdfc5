"""Helpers of the format tests: reading a source, and a stand-in for ingest that gives ids as it does."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image

from datasetops.formats import ExportData, ExportReport, Parsed, ReadOptions, load_format, scoped_id
from datasetops.media import scan_media
from datasetops.records import ANNOTATIONS, SAMPLES
from datasetops.schema import LabelSchema
from datasetops.store.source import open_source
from datasetops.store.tree import SourceTree


def make_schema(*classes: str, kinds: tuple[str, ...] = ("box", "polygon", "mask"), multi: bool = False) -> LabelSchema:
    tasks = [{"kind": kind, "multi": multi} if kind == "classification" else {"kind": kind} for kind in kinds]
    return LabelSchema.model_validate(
        {
            "name": "test",
            "version": 1,
            "tasks": tasks,
            "classes": [{"id": number, "name": name} for number, name in enumerate(classes)],
        }
    )


def read(
    name: str, source: Path, schema: LabelSchema, images: Path | None = None, split: str | None = None, **columns: str
) -> Parsed:
    tree = open_source(source)
    options = ReadOptions(tree if images is None else open_source(images), schema, split, columns)
    return load_format(name).read(tree, options)


def ingested(parsed: Parsed, images: Path, schema: LabelSchema, *, copy_media: bool = True) -> ExportData:
    """What a repository would hold after ingesting `parsed`."""
    tree = parsed.images or open_source(images)
    inside = {tree.uri(path): path for path in parsed.samples["media"].drop_null().to_pylist()} if parsed.images else {}

    def read_media(uri: str) -> bytes:
        return tree.read(inside[uri]) if uri in inside else Path(uri).read_bytes()

    return ExportData(*_tables(parsed, tree), schema, read_media, copy_media)


def _tables(parsed: Parsed, tree: SourceTree) -> tuple[pa.Table, pa.Table]:
    samples = parsed.samples.to_pylist()
    facts = {f["media"]: f for f in scan_media(tree, [s["media"] for s in samples if s["media"]]).to_pylist()}
    ids: dict[str, str] = {}
    for sample in samples:
        fact = facts.get(sample["media"], {})
        sample |= {name: fact.get(name) for name in ("sha256", "media_type")}
        sample["uri"] = tree.uri(sample["media"]) if fact else sample["key"]
        if fact:
            sample |= {"width": fact["width"], "height": fact["height"]}
        sample["sample_id"] = sample["sample_id"] or sample["sha256"][:24]
        ids[sample["key"]] = sample["sample_id"]
    annotations = parsed.annotations.to_pylist()
    same: Counter[str] = Counter()
    for row in annotations:
        row["sample_id"] = ids[row["key"]]
        row["source"] = row["source"] or "import"
        if row["annotation_id"] is None and row["external_id"] is not None:
            row["annotation_id"] = scoped_id(row["sample_id"], row["external_id"])
        elif row["annotation_id"] is None:
            values = repr([row[name] for name in ("kind", "label", "x1", "y1", "x2", "y2", "geometry", "actor")])
            name = f"{row['sample_id']}/{hashlib.sha256(values.encode()).hexdigest()[:12]}"
            same[name] += 1
            row["annotation_id"] = f"{name}-{same[name]}"
    return pa.Table.from_pylist(samples, schema=SAMPLES), pa.Table.from_pylist(annotations, schema=ANNOTATIONS)


def export_again(name: str, data: ExportData, out: Path) -> tuple[ExportData, ExportReport, Parsed]:
    """`data` written as a format and read back from there alone."""
    report = load_format(name).write(data, out)
    parsed = read(name, out, data.schema)
    return ingested(parsed, out if out.is_dir() else out.parent, data.schema), report, parsed


def content(table: pa.Table) -> list[dict[str, Any]]:
    """Rows in the order of their ids, without where the media lies."""
    key = "annotation_id" if "annotation_id" in table.column_names else "sample_id"
    rows = sorted(table.to_pylist(), key=lambda row: row[key])
    return [{name: value for name, value in row.items() if name != "uri"} for row in rows]


def assert_same(first: ExportData, second: ExportData) -> None:
    assert content(first.samples) == content(second.samples)
    assert content(first.annotations) == content(second.annotations)


def jpeg(width: int = 64, height: int = 48, colour: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (colour, 100, 200)).save(buffer, "JPEG")
    return buffer.getvalue()


def write(folder: Path, files: dict[str, bytes | str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def messages(parsed: Parsed, severity: str | None = None) -> list[str]:
    return [f.message for f in parsed.findings if severity is None or f.severity == severity]


def coco_document(**changes: Any) -> dict[str, Any]:
    return {
        "images": [{"id": 7, "file_name": "a.jpg", "width": 64, "height": 48}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 3, "bbox": [10, 10, 20, 20], "area": 400, "iscrowd": 0}
        ],
        "categories": [{"id": 3, "name": "cat"}, {"id": 4, "name": "dog"}],
    } | changes


def coco_annotation(**changes: Any) -> dict[str, Any]:
    return {"id": 2, "image_id": 7, "category_id": 3, "bbox": [10, 10, 20, 20]} | changes


def coco_source(tmp_path: Path, content: dict[str, Any]) -> Path:
    write(tmp_path / "set", {"coco.json": json.dumps(content), "a.jpg": jpeg(64, 48)})
    return tmp_path / "set" / "coco.json"


def load_json(path: Path) -> Any:
    return json.loads(gzip.open(path).read() if path.suffix == ".gz" else path.read_bytes())


def coco_schema(path: Path) -> LabelSchema:
    names = [category["name"] for category in load_json(path)["categories"]]
    return make_schema(*names, kinds=("box", "polygon", "mask"))
