"""CVAT's COCO 1.0 export, checked by the COCO format's reader.

CVAT puts what it knows beyond COCO below `attributes` of an annotation: the label's own attributes, `occluded` and
`rotation`. A text without a class is only in its XML.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import orjson
import pyarrow as pa
from numpy.typing import NDArray

from datasetops.formats.base import ReadOptions
from datasetops.formats.coco import CocoFormat
from datasetops.formats.jsonfile import load_json
from datasetops.labeling.base import Answer, AnsweredTask, ImageSize
from datasetops.labeling.cvat.labels import UNANSWERED
from datasetops.labeling.exchange import (
    Found,
    Says,
    as_text,
    box_of,
    class_of,
    counted,
    region_values,
    regions,
    sample_of,
    seen_as,
    told,
    turned_corners,
    unknown_classes,
)
from datasetops.labeling.masks import decoded, encoded
from datasetops.labeling.orientation import mask_to_stored, to_stored
from datasetops.records import Finding, canonical_json, sha256_hex
from datasetops.schema import LabelSchema
from datasetops.store.tree import FileEntry, Unusable

_BUILT_IN: Final = frozenset({"occluded", "rotation", "track_id", "keyframe", "outside"})
_IMAGE: Final = re.compile(r"\(image (.+?)\)|: image (\S+?):")


@dataclass(frozen=True)
class _OneFile:
    """A source of one file that is in memory, without images."""

    url: str
    data: bytes
    single_file: str | None = "annotations"

    def walk(self) -> Iterator[FileEntry | Unusable]:
        return iter(())

    def read(self, path: str, *, limit: int | None = None) -> bytes:
        return self.data[:limit]

    def stat(self, path: str) -> FileEntry | None:
        return None

    def uri(self, path: str) -> str:
        return self.url


def read_coco(
    name: str, data: bytes, schema: LabelSchema, sizes: Mapping[str, ImageSize], *, actor: str | None
) -> list[AnsweredTask]:
    """One answered task for each listed image. `name` is what errors call the file. Raises FormatError."""
    document = load_json(_OneFile(name, data), "annotations")
    unknown = _unknown_classes(document.value, schema)
    if not document.nonfinite:
        data = orjson.dumps(document.value)
    file = _OneFile(name, data)
    parsed = CocoFormat().read(file, ReadOptions(images=file, schema=schema))
    unread, problems = _sentences(parsed.findings)
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in _rows(parsed.annotations):
        rows.setdefault(row["key"], []).append(row)
    tasks: list[AnsweredTask] = []
    for image in _rows(parsed.samples):
        key, file_name = image["key"], image["sample_id"]
        sample_id = sample_of(file_name, sizes)
        size = sizes.get(sample_id) or ImageSize(image["width"] or 1, image["height"] or 1)
        frame, fault = seen_as(size, image["width"], image["height"], turned=True)
        found, says = _all_found(rows.get(key, ()), frame, schema)
        says.unread += [*unread.get(key, ()), *unread.get(None, ()), *unknown_classes(unknown.get(key, {}), schema)]
        says.problems += [*([fault] if fault else ()), *problems.get(key, ())]
        answer = Answer(
            answer_id=sha256_hex(canonical_json(["coco", file_name]))[:16],
            actor=actor or "unknown",
            status="done",
            regions=regions(found),
            unread=counted(says.unread),
            problems=counted(says.problems),
        )
        tasks.append(AnsweredTask(f"image {key}", sample_id, "", (answer,)))
    return tasks


def _unknown_classes(document: Any, schema: LabelSchema) -> dict[str, Counter[str]]:
    """By image how many annotations are of a class that is not known, which the format's reader tells by file.

    They are taken out of the document, and CVAT's second labels for skeletons are given the names of their classes.
    """
    unknown: dict[str, Counter[str]] = {}
    categories, annotations = (_list(document, name) for name in ("categories", "annotations"))
    if not categories or not annotations:
        return unknown
    names: dict[str, str] = {}
    for category in categories:
        if isinstance(category, dict) and isinstance(category.get("name"), str):
            label = class_of(category["name"].strip(), schema)
            if label is None:
                names[str(category.get("id"))] = category["name"]
            category["name"] = label or category["name"]
    kept = []
    for entry in annotations:
        missing = names.get(str(entry.get("category_id"))) if isinstance(entry, dict) else None
        if missing is None:
            kept.append(entry)
        else:
            unknown.setdefault(str(entry.get("image_id")), Counter())[missing] += 1
    document["annotations"] = kept
    return unknown


def _list(document: Any, name: str) -> list[Any]:
    entries = document.get(name) if isinstance(document, dict) else None
    return entries if isinstance(entries, list) else []


def _rows(table: pa.Table) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def _sentences(findings: list[Finding]) -> tuple[dict[str | None, list[str]], dict[str | None, list[str]]]:
    """What the reader left out, and what it doubts, by the image that is named; None for what concerns all of them."""
    unread: dict[str | None, list[str]] = {}
    problems: dict[str | None, list[str]] = {}
    for finding in findings:
        match = _IMAGE.search(finding.message)
        image = (match[1] or match[2]) if match else None
        sentences = unread if finding.severity == "high" else problems
        sentences.setdefault(image, []).append(finding.message.removeprefix("annotations: "))
    return unread, problems


def _all_found(rows: Iterable[Mapping[str, Any]], frame: ImageSize, schema: LabelSchema) -> tuple[list[Found], Says]:
    found: list[Found] = []
    says = Says()
    for row in rows:
        try:
            found.append(_found(row, frame, schema, says))
        except ValueError as error:  # a mask of another size than the image has
            says.unread.append(f"{row['kind']} of {row['label']} is left out: {error}")
    return found, says


def _found(row: Mapping[str, Any], frame: ImageSize, schema: LabelSchema, says: Says) -> Found:
    kind, box = row["kind"], box_of(row)
    geometry = orjson.loads(row["geometry"]) if row["geometry"] else None
    given = (orjson.loads(row["attributes"]) if row["attributes"] else {}).get("attributes")
    given = given if isinstance(given, dict) else {}
    degrees = given.get("rotation", 0.0)
    texts = {name: as_text(v) for name, v in given.items() if name not in _BUILT_IN and v not in (None, UNANSWERED)}
    if given.get("occluded") in (True, 1):
        texts["occluded"] = "true"
    more = told(texts, kind, row["label"], schema, says)
    corners: NDArray[np.float64] = np.reshape(np.array(box or [], np.float64), (-1, 2))
    if kind == "box" and box is not None and isinstance(degrees, int | float) and degrees % 360:
        corners = turned_corners(box, degrees)
        geometry = {"polygons": [corners.ravel().tolist()]}
    corners = to_stored(corners, frame)
    values = region_values(
        more.kind,
        row["label"],
        box=[*corners.min(axis=0), *corners.max(axis=0)] if len(corners) else None,
        geometry=_stored(geometry, frame) if geometry else None,
        text=row["text"] if more.text is None else more.text,
        attributes=more.attributes,
    )
    return Found(values, more.annotation_id)


def _stored(geometry: Mapping[str, Any], frame: ImageSize) -> dict[str, Any]:
    if "rle" in geometry:
        return {"rle": encoded(mask_to_stored(decoded(geometry["rle"]), frame))}
    if "polygons" in geometry:
        return {
            "polygons": [to_stored(np.reshape(ring, (-1, 2)), frame).ravel().tolist() for ring in geometry["polygons"]]
        }
    triples = np.reshape(np.asarray(geometry["keypoints"], np.float64), (-1, 3))
    if not np.isin(triples[:, 2], (0, 1, 2)).all():
        raise ValueError("a keypoint's visibility is none of 0, 1, 2")
    places = to_stored(triples[:, :2], frame).tolist()
    return {"keypoints": [v for (x, y), seen in zip(places, triples[:, 2], strict=True) for v in (x, y, int(seen))]}
