"""Boxes and masks that a model found against those that people drew."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa

from datasetops.evaluation.answers import Answers
from datasetops.evaluation.classification import CriticalRate, critical_rates
from datasetops.evaluation.detection import coco_metrics
from datasetops.evaluation.error_kinds import ERROR_KINDS, MISSED, ErrorKinds, error_kinds
from datasetops.evaluation.judged import REGION, Judged, critical_targets, failures_table, named, plain_rate
from datasetops.evaluation.matching import RECALLS, Curves, match
from datasetops.evaluation.pixels import shared_pixels
from datasetops.evaluation.regions import OUTLINED, Flags, Ints, Regions, found_regions, pairs_of, truth_regions
from datasetops.evaluation.resampling import AveragePrecision, Metric
from datasetops.preannotate.measure import SAME_BOX
from datasetops.schema import LabelSchema
from datasetops.schema.model import Critical

_RESAMPLES: Final = 100  # of average precision: enough for a standard error, which is then 7 % off


def judge_regions(
    answers: Answers, samples: pd.DataFrame, annotations: pa.Table, schema: LabelSchema, groups: Ints, score: float
) -> Judged:
    rows = np.flatnonzero(answers.answered)
    mine = samples.iloc[rows]
    ids = pa.array(mine["sample_id"].tolist(), pa.string())
    names = schema.class_names
    sizes = mine[["width", "height"]].fillna(0).to_numpy(np.int64)
    outlined = answers.kind in OUTLINED
    truth = truth_regions(annotations, ids, names, sizes if outlined else None)
    found = found_regions(answers.rows, ids, names, sizes if outlined else None)
    coco = coco_metrics(found, truth, sizes, names)
    pairs = pairs_of(found, truth)
    curves = Curves.of(found, truth, match(found, truth, pairs), len(rows), len(names), pooled=True)
    kinds = error_kinds(found, truth, pairs, len(names))
    is_sure = found.score >= score
    sure = found[is_sure]
    sure_pairs = pairs[is_sure[pairs.first]]
    sure_pairs = replace(sure_pairs, first=(np.cumsum(is_sure) - 1)[sure_pairs.first])
    at_score = error_kinds(sure, truth, sure_pairs, len(names))
    hits = match(sure, truth, sure_pairs, np.array([SAME_BOX]))
    was_found = np.zeros(len(truth), bool)
    was_found[hits.truth[hits.truth >= 0]] = True
    counted = ~truth.crowd
    by_class = coco.by_class()
    details: dict[str, Any] = {
        "classes": [
            {"name": name, "examples": int((truth.boxes.label[counted] == code).sum()), **by_class[name]}
            for code, name in enumerate(names)
            if name in by_class
        ],
        "evaluator": coco.evaluator,
        "error_kinds": kinds.as_dict(),
        "score": score,
        "critical": [plain_rate(rate) for rate in _critical_rates(sure, truth, was_found, names, schema, groups[rows])],
        "curves": {
            name: {"precision_recall": list(zip(RECALLS.tolist(), coco.curves(name)[0].tolist(), strict=True))}
            for name in by_class
        },
    }
    annotation_ids = annotations["annotation_id"].to_numpy(zero_copy_only=False)[truth.rows]
    things = pd.DataFrame(
        {
            "sample_id": mine["sample_id"].to_numpy(object)[truth.boxes.image],
            "annotation_id": annotation_ids,
            "truth": named(names, truth.boxes.label),
            "right": was_found,
            **_region(truth, np.arange(len(truth)), annotations),
        }
    )[counted]
    # Means over the classes that happen to be there are no measure of a part of the data: classes that are found where
    # they are not cost nothing if it holds none of them. In one order of all detections they do.
    metrics: dict[str, Metric] = {"pooled_AP": AveragePrecision(curves), "pooled_AP50": AveragePrecision(curves, 0)}
    everything = np.ones((1, len(rows)))
    if outlined:
        metrics["mean_iou"] = shared = shared_pixels(truth, sure, len(rows), len(names))
        by_name = dict(zip(names, shared.by_class(everything)[0].tolist(), strict=True))
        for item in details["classes"]:
            item["iou"] = by_name[item["name"]]
    pooled = {name: float(metric.values(everything)[0]) for name, metric in metrics.items()}
    empty = len(rows) - len(np.unique(truth.boxes.image))
    return Judged(
        answers.kind,
        rows,
        metrics,
        coco.summary() | pooled,
        details,
        things.reset_index(drop=True),
        _failures(
            *(sure, answers.rows, truth, annotations),
            *(at_score, mine["sample_id"].to_numpy(object), annotation_ids, names),
        ),
        "AP",
        {"with nothing labeled, which counts as nothing to find": empty},
        resamples=_RESAMPLES,
    )


def _critical_rates(
    sure: Regions, truth: Regions, was_found: Flags, names: tuple[str, ...], schema: LabelSchema, groups: Ints
) -> list[CriticalRate]:
    """Of objects not found, and of images without the class where one was found: nothing else can be counted there."""
    targets = critical_targets(schema)
    images = len(groups)
    holds, claimed = (np.zeros((images, len(names)), bool) for _ in range(2))
    holds[truth.boxes.image, truth.boxes.label] = True
    claimed[sure.boxes.image, sure.boxes.label] = True
    false = {name: Critical(max_fpr=item.max_fpr) for name, item in targets.items() if item.max_fpr is not None}
    missed = {name: Critical(max_fnr=item.max_fnr) for name, item in targets.items() if item.max_fnr is not None}
    counted = ~truth.crowd
    own = truth.boxes.label[counted, None] == np.arange(len(names))
    return [
        *critical_rates(holds, claimed, names, false, groups),
        *critical_rates(own, own & was_found[counted, None], names, missed, groups[truth.boxes.image[counted]]),
    ]


def _failures(
    sure: Regions,
    detections: pa.Table,
    truth: Regions,
    annotations: pa.Table,
    kinds: ErrorKinds,
    sample_ids: Any,
    annotation_ids: Any,
    names: tuple[str, ...],
) -> pd.DataFrame:
    """False detections by falling score, then missed objects by falling size."""
    wrong = np.flatnonzero(kinds.kind >= 0)
    wrong = wrong[np.argsort(-sure.score[wrong], kind="stable")]
    object_ = kinds.object[wrong]
    missed = np.flatnonzero(kinds.missed)
    missed = missed[np.argsort(-truth.area[missed], kind="stable")]
    false = _region(sure, wrong, detections) | {
        "sample_id": sample_ids[sure.boxes.image[wrong]],
        "annotation_id": np.array([*annotation_ids, None], object)[object_],
        "error": np.array(ERROR_KINDS, object)[kinds.kind[wrong]],
        "truth": named(names, np.append(truth.boxes.label, -1)[object_]),
        "predicted": named(names, sure.boxes.label[wrong]),
        "score": sure.score[wrong],
        "note": "",
    }
    lost = _region(truth, missed, annotations) | {
        "sample_id": sample_ids[truth.boxes.image[missed]],
        "annotation_id": annotation_ids[missed],
        "error": MISSED,
        "truth": named(names, truth.boxes.label[missed]),
        "predicted": None,
        "score": math.nan,
        "note": [f"{math.sqrt(area):.0f} pixels large" for area in truth.area[missed].tolist()],
    }
    return failures_table(
        pd.concat(
            [failures_table(pd.DataFrame(part)) for part in (false, lost) if len(part["sample_id"])] or [pd.DataFrame()]
        )
    )


def _region(regions: Regions, which: Ints, table: pa.Table) -> dict[str, Any]:
    """The columns REGION of some regions, which are of rows of a table."""
    geometry = None if regions.masks is None else table["geometry"].take(pa.array(regions.rows[which])).to_pylist()
    return dict(zip(REGION, [*regions.boxes.corners[which].T, geometry], strict=True))
