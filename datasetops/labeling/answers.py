"""Answers as rows of the annotations table: what annotators said, what they agree on, and what has to change for it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from datasetops.labeling.base import REGION_COLUMNS, Answer, ImageSize, Region, region_name
from datasetops.labeling.batch import Batch
from datasetops.labeling.consensus import ConsensusRegion, merge_answers, voices
from datasetops.records import VOTE, canonical_json, sha256_hex
from datasetops.schema import LabelSchema

Row = dict[str, Any]

_SAME: Final = 0.01  # pixels: what a tool's rounding may move


@dataclass(frozen=True)
class Wanted:
    """The rows that a sample should have after an answer, and the keys that it should no longer have."""

    rows: Mapping[str, Row]
    gone: frozenset[str]


def attach(answer: Answer, base: Sequence[Row], schema: LabelSchema) -> Answer:
    """The answer with each region tied to the row of `base` that it began as, and told whether it differs from it.

    Values that only a tool's rounding moved are put back as they were, and attributes that the schema does not ask for
    stay.
    """
    by_id = {row["annotation_id"]: row for row in base}
    by_name = {region_name(key): row for key, row in by_id.items()}
    asked = {attribute.name for attribute in schema.attributes}
    free = {row["annotation_id"]: row for row in base if row["kind"] == "classification"}
    regions = []
    for region in answer.regions:
        begun = by_id.get(region.derived_from or "") or by_name.get(region.name)
        if begun is None and region.values["kind"] == "classification":
            begun = _class_row(region, list(free.values()), schema)
        if begun is None or begun["kind"] != region.values["kind"]:
            regions.append(replace(region, derived_from=None, changed=True))
            continue
        free.pop(begun["annotation_id"], None)
        kept = {name: value for name, value in (begun["attributes"] or {}).items() if name not in asked}
        values = {**region.values, "attributes": kept | (region.values.get("attributes") or {}) or None}
        same = _same(begun, values)
        values = {name: begun[name] for name in REGION_COLUMNS} if same else values
        regions.append(replace(region, values=values, derived_from=begun["annotation_id"], changed=not same))
    return replace(answer, regions=tuple(regions))


def wanted_rows(
    sample_id: str,
    answers: Sequence[Answer],
    base: Sequence[Row],
    batch: Batch,
    schema: LabelSchema,
    *,
    tool: str,
    size: ImageSize,
    rule: str = "majority",
    decided: Mapping[str, tuple[str, float]] | None = None,
) -> Wanted:
    """What the standing answers to one sample make of its rows. `base` is what its annotators started from.

    Of one person's answers the newest counts. One answer replaces the rows of the kinds that the schema asks for, in place
    where it corrects them. Those of several people are kept as votes and merged by a rule. None: the rows are as they
    were. Answers to gold and blind tasks are votes and nothing
    more. `decided` has (class, quality) by sample id where a rule that looks at all answers at once has chosen.
    """
    done = voices(answers)
    asked = {row["annotation_id"]: row for row in base if row["kind"] in schema.kinds}
    context = _Context(sample_id, batch, tool, schema)
    only_votes = batch.blind or sample_id in batch.gold
    rows: dict[str, Row] = {}
    if only_votes or len(done) > 1:
        for answer in done:
            rows |= {row["annotation_id"]: row for row in context.votes(answer)}
    if only_votes:
        return Wanted(rows, frozenset())
    if not done:
        return Wanted(asked, frozenset())
    if len(done) == 1:
        final = context.rows(done[0])
    else:
        merged = merge_answers(done, schema, size=size)
        final = context.consensus(done, merged.regions, rule, (decided or {}).get(sample_id))
    rows |= {row["annotation_id"]: row for row in final}
    return Wanted(rows, frozenset(asked.keys() - rows.keys()))


def same_content(a: Mapping[str, Any] | None, b: Mapping[str, Any] | None) -> bool:
    """Whether two rows say the same of the image, whoever said it."""
    if a is None or b is None:
        return a is b
    return a["sample_id"] == b["sample_id"] and a.get("role") == b.get("role") and _same(a, b)


@dataclass(frozen=True)
class _Context:
    sample_id: str
    batch: Batch
    tool: str
    schema: LabelSchema

    def rows(self, answer: Answer) -> list[Row]:
        """The rows of an answer that counts."""
        return [self._row(self._id(region), region, answer) for region in answer.regions]

    def votes(self, answer: Answer) -> list[Row]:
        return [self._row(self._vote_id(answer, region), region, answer) | {"role": VOTE} for region in answer.regions]

    def consensus(
        self, answers: Sequence[Answer], merged: Iterable[ConsensusRegion], rule: str, decided: tuple[str, float] | None
    ) -> list[Row]:
        """The rows that several answers make together; `derived_from` lists the votes."""
        votes = {(a.answer_id, region.name): self._vote_id(a, region) for a in answers for region in a.regions}
        rows: dict[str, Row] = {}
        for region in merged:
            values, agreement = dict(region.values), region.agreement
            if decided and values["kind"] == "classification":
                values["label"], agreement = decided
            key = region.derived_from
            if key is None or key in rows:
                key = self._new_id(values, region.parents[0][1])
            told = {"batch": self.batch.name, "tool": self.tool, "rule": rule, "agreement": agreement}
            rows[key] = {name: values.get(name) for name in REGION_COLUMNS} | {
                "annotation_id": key,
                "sample_id": self.sample_id,
                "source": "consensus",
                "derived_from": canonical_json([votes[parent] for parent in region.parents]).decode(),
                "answer": told | ({"tied": True} if region.tied else {}),
            }
        return list(rows.values())

    def _row(self, key: str, region: Region, answer: Answer) -> Row:
        told = {
            "answer_id": answer.answer_id,
            "batch": self.batch.name,
            "tool": self.tool,
            "lead_time": answer.lead_time,
            "changed": region.changed,
            "from_version": self.batch.version,
        }
        return {name: region.values.get(name) for name in REGION_COLUMNS} | {
            "annotation_id": key,
            "sample_id": self.sample_id,
            "source": "human",
            "actor": answer.actor,
            "derived_from": region.derived_from,
            "created_at": answer.updated_at or answer.created_at,
            "answer": {name: value for name, value in told.items() if value is not None},
        }

    def _vote_id(self, answer: Answer, region: Region) -> str:
        return f"{self._id(region)}~{sha256_hex(answer.answer_id.encode())[:8]}"

    def _id(self, region: Region) -> str:
        return region.derived_from or self._new_id(region.values, region.name)

    def _new_id(self, values: Mapping[str, Any], name: str) -> str:
        if values["kind"] != "classification":
            return f"{self.sample_id}#{name}"
        return f"{self.sample_id}/label" + (f"/{values['label']}" if self.schema.multi_label else "")


def _class_row(region: Region, rows: Sequence[Row], schema: LabelSchema) -> Row | None:
    """The row of the same class; with one class an image, the row of any class."""
    same = [row for row in rows if row["label"] == region.values.get("label")]
    return next(iter(same or ([] if schema.multi_label else rows)), None)


def _same(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    exact = ("kind", "label")
    if any(a.get(name) != b.get(name) for name in exact):
        return False
    if (a.get("text") or "") != (b.get("text") or "") or (a.get("attributes") or {}) != (b.get("attributes") or {}):
        return False
    drawn_by_shape = bool(a.get("geometry")) and a["kind"] in ("polygon", "mask", "keypoints")
    corners = () if drawn_by_shape else ("x1", "y1", "x2", "y2")
    return all(_near(a.get(name), b.get(name)) for name in corners) and _same_shape(
        a.get("geometry"), b.get("geometry")
    )


def _same_shape(a: Any, b: Any) -> bool:
    if not a or not b:
        return not a and not b
    if isinstance(a, dict) and isinstance(b, dict):
        if "rle" in a and "rle" in b:
            return _pixels(a["rle"]) == _pixels(b["rle"])
        return a.keys() == b.keys() and all(_same_shape(a[name], b[name]) for name in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(_same_shape(x, y) or _near(x, y) for x, y in zip(a, b, strict=True))
    return _near(a, b)


def _pixels(rle: Mapping[str, Any]) -> bytes:
    """A mask's runs, whichever of the two ways they are written in."""
    from datasetops.formats.rle import run_lengths

    runs = run_lengths(rle["counts"])
    return np.asarray([*rle["size"], *runs], np.int64).tobytes()


def _near(a: Any, b: Any) -> bool:
    if isinstance(a, int | float) and isinstance(b, int | float):
        return math.isclose(a, b, rel_tol=0, abs_tol=_SAME)
    return bool(a == b)
