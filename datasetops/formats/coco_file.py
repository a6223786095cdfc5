"""One COCO annotation file while it is read, and the names of its fields."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from datasetops.formats.listing import Listing
from datasetops.formats.problems import Problems
from datasetops.schema import LabelSchema

LISTS = ("images", "annotations", "categories")
# Columns of a sample that COCO has no field for: read by their names, as a table's are, and written below the key "dsops".
SAMPLE_FIELDS = ("split", "group", "origin", "consent", "expires_at", "captured_at")
# Fields that have a meaning; any other of an image is metadata, any other of an annotation an attribute.
IMAGE_FIELDS = frozenset({"id", "file_name", "width", "height", "license", "date_captured", "dsops", *SAMPLE_FIELDS})
ANNOTATION_FIELDS = frozenset(
    {"id", "image_id", "category_id", "bbox", "segmentation", "keypoints", "iscrowd", "caption", "score", "dsops"}
)
# What is kept below the key "dsops".
IMAGE_EXTENSION = ("sample_id", *SAMPLE_FIELDS)
ANNOTATION_EXTENSION = ("annotation_id", "kind", "source", "actor", "model", "text", "derived_from")


@dataclass(frozen=True)
class CocoFile:
    """`key_prefix` keeps image ids of several files of one source apart; `nonfinite`: NaN or Infinity stand in it."""

    path: str
    document: dict[str, Any]
    nonfinite: bool
    key_prefix: str
    split: str | None
    images: Listing
    schema: LabelSchema
    problems: Problems

    def reject(self, message: str, *, given: str | None = None, count: int = 1) -> None:
        self.problems.reject(f"{self.path}: {message}", path=self.path, given=given, count=count)

    def warn(self, message: str, *, severity: str = "medium", given: str | None = None) -> None:
        self.problems.warn(f"{self.path}: {message}", path=self.path, severity=severity, given=given)

    def objects(self, name: str) -> list[dict[str, Any]]:
        """The objects of one of the file's lists; anything else in it is rejected."""
        entries = self.document[name]
        objects = [entry for entry in entries if type(entry) is dict]
        lost = len(entries) - len(objects)
        if lost:
            self.reject(f"{lost} entries of {name!r} are not objects", count=lost)
        return objects


def extension(entry: dict[str, Any]) -> dict[str, Any]:
    """What `coco_write` put below "dsops", as far as it is of the right type."""
    own = entry.get("dsops")
    if type(own) is not dict:
        return {}
    types = {"computed": list, "attributes": dict, "metadata": dict}
    return {name: value for name, value in own.items() if type(value) is types.get(name, str)}


def is_id(value: object) -> bool:
    return type(value) in (int, str)
