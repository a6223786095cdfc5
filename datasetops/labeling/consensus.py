"""Several annotators' answers to one image: what they say together, and how far two of them agree.

An annotator has one voice: of several answers the newest counts, skipped ones do not. Answers are ordered by
(created_at, answer_id), and "first" below means first in that order, so the order in which they are passed is of no
matter.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import orjson

from datasetops.errors import DatasetOpsError, did_you_mean
from datasetops.labeling.base import REGION_COLUMNS, Answer, ImageSize, Region, Row
from datasetops.labeling.consensus_regions import group_regions, merged_place, most, text_similarity, value_key
from datasetops.schema import LabelSchema

_USE_MAJORITY: Final = "Use the rule `majority`, which needs no more than the answers."
_SUM_TOLERANCE: Final = 0.01  # of one image's probabilities
_TIE_STEP: Final = 1e-9  # in probability: classes that are equally likely go in the order of the schema


@dataclass(frozen=True)
class ConsensusRegion:
    """What several annotators marked as one. `values` has `REGION_COLUMNS`.

    `parents` are (answer_id, region name) of what it was merged from. `agreement` in (0, 1] is the share of all
    annotators of the image that gave it with this label and this text. `derived_from` is the annotation_id of the
    pre-annotation that more than half of the parents began as. `tied`: another label, text or attribute value had as
    many votes, and that of the first answer stands.
    """

    values: Row
    parents: tuple[tuple[str, str], ...]
    agreement: float
    derived_from: str | None
    tied: bool


@dataclass(frozen=True)
class Consensus:
    """What stands for one image, in the order of the first answer that gave each."""

    regions: tuple[ConsensusRegion, ...] = ()


@dataclass(frozen=True)
class _Mark:
    voice: int  # number of the answer
    answer_id: str
    region: Region
    row: dict[str, Any]


def merge_answers(answers: Sequence[Answer], schema: LabelSchema, *, size: ImageSize | None = None) -> Consensus:
    """The rule `majority`. `size` of the image gives lone keypoints a scale (`consensus_regions.similarities`).

    - One class per image: the class with most votes, at a tie that of the first answer; none where more than half of
      the annotators gave none. `tied` also where as many gave none.
    - Several classes per image, and regions: what more than half of the annotators gave. So of one annotator everything
      stands, of two what both gave.
    - Regions of the same kind that are at least 0.5 alike are one, the same label preferred
      (`consensus_regions.group_regions`). The place is that of more than half of them, else a median or the most
      central one (`consensus_regions.merged_place`).
    - Label: most votes, at a tie the first. Text: that of more than half, else the one nearest to all by edit distance.
    - Attributes: by those that gave the label. What at least half of them answered, by most votes; of numbers without a
      majority the median.
    """
    given = voices(answers)
    images: list[_Mark] = []
    regions: list[_Mark] = []
    for number, answer in enumerate(given):
        for region in answer.regions:
            mark = _Mark(number, answer.answer_id, region, _row(region))
            (images if mark.row["kind"] == "classification" else regions).append(mark)
    order = {(mark.answer_id, mark.region.name): index for index, mark in enumerate(images + regions)}
    merged = _merge_classes(images, len(given), multi=schema.multi_label)
    groups = group_regions([mark.row for mark in regions], [mark.voice for mark in regions], size=size)
    for group in groups:
        if 2 * len(group) > len(given):
            merged.append(_merged([regions[index] for index in group], len(given), size))
    merged.sort(key=lambda region: (region.values["kind"] != "classification", order[region.parents[0]]))
    return Consensus(tuple(merged))


def voices(answers: Sequence[Answer]) -> list[Answer]:
    """The answer of each annotator that counts, the newest that was not skipped; the earliest begun first."""
    newest: dict[str, Answer] = {}
    for answer in sorted(answers, key=lambda answer: (answer.updated_at or answer.created_at or "", answer.answer_id)):
        if answer.status == "done":
            newest[answer.actor] = answer
    return sorted(newest.values(), key=lambda answer: (answer.created_at or "~", answer.answer_id))


def agreement(a: Answer, b: Answer, *, size: ImageSize | None = None) -> float | None:
    """How far two answers to one image agree, in [0, 1]; None where neither says anything, or one was skipped.

    The mean of two parts, each left out where neither answer has any. Classes of the image: those in common over all of
    both, 1 or 0 for one class each. Regions: F1 of those of the same kind and label that are at least 0.5 alike
    (`consensus_regions.similarities`); a matched text counts 1 - its normalised edit distance.
    """
    if "skipped" in (a.status, b.status):
        return None
    rows = [[_row(region) for region in answer.regions] for answer in (a, b)]
    classes = [{row["label"] for row in side if row["kind"] == "classification"} for side in rows]
    marks = [[row for row in side if row["kind"] != "classification"] for side in rows]
    parts = []
    if classes[0] or classes[1]:
        parts.append(len(classes[0] & classes[1]) / len(classes[0] | classes[1]))
    if marks[0] or marks[1]:
        both = marks[0] + marks[1]
        owners = [0] * len(marks[0]) + [1] * len(marks[1])
        pairs = [group for group in group_regions(both, owners, same_label=True, size=size) if len(group) == 2]
        matched = sum(text_similarity(both[one]["text"], both[other]["text"]) for one, other in pairs)
        parts.append(2 * matched / len(both))
    return statistics.fmean(parts) if parts else None


def answer_of_rows(rows: Iterable[Row]) -> Answer:
    """Annotations of one sample as an answer, to be compared with one: gold, pre-annotations, an earlier version.

    Geometry and attributes may be JSON text, as a version stores them. A region's name is its annotation_id.
    """
    regions = []
    for number, row in enumerate(rows):
        values = _filled(row)
        for name in ("geometry", "attributes"):
            if isinstance(values[name], str):
                values[name] = orjson.loads(values[name])
        regions.append(Region(str(row.get("annotation_id") or number), values, changed=False))
    return Answer(answer_id="", actor="", status="done", regions=tuple(regions))


def cleanlab_consensus(
    votes: Mapping[str, Mapping[str, str]], classes: Sequence[str], probabilities: Mapping[str, npt.ArrayLike]
) -> dict[str, tuple[str, float]]:
    """The rule `cleanlab`: label and quality in [0, 1] of each sample by CROWDLAB (Goh, Tkachenko, Mueller 2022).

    It weighs each annotator, and the model, by how often they agree with the others. `votes` are {sample_id: {actor:
    label}}, one class an image; samples without votes are left out. `probabilities` are a model's (K,) for each sample,
    out of sample, in the order of `classes`. Raises DatasetOpsError for labels and probabilities that do not fit, and
    where no two annotators agree on any sample, so that nothing tells whom to trust.
    """
    sample_ids = sorted(sample_id for sample_id, given in votes.items() if given)
    if not sample_ids:
        return {}
    labels = _label_matrix(votes, sample_ids, classes)
    chances = _chances(probabilities, sample_ids, len(classes))
    most_votes = max((labels == number).sum(axis=1).max() for number in range(len(classes)))
    if len(classes) < 2 or most_votes < 2:
        problem = "there is only one class" if len(classes) < 2 else "no two annotators gave the same label to a sample"
        raise DatasetOpsError(f"cleanlab cannot weigh the annotators: {problem}.", remedy=_USE_MAJORITY)
    from cleanlab.multiannotator import get_label_quality_multiannotator

    try:
        result = get_label_quality_multiannotator(
            labels, chances, return_detailed_quality=False, return_annotator_stats=False, verbose=False
        )["label_quality"]
    except ValueError as error:
        raise DatasetOpsError(f"cleanlab cannot weigh the annotators: {error}", remedy=_USE_MAJORITY) from error
    numbers = result["consensus_label"].to_numpy().tolist()
    quality = np.clip(result["consensus_quality_score"].to_numpy(dtype=np.float64), 0, 1)
    if not np.isfinite(quality).all():
        raise DatasetOpsError("cleanlab gave no quality for some samples.", remedy=_USE_MAJORITY)
    return {
        sample_id: (classes[number], score)
        for sample_id, number, score in zip(sample_ids, numbers, quality.tolist(), strict=True)
    }


def _row(region: Region) -> dict[str, Any]:
    return _filled(region.values)


def _filled(values: Row) -> dict[str, Any]:
    """All columns of a region; None in place of NaN."""
    row = {name: values.get(name) for name in REGION_COLUMNS}
    for name, value in row.items():
        if value != value:
            row[name] = None
    return row


def _merge_classes(marks: list[_Mark], annotators: int, *, multi: bool) -> list[ConsensusRegion]:
    given: dict[str, dict[int, _Mark]] = {}  # label to its supporters, both in the order of the answers
    for mark in marks:
        if mark.row["label"] is not None:
            given.setdefault(mark.row["label"], {}).setdefault(mark.voice, mark)
    if multi:
        chosen = [list(support.values()) for support in given.values() if 2 * len(support) > annotators]
        return [_merged(support, annotators, None) for support in chosen]
    silent = annotators - len({voice for support in given.values() for voice in support})
    if not given or 2 * silent > annotators:
        return []
    counts = sorted((len(support) for support in given.values()), reverse=True)
    winner = next(support for support in given.values() if len(support) == counts[0])
    tied = counts[0] in counts[1:] or silent >= counts[0]
    return [_merged(list(winner.values()), annotators, None, tied=tied)]


def _merged(marks: list[_Mark], annotators: int, size: ImageSize | None, *, tied: bool = False) -> ConsensusRegion:
    """One region from those of several annotators. `tied` is what is known of its label already."""
    rows = [mark.row for mark in marks]
    values, agreeing = rows[0], len(rows)
    if any(row != values for row in rows):
        label, _, label_tied = most([row["label"] for row in rows], key=lambda label: label)
        text, text_tied = _merge_text([row["text"] for row in rows])
        attributes, attributes_tied = _merge_attributes([row["attributes"] for row in rows if row["label"] == label])
        values = {"kind": values["kind"], "label": label, **merged_place(rows, size)}
        values |= {"text": text, "attributes": attributes}
        agreeing = sum(row["label"] == label and row["text"] == text for row in rows)
        tied = tied or label_tied or text_tied or attributes_tied
    begun = Counter(mark.region.derived_from for mark in marks).most_common(1)[0]
    return ConsensusRegion(
        values={name: values[name] for name in REGION_COLUMNS},
        parents=tuple((mark.answer_id, mark.region.name) for mark in marks),
        agreement=agreeing / annotators,
        derived_from=begun[0] if 2 * begun[1] > len(marks) else None,
        tied=tied,
    )


def _merge_text(texts: list[str | None]) -> tuple[str | None, bool]:
    """The text of more than half, else the one nearest to all; whether another is as near."""
    text, count, _ = most(texts, key=lambda text: text)
    if 2 * count > len(texts):
        return text, False
    nearness = [round(math.fsum(text_similarity(text, other) for other in texts), 9) for text in texts]
    nearest = texts[nearness.index(max(nearness))]
    return nearest, any(near == max(nearness) and text != nearest for near, text in zip(nearness, texts, strict=True))


def _merge_attributes(given: list[dict[str, Any] | None]) -> tuple[dict[str, Any] | None, bool]:
    whole, count, _ = most(given, key=value_key)
    if 2 * count > len(given):
        return whole, False
    merged: dict[str, Any] = {}
    tied = False
    for name in dict.fromkeys(name for attributes in given for name in attributes or ()):
        values = [attributes[name] for attributes in given if attributes and name in attributes]
        if 2 * len(values) < len(given):
            continue
        merged[name], count, value_tied = most(values, key=value_key)
        if 2 * count <= len(values):
            if all(type(value) in (int, float) for value in values):
                merged[name] = statistics.median(values)
            else:
                tied = tied or value_tied
    return merged or None, tied


def _label_matrix(
    votes: Mapping[str, Mapping[str, str]], sample_ids: Sequence[str], classes: Sequence[str]
) -> npt.NDArray[np.float64]:
    """Class numbers (N, M), NaN for who did not look at a sample; columns are the annotators by name."""
    column = {
        actor: place for place, actor in enumerate(sorted({actor for given in votes.values() for actor in given}))
    }
    number = {name: place for place, name in enumerate(classes)}
    labels = np.full((len(sample_ids), len(column)), np.nan)
    for row, sample_id in enumerate(sample_ids):
        for actor, label in votes[sample_id].items():
            if label not in number:
                raise DatasetOpsError(
                    f"Sample {sample_id!r}: {actor!r} gave the label {label!r}, which is not among the classes.",
                    remedy=did_you_mean(label, classes, noun="classes"),
                )
            labels[row, column[actor]] = number[label]
    return labels


def _chances(
    probabilities: Mapping[str, npt.ArrayLike], sample_ids: Sequence[str], classes: int
) -> npt.NDArray[np.float64]:
    """(N, K), rows sum to 1, no two of a row that would be an exact tie."""
    absent = [sample_id for sample_id in sample_ids if sample_id not in probabilities]
    if absent:
        raise DatasetOpsError(
            f"{len(absent)} of {len(sample_ids)} samples have no probabilities, the first is {absent[0]!r}.",
            remedy=f"Predict them with the model first. {_USE_MAJORITY}",
        )
    chances = np.zeros((len(sample_ids), classes))
    for row, sample_id in enumerate(sample_ids):
        given = np.asarray(probabilities[sample_id], np.float64)
        sound = given.shape == (classes,) and bool(np.isfinite(given).all()) and bool((given >= 0).all())
        if not sound or abs(given.sum() - 1) > _SUM_TOLERANCE:
            raise DatasetOpsError(
                f"Sample {sample_id!r}: expected {classes} probabilities that sum to 1; got {str(given)[:80]}.",
                remedy=f"Predict with a model of these classes. {_USE_MAJORITY}",
            )
        chances[row] = given
    chances += _TIE_STEP * np.arange(classes)[::-1]  # cleanlab would break an exact tie at random
    normalised: npt.NDArray[np.float64] = chances / chances.sum(axis=1, keepdims=True)
    return normalised
