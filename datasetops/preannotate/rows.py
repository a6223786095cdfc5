"""Predictions as rows of the annotations table: which class, above which score, where in the image as it is stored."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from datasetops.labeling.base import ImageSize
from datasetops.labeling.orientation import mask_to_stored, to_stored
from datasetops.preannotate.mapping import ClassMapping
from datasetops.preannotate.predictions import SCORE_PLACES, ModelInfo, Stored
from datasetops.records import ANNOTATIONS, canonical_json, one_array
from datasetops.schema import LabelSchema

# What a row takes to be written unless told otherwise. One class an image: the best, whatever its score, for people
# choose faster than they type. Several: more likely than not. Regions: below it detectors find more than there is.
DEFAULT_THRESHOLDS: Final = {"classification": 0.0, "box": 0.3, "polygon": 0.3, "mask": 0.3, "keypoints": 0.3}
DEFAULT_THRESHOLDS_OTHER: Final = 0.5  # several classes an image; text
_CLASS: Final = "classification"
_SUM: Final = 1.01  # scores that add up to no more are shares of one, and those of a class's names may be added up
_CORNERS: Final = ("x1", "y1", "x2", "y2")

# For all classes, by class (None: no row of it), or as DEFAULT_THRESHOLDS has them.
Thresholds = float | Mapping[str, float | None] | None


@dataclass(frozen=True)
class RowRules:
    """How rows are made. `kinds` are those to write, of the classes `asked` (empty: all); `event_id` is that of the event
    which makes them, `attributes` JSON that stands in each.

    `outlines` has by sample the annotation that the prediction of a rank outlines; others of its make no row. `known` has
    by image (SHA-256) the class that people gave a copy of it, which the model learned from: its rows say that.
    """

    model: ModelInfo
    mapping: ClassMapping
    schema: LabelSchema
    kinds: tuple[str, ...]
    thresholds: Thresholds
    event_id: str
    asked: tuple[str, ...] = ()
    outlines: Mapping[str, Mapping[int, str]] | None = None
    attributes: str | None = None
    known: Mapping[str, str] = field(default_factory=dict)

    def classes(self, kind: str) -> tuple[str, ...]:
        """Classes that the model can tell apart, of those that rows of this kind may have."""
        found = (self.schema.find(name) for name in self.mapping.targets)
        return tuple(item.name for item in found if item and (not item.kinds or kind in item.kinds))

    def threshold(self, kind: str, label: str | None) -> float:
        """The least score of a row; infinite where such rows are not asked for."""
        if self.asked and label not in self.asked:
            return math.inf
        default = DEFAULT_THRESHOLDS.get(kind, DEFAULT_THRESHOLDS_OTHER)
        if kind == _CLASS and self.schema.multi_label:
            default = DEFAULT_THRESHOLDS_OTHER
        if isinstance(self.thresholds, Mapping):
            least = default if label is None else self.thresholds.get(label, default)
            return math.inf if least is None else float(least)
        return default if self.thresholds is None else float(self.thresholds)


class Owners:
    """The samples of images, looked up by key. `table` has sample_id and key, a row a sample."""

    def __init__(self, table: pa.Table) -> None:
        keys = np.array(table["key"].to_pylist() or [""], dtype=np.bytes_)[: len(table)]
        order = np.argsort(keys, kind="stable")
        self._keys, self._samples = keys[order], one_array(table["sample_id"]).take(pa.array(order))

    def of(self, keys: pa.ChunkedArray) -> tuple[pa.Array, npt.NDArray[np.int64]]:
        """Ids of all samples of some distinct keys, and for each the place of its key among these."""
        own = np.array(keys.to_pylist() or [""], dtype=np.bytes_)[: len(keys)]
        low, high = np.searchsorted(self._keys, own, "left"), np.searchsorted(self._keys, own, "right")
        rows, item = _ranges(low, high - low)
        return self._samples.take(pa.array(rows)), item


def rows_of(stored: Stored, owners: Owners, rules: RowRules) -> pa.Table:
    """Rows of ANNOTATIONS for the samples of some images.

    Ids are made of the sample, the model's digest, the kind and the prediction's rank, so that they stay over
    thresholds and mappings.
    """
    sample_ids, items = owners.of(stored.images["key"])
    tables = [_regions(stored, sample_ids, items, rules, kind) for kind in rules.kinds if kind != _CLASS]
    if _CLASS in rules.kinds:
        tables.append(_classifications(stored, sample_ids, items, rules))
    return pa.concat_tables([_completed(table, rules) for table in tables] or [ANNOTATIONS.empty_table()])


def _regions(
    stored: Stored, sample_ids: pa.Array, items: npt.NDArray[np.int64], rules: RowRules, kind: str
) -> pa.Table:
    found = stored.predictions.filter(pc.equal(stored.predictions["kind"], kind))
    names = pc.unique(found["name"]).to_pylist()
    allowed = set(rules.classes(kind))
    labels = [None if name is None else rules.mapping.classes.get(name) for name in names]
    labels = [label if label in allowed else None for label in labels]
    least = [
        rules.threshold(kind, label) if label is not None or (kind == "text" and name is None) else np.inf
        for name, label in zip(names, labels, strict=True)
    ]
    which = pc.index_in(one_array(found["name"]), pa.array(names, pa.string())).to_numpy().astype(np.int64)
    scores = found["score"].to_numpy()
    keep = scores >= np.array([*least, np.inf])[which]
    found, which = found.filter(pa.array(keep)), which[keep]
    found = _as_stored(found, stored.images)
    rows, owner = _for_samples(found["item"].to_numpy(), items, len(stored.images))
    ids, told = sample_ids.take(pa.array(owner)), found.take(pa.array(rows))
    which = which[rows]
    rank = told["rank"].combine_chunks().cast(pa.string())
    start = f"#{rules.model.digest[:12]}.{kind}"
    derived = pa.nulls(len(ids), pa.string())
    if rules.outlines is not None:
        pairs = zip(ids.to_pylist(), told["rank"].to_pylist(), strict=True)
        derived = pa.array([rules.outlines.get(sample, {}).get(place) for sample, place in pairs], pa.string())
    table = pa.table(
        {
            "annotation_id": pc.binary_join_element_wise(ids, pa.scalar(start), rank, ""),
            "sample_id": ids,
            "kind": pa.repeat(kind, len(ids)).cast(pa.string()),
            "label": pa.array(labels, pa.string()).take(pa.array(which)),
            **{name: told[name] for name in (*_CORNERS, "geometry", "text", "score")},
            "derived_from": derived,
            "answer": pa.array([_answer(rules, name) for name in names], pa.string()).take(pa.array(which)),
        }
    )
    return table if rules.outlines is None else table.filter(pc.is_valid(table["derived_from"]))


def _classifications(stored: Stored, sample_ids: pa.Array, items: npt.NDArray[np.int64], rules: RowRules) -> pa.Table:
    classes = rules.classes(_CLASS)
    scores = class_scores(stored, rules.mapping, classes, several=rules.schema.multi_label)
    if rules.known and not rules.schema.multi_label:
        codes = {name: code for code, name in enumerate(classes)}
        for row, key in enumerate(stored.images["key"].to_pylist()):
            if (code := codes.get(rules.known.get(key, ""))) is not None:
                scores[row] = np.eye(len(classes))[code]
    least = np.array([rules.threshold(_CLASS, name) for name in classes])
    if rules.schema.multi_label or not classes:
        image, which = (np.asarray(found, np.int64) for found in np.nonzero((scores >= least) & (scores > 0)))
    else:
        best = np.where(np.isnan(scores), -1.0, scores).argmax(axis=1)
        top = scores[np.arange(len(scores)), best]
        image = np.flatnonzero((top >= least[best]) & (top > 0) & (top >= _other_scores(stored, rules.mapping)))
        which = np.asarray(best[image], np.int64)
    rows, owner = _for_samples(image, items, len(stored.images))
    ids = sample_ids.take(pa.array(owner))
    labels = pa.array(classes, pa.string()).take(pa.array(which[rows]))
    start = pa.scalar(f"#{rules.model.digest[:12]}.{_CLASS}")
    parts = (ids, start, pa.scalar("/"), labels, "") if rules.schema.multi_label else (ids, start, "")
    return pa.table(
        {
            "annotation_id": pc.binary_join_element_wise(*parts),
            "sample_id": ids,
            "kind": pa.repeat(_CLASS, len(ids)).cast(pa.string()),
            "label": labels,
            "score": pa.array(scores[image, which][rows], pa.float64()),
            "answer": pa.repeat(_answer(rules, None), len(ids)).cast(pa.string()),
        }
    )


def class_scores(
    stored: Stored, mapping: ClassMapping, classes: tuple[str, ...], *, several: bool
) -> npt.NDArray[np.float64]:
    """Scores (images, classes) of the schema's classes, NaN for an image that the model did not classify.

    Where a model gives the scores of all its names as shares of one, those of a class's names are added up; otherwise,
    and where `several` classes may hold, the highest counts.
    """
    place = {name: column for column, name in enumerate(classes)}
    result = np.full((len(stored.images), len(classes)), np.nan)
    given: npt.NDArray[np.bool_] = np.zeros(len(result), bool)
    if stored.names:
        given = np.asarray(~np.isnan(stored.scores).all(axis=1))
    own = np.nan_to_num(stored.scores[given].astype(np.float64))
    shares = own.sum(axis=1) <= _SUM
    for name, column in place.items():
        names = [index for index, one in enumerate(stored.names) if mapping.classes.get(one) == name]
        part = own[:, names] if names else np.zeros((len(own), 1))
        highest = part.max(axis=1)
        result[given, column] = highest if several else np.where(shares, part.sum(axis=1), highest)
    rows = stored.predictions.filter(pc.equal(stored.predictions["kind"], _CLASS))
    item, score = rows["item"].to_numpy(), rows["score"].to_numpy()
    columns = np.array([place.get(mapping.classes.get(name) or "", -1) for name in rows["name"].to_pylist()], int)
    alone = ~given[item] & (columns >= 0)
    result[np.unique(item[~given[item]])] = 0.0
    np.maximum.at(result, (item[alone], columns[alone]), score[alone])
    rounded: npt.NDArray[np.float64] = np.round(np.minimum(result, 1.0), SCORE_PLACES)
    return rounded


def names_no_class(stored: Stored, rules: RowRules) -> npt.NDArray[np.bool_]:
    """Which images (N,) the model calls by a name that stands for no class, where each has one class."""
    scores = class_scores(stored, rules.mapping, rules.classes(_CLASS), several=False)
    beaten: npt.NDArray[np.bool_] = _other_scores(stored, rules.mapping) > np.nan_to_num(scores).max(
        axis=1, initial=0.0
    )
    return beaten


def _other_scores(stored: Stored, mapping: ClassMapping) -> npt.NDArray[np.float64]:
    """The highest score (images,) of a name that counts for no class: what beats all classes makes no row."""
    highest = np.zeros(len(stored.images))
    columns = [index for index, name in enumerate(stored.names) if mapping.classes.get(name) is None]
    if columns and len(highest):
        highest = np.nan_to_num(stored.scores[:, columns].astype(np.float64)).max(axis=1)
    rows = stored.predictions.filter(pc.equal(stored.predictions["kind"], _CLASS))
    other = np.array([mapping.classes.get(name) is None for name in rows["name"].to_pylist()], bool)
    np.maximum.at(highest, rows["item"].to_numpy()[other], rows["score"].to_numpy()[other])
    return np.round(highest, SCORE_PLACES)


def _for_samples(
    item: npt.NDArray[np.int64], items: npt.NDArray[np.int64], images: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rows that are sorted by their image `item`, once for each sample: (row, sample). `items` is each sample's image."""
    counts = np.bincount(item, minlength=images)
    starts = np.cumsum(counts) - counts
    return _ranges(starts[items], counts[items])


def _ranges(
    starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """All numbers of the ranges that begin at `starts`, and for each the index of its range."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    numbers = np.arange(total) + np.repeat(starts - (ends - lengths), lengths)
    return numbers, np.repeat(np.arange(len(lengths)), lengths)


def _as_stored(found: pa.Table, images: pa.Table) -> pa.Table:
    """The same predictions with their places in pixels of the images as they are stored."""
    turned: npt.NDArray[np.bool_] = images["orientation"].to_numpy()[found["item"].to_numpy()] != 1
    if not turned.any():
        return found
    item = found["item"].to_numpy()
    sizes = np.stack([images[name].to_numpy().astype(np.int64) for name in ("width", "height", "orientation")], axis=1)
    corners = np.stack([found[name].to_numpy(zero_copy_only=False) for name in _CORNERS], axis=1)
    geometry = found["geometry"].to_pylist()
    for values in np.unique(sizes[item[turned]], axis=0):
        size = ImageSize(*values.tolist())
        rows = np.flatnonzero((sizes[item] == values).all(axis=1))
        points = to_stored(corners[rows].reshape(-1, 2), size).reshape(-1, 2, 2)
        corners[rows] = np.concatenate([points.min(axis=1), points.max(axis=1)], axis=1)
        for row in rows.tolist():
            if geometry[row] is not None:
                geometry[row] = canonical_json(_stored_geometry(json.loads(geometry[row]), size)).decode()
    for column, name in enumerate(_CORNERS):
        turned_back = pa.array(corners[:, column], pa.float64(), from_pandas=True)
        found = found.set_column(found.column_names.index(name), name, turned_back)
    return found.set_column(found.column_names.index("geometry"), "geometry", pa.array(geometry, pa.string()))


def _stored_geometry(geometry: Mapping[str, Any], size: ImageSize) -> dict[str, Any]:
    if "polygons" in geometry:
        return {
            "polygons": [
                to_stored(np.reshape(np.asarray(ring, np.float64), (-1, 2)), size).ravel().tolist()
                for ring in geometry["polygons"]
            ]
        }
    if "keypoints" in geometry:
        triples = np.reshape(np.asarray(geometry["keypoints"], np.float64), (-1, 3)).copy()
        triples[:, :2] = to_stored(triples[:, :2], size)
        return {"keypoints": triples.ravel().tolist()}
    return {"rle": _stored_rle(geometry["rle"], size)}


def _stored_rle(rle: Mapping[str, Any], size: ImageSize) -> dict[str, Any]:
    from pycocotools import mask as coco

    from datasetops.formats.rle import run_lengths

    lengths = run_lengths(rle["counts"])
    pixels = np.repeat(np.arange(len(lengths)) % 2, lengths).reshape(rle["size"], order="F")
    encoded = coco.encode(np.asfortranarray(mask_to_stored(pixels, size), dtype=np.uint8))
    return {"size": [int(side) for side in encoded["size"]], "counts": encoded["counts"].decode()}


def _completed(table: pa.Table, rules: RowRules) -> pa.Table:
    """All columns of ANNOTATIONS."""
    same = {"source": "model", "model": rules.model.label, "event_id": rules.event_id}
    same |= {} if rules.attributes is None else {"attributes": rules.attributes}
    columns = []
    for column in ANNOTATIONS:
        if column.name in table.column_names:
            columns.append(table[column.name].cast(column.type))
        elif column.name in same:
            columns.append(pa.repeat(same[column.name], len(table)).cast(column.type))
        else:
            columns.append(pa.nulls(len(table), column.type))
    return pa.table(columns, schema=ANNOTATIONS)


def _answer(rules: RowRules, name: str | None) -> str:
    """What `annotations.answer` says of a row: the model's digest and own name for it, and the event that wrote it."""
    told = {"digest": rules.model.digest, "event": rules.event_id} | ({} if name is None else {"name": name})
    return canonical_json(told).decode()
