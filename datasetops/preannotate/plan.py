"""Which samples a model is asked about, and which rows of the version its answers change."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from datasetops.manifest import Version
from datasetops.manifest.version import value_counts
from datasetops.preannotate.human import BY_PEOPLE
from datasetops.preannotate.rows import RowRules
from datasetops.records import ANNOTATIONS, PROVENANCE_COLUMNS, one_array

_CLASS: Final = "classification"
_OUTLINES: Final = ("polygon", "mask")


@dataclass(frozen=True)
class Chosen:
    """`samples` has sample_id, uri and sha256 of those that the model is asked about, by sample_id.

    `selected` were named by the conditions; of these so many have no image, and people labeled so many in
    one of the kinds.
    """

    samples: pa.Table
    selected: int
    without_image: int
    labeled: int


@dataclass(frozen=True)
class Plan:
    """Rows to put and ids to remove. `by_class` counts the rows that the model has then, in these samples.

    `stayed` samples have rows of a model that somebody changed since. `replaced` counts the ids to remove that are of
    other models, `outlined` the samples with boxes by the model in which people outlined things.
    """

    put: pa.Table
    remove: tuple[str, ...]
    stayed: int
    by_class: Mapping[str, int]
    replaced: int
    outlined: int

    @property
    def is_empty(self) -> bool:
        return not len(self.put) and not self.remove


def choose(
    version: Version,
    head: Version,
    kinds: Sequence[str],
    *,
    where: str | None = None,
    also_labeled: bool = False,
    limit: int | None = None,
) -> Chosen:
    """Samples of a version that fulfil a condition, without those that people labeled in `head` in all of the kinds.

    Of the rest the first `limit`. A sample that `head` has no more, or with another image, is none of them.
    """
    table = version.table("samples", ["sample_id", "uri", "sha256"])
    if where is not None:
        table = table.filter(pc.is_in(table["sample_id"], pa.array(version.where(where), pa.string())))
    if head.digest != version.digest:
        now = head.table("samples", ["sample_id", "sha256"])
        image = now["sha256"].take(pc.index_in(one_array(table["sample_id"]), one_array(now["sample_id"])))
        table = table.filter(pc.fill_null(pc.equal(table["sha256"], image), False))
    selected = len(table)
    table = table.filter(pc.is_valid(table["sha256"]))
    with_image = len(table)
    by_people = labeled_by_people(head, kinds)
    labeled = np.stack([_isin(table["sample_id"], by_people[kind]) for kind in kinds])
    if not also_labeled:
        table = table.filter(pa.array(~labeled.all(axis=0)))
    return Chosen(table.slice(0, limit), selected, selected - with_image, int(labeled.any(axis=0).sum()))


def labeled_by_people(version: Version, kinds: Sequence[str]) -> dict[str, pa.Array]:
    """By kind the samples that have an annotation of it which counts and which people gave or brought along."""
    rows = version.labels(["sample_id", "kind", "source"])
    rows = rows.filter(pc.is_in(rows["source"], pa.array(BY_PEOPLE)))
    return {kind: pc.unique(one_array(rows.filter(pc.equal(rows["kind"], kind))["sample_id"])) for kind in kinds}


def plan(head: Version, new: pa.Table, answered: pa.Array, rules: RowRules) -> Plan:
    """What has to change in `head` so that it says of the samples in `answered` what `new` (rows of ANNOTATIONS) says.

    Kept as they are: all rows that people made, the samples where they did, rows of models that somebody changed since,
    and rows that another model gave for classes which this one was not asked for or cannot name, unless the
    image has one class and this one says which. Rows of this very model that it no longer predicts go.
    """
    by_people = labeled_by_people(head, (*rules.kinds, *_OUTLINES))
    rows = head.labels(["annotation_id", "sample_id", "kind", "label", "source", "model", "event_id", "answer"])
    rows = rows.filter(
        pc.and_(pc.is_in(rows["sample_id"], answered), pc.is_in(rows["kind"], pa.array(rules.kinds, pa.string())))
    )
    written, touched = _written_by_models(rows)
    mine = pc.fill_null(pc.equal(rows["model"], rules.model.label), False).to_numpy(zero_copy_only=False) & (
        written | touched
    )
    one_class = pc.equal(rows["kind"], _CLASS).to_numpy(zero_copy_only=False) & (not rules.schema.multi_label)
    # Where somebody changed what another model said, or where one class is all there can be and others gave it.
    kept_as_is = (touched & ~mine) | (one_class & ~written)
    closed = {
        kind: pa.concat_arrays(
            [by_people[kind], one_array(rows.filter(pa.array(_kind(rows, kind) & kept_as_is))["sample_id"])]
        )
        for kind in rules.kinds
    }
    open_new = _open(new, closed)
    stay = _isin(new["annotation_id"], one_array(rows.filter(pa.array(touched & mine))["annotation_id"]))
    new = new.filter(pa.array(open_new & ~stay))
    in_reach = np.zeros(len(rows), bool)
    for kind in rules.kinds:
        asked = [name for name in rules.classes(kind) if not rules.asked or name in rules.asked]
        others = _isin(rows["label"], pa.array(asked, pa.string()))
        own = _isin(rows["label"], pa.array(rules.asked)) if rules.asked else np.ones(len(rows), bool)
        in_reach |= _kind(rows, kind) & np.where(mine, own, others)
    again = _isin(rows["sample_id"], one_array(new.filter(pc.equal(new["kind"], _CLASS))["sample_id"]))
    stale = written & (in_reach | (one_class & ~mine & again)) & _open(rows, closed)
    stale &= ~_isin(rows["annotation_id"], one_array(new["annotation_id"]))
    remove = one_array(rows.filter(pa.array(stale))["annotation_id"]).to_pylist()
    stayed = pc.count_distinct(rows.filter(pa.array(touched))["sample_id"]).as_py()
    by_class, replaced = value_counts(new["label"]), int((stale & ~mine).sum())
    boxed = pc.unique(new.filter(pc.equal(new["kind"], "box"))["sample_id"])
    outlined = int(_isin(boxed, pa.concat_arrays([by_people[kind] for kind in _OUTLINES])).sum())
    return Plan(changed_rows(head, new), tuple(remove), stayed, by_class, replaced, outlined)


def _written_by_models(rows: pa.Table) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Which rows pre-annotation wrote and nobody changed since, and which it wrote and somebody changed."""
    events: list[str | None] = []
    answers = pc.unique(rows["answer"])
    for text in answers.to_pylist():
        told = json.loads(text) if text else {}
        events.append(told.get("event") if "digest" in told else None)
    place = pc.index_in(one_array(rows["answer"]), answers)
    event = pa.array(events, pa.string()).take(place)
    ours = pc.and_(event.is_valid(), pc.equal(rows["source"], "model")).to_numpy(zero_copy_only=False)
    same = pc.fill_null(pc.equal(event, one_array(rows["event_id"])), False).to_numpy(zero_copy_only=False)
    return ours & same, ours & ~same


def _open(rows: pa.Table, closed: dict[str, pa.Array]) -> npt.NDArray[np.bool_]:
    """Rows of samples that may be changed in their kind."""
    result = np.zeros(len(rows), bool)
    for kind, samples in closed.items():
        result |= _kind(rows, kind) & ~_isin(rows["sample_id"], samples)
    return result


def changed_rows(head: Version, new: pa.Table) -> pa.Table:
    """Those of the rows that the version does not have like this."""
    old = head.state("annotations").rows(one_array(new["annotation_id"]))
    place = pc.index_in(one_array(new["annotation_id"]), one_array(old["annotation_id"]))
    same = place.is_valid().to_numpy(zero_copy_only=False)
    for field in ANNOTATIONS:
        if field.name not in PROVENANCE_COLUMNS:
            before, now = one_array(old[field.name]).take(place), one_array(new[field.name])
            equal = pc.fill_null(pc.equal(before, now), False)
            both_null = pc.and_(before.is_null(), now.is_null())
            same &= pc.or_(equal, both_null).to_numpy(zero_copy_only=False)
    return new.filter(pa.array(~same))


def _kind(rows: pa.Table, kind: str) -> npt.NDArray[np.bool_]:
    found: npt.NDArray[np.bool_] = pc.equal(rows["kind"], kind).to_numpy(zero_copy_only=False)
    return found


def _isin(column: pa.ChunkedArray, values: pa.Array) -> npt.NDArray[np.bool_]:
    found: npt.NDArray[np.bool_] = pc.is_in(one_array(column), values).to_numpy(zero_copy_only=False)
    return found
