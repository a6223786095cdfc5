"""How right a model is, on samples that people labeled: precision and recall by class, score and slice."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from datasetops.audits.boxes.pairs import Boxes, one_to_one, overlaps
from datasetops.audits.labels.label_probabilities import grouped_with_copies
from datasetops.errors import ModelError
from datasetops.manifest import Version
from datasetops.preannotate.human import BY_PEOPLE
from datasetops.preannotate.thresholds import (
    CONFIDENCE,
    Flags,
    Floats,
    Ints,
    Share,
    share,
)
from datasetops.records import one_array

KINDS: Final = ("classification", "box")  # whose predictions are right or wrong; shapes and texts are so by degrees
SAME_BOX: Final = 0.5  # intersection over union from which two boxes mark one thing, as in PASCAL VOC
SCORES: Final = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
_CORNERS: Final = ("x1", "y1", "x2", "y2")


@dataclass(frozen=True)
class Judged:
    """Predictions held against what people said, on samples where they said something of the kind.

    Of N predictions: the `sample`, the class, the score, whether it is `right`. Of M labels by people: the sample, the
    class, and the score of the prediction that `found` it, NaN where none did. Samples are row numbers of `sample_ids`,
    and `groups` has the group of each of these.
    """

    kind: str
    sample_ids: npt.NDArray[Any]
    groups: Ints
    sample: Ints
    label: npt.NDArray[Any]
    score: Floats
    right: Flags
    truth_sample: Ints
    truth_label: npt.NDArray[Any]
    found: Floats

    @property
    def group(self) -> Ints:
        """Of each prediction."""
        return self.groups[self.sample]


@dataclass(frozen=True)
class Rate:
    """Of a class's predictions from a score on, in a slice (None: everywhere): precision, and recall of what people said."""

    name: str
    score: float
    slice: str | None
    precision: Share
    recall: Share

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def judged_kind(kinds: tuple[str, ...]) -> tuple[str, ...]:
    """The kind whose precision is promised. Raises ModelError where it is not one, or not simply right or wrong."""
    if len(kinds) == 1 and kinds[0] in KINDS:
        return kinds
    raise ModelError(
        f"A precision is promised of one kind of annotation, {' or '.join(KINDS)}; the model gives "
        f"{' and '.join(kinds)}.",
        remedy=("Name it with --task, or g" if any(kind in KINDS for kind in kinds) else "G")
        + "ive a --threshold of your own.",
    )


def people_said(version: Version, samples: pa.Table, kind: str) -> tuple[pa.Table, npt.NDArray[Any]]:
    """(annotations of a kind that people gave there, the group of each of the samples joined with its copies).

    `samples` has sample_id. Labels of sealed splits stay out of it, and so do those of an image with several classes
    where the schema allows one.
    """
    about = version.table("samples", ["sample_id", "sha256", "split", "group"])
    about = about.filter(pc.is_in(about["sample_id"], one_array(samples["sample_id"])))
    place = pc.index_in(one_array(samples["sample_id"]), one_array(about["sample_id"]))
    frame = about.take(place).to_pandas()
    allowed = pa.array(frame["sample_id"][~frame["split"].isin(list(version.commit.sealed))], pa.string())
    rows = version.labels(["sample_id", "kind", "label", "source", *_CORNERS])
    keep = pc.and_(pc.equal(rows["kind"], kind), pc.is_in(rows["source"], pa.array(BY_PEOPLE)))
    rows = rows.filter(pc.and_(keep, pc.is_in(rows["sample_id"], allowed)))
    if kind == "classification" and not version.schema.multi_label and len(rows):
        pairs = rows.select(["sample_id", "label"]).to_pandas().drop_duplicates()
        single = pairs[~pairs["sample_id"].duplicated(keep=False)]
        rows = pa.Table.from_pandas(single, preserve_index=False)
    return rows, grouped_with_copies(frame).to_numpy().astype(np.int64)


def judge(
    predicted: pa.Table,
    said: pa.Table,
    kind: str,
    samples: pa.Table,
    groups: npt.NDArray[Any],
    *,
    iou: float = SAME_BOX,
) -> Judged:
    """Hold predictions of a kind against labels by people; samples without any such label count on neither side.

    Both tables have sample_id and label, boxes their corners as well, and predictions a score. A class is right where a
    person gave it too. Boxes are matched one to one within their class, the highest score first, where they overlap by
    at least `iou`. `samples` (sample_id) and their `groups` may be more than are in the tables. Raises ValueError for
    another kind.
    """
    if kind not in KINDS:
        raise ValueError(f"kind: expected {' or '.join(KINDS)}, which are right or wrong; got {kind!r}")
    ids = one_array(samples["sample_id"])
    if "kind" in predicted.column_names:
        predicted = predicted.filter(pc.equal(predicted["kind"], kind))
    labeled = one_array(said["sample_id"])
    predicted = predicted.filter(
        pc.and_(pc.is_in(predicted["sample_id"], labeled), pc.is_in(predicted["sample_id"], ids))
    )
    said = said.filter(pc.is_in(said["sample_id"], ids))
    one, other = _sorted(predicted, ids), _sorted(said, ids)
    score = one["score"].to_numpy(np.float64)
    right: Flags = np.zeros(len(one), np.bool_)
    found: Floats = np.full(len(other), np.nan)
    names = pd.unique(pd.concat([one["label"], other["label"]]))
    codes = [pd.Categorical(frame["label"], categories=names).codes.astype(np.int64) for frame in (one, other)]
    if kind == "classification":
        keys = [
            frame["at"].to_numpy(np.int64) * len(names) + code for frame, code in zip((one, other), codes, strict=True)
        ]
        right = np.isin(keys[0], keys[1])
        best = pd.Series(score).groupby(keys[0]).max()
        found = best.reindex(keys[1]).to_numpy(np.float64)
    else:
        boxes = [
            Boxes(frame["at"].to_numpy(np.int64), code, frame[list(_CORNERS)].to_numpy(np.float64))
            for frame, code in zip((one, other), codes, strict=True)
        ]
        pairs = overlaps(boxes[0], boxes[1], iou=iou)
        pairs = pairs[boxes[0].label[pairs.first] == boxes[1].label[pairs.second]]
        strength = np.empty(len(pairs))
        strength[np.lexsort((pairs.iou, score[pairs.first]))] = np.arange(len(pairs))
        pairs = pairs[one_to_one(pairs, strength)]
        right[pairs.first] = True
        found[pairs.second] = score[pairs.first]
    return Judged(
        kind, np.array(ids.to_pylist(), dtype=object), np.asarray(groups, np.int64),
        one["at"].to_numpy(np.int64), one["label"].to_numpy(object), score, right,
        other["at"].to_numpy(np.int64), other["label"].to_numpy(object), found,
    )  # fmt: skip


def rates(
    judged: Judged,
    classes: Sequence[str],
    *,
    scores: Sequence[float] = SCORES,
    slices: Mapping[str, npt.NDArray[np.bool_]] | None = None,
    confidence: float = CONFIDENCE,
) -> list[Rate]:
    """Precision and recall of each class from each score on, everywhere and in each slice.

    `slices` are flags of `judged.sample_ids` by name. Bounds are exact (Clopper and Pearson, Biometrika 26, 1934), each
    with the given confidence, for as many independent items as there are groups.
    """
    parts: dict[str | None, npt.NDArray[Any]] = {None: np.ones(len(judged.sample_ids), np.bool_)}
    parts.update(slices or {})
    truth_group = judged.groups[judged.truth_sample]
    labels, truth = (
        pd.Categorical(told, categories=list(classes)).codes for told in (judged.label, judged.truth_label)
    )
    result = []
    for code, name in enumerate(classes):
        given, wanted = np.flatnonzero(labels == code), np.flatnonzero(truth == code)
        for title, inside in parts.items():
            mine = given[inside[judged.sample[given]]]
            theirs = wanted[inside[judged.truth_sample[wanted]]]
            there = worth(truth_group[theirs])
            for score in scores:
                reach = mine[judged.score[mine] >= score]
                right = int(judged.right[reach].sum())
                precision = share(len(reach), right, worth(judged.group[reach]), confidence)
                hit = int((judged.found[theirs] >= score).sum())
                result.append(Rate(name, score, title, precision, share(len(theirs), hit, there, confidence)))
    return result


def plain(rate: Rate) -> dict[str, Any]:
    """One flat row of a table: numbers, and None where there is nothing to divide by."""
    row: dict[str, Any] = {"class": rate.name, "score": rate.score, "slice": rate.slice}
    for name, one in (("precision", rate.precision), ("recall", rate.recall)):
        row |= {name: None if math.isnan(one.value) else one.value, f"{name}_low": one.low, f"{name}_high": one.high}
        row |= {f"{name}_of": one.count}
    return row


def worth(groups: Ints) -> int:
    """How many independent items these are worth, as the last of `effective_counts`."""
    sizes = np.unique(groups, return_counts=True)[1]
    return len(groups) ** 2 // int((sizes**2).sum()) if len(groups) else 0


def _sorted(rows: pa.Table, ids: pa.Array) -> pd.DataFrame:
    """Rows by the place `at` of their sample."""
    at = pc.index_in(one_array(rows["sample_id"]), ids)
    wanted = [name for name in ("label", "score", *_CORNERS) if name in rows.column_names]
    frame = rows.select(wanted).to_pandas()
    frame["at"] = at.to_numpy(zero_copy_only=False)
    ordered: pd.DataFrame = frame.sort_values("at", kind="stable", ignore_index=True)
    return ordered
