"""What is wrong with polygons and masks: by themselves, with one another, and pixel by pixel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from datasetops.audits.base import AuditContext, CheckResult, skipped
from datasetops.audits.charts import bars
from datasetops.audits.outlines.faults import outline_faults
from datasetops.audits.outlines.measures import measure_outlines
from datasetops.audits.outlines.overlaps import against_class_masks, repeated
from datasetops.audits.outlines.pixel_check import LabelMaps, judge_pixels
from datasetops.audits.outlines.pixel_probabilities import PixelModel
from datasetops.audits.outlines.pixel_probe import Features, fit_pixel_probe
from datasetops.audits.rowwise import RowFindings, with_sizes


class Masks:
    """`context.memo` may hold `pixel_probabilities`, a `PixelModel`, or else `dense_features`, a function of an RGB image
    that gives an array (rows, columns, D) of cells for a probe to learn from."""

    name = "mask"
    title = "polygons and masks that are broken, doubled, or contradicted by a model of their pixels"
    needs = "polygons or masks; for labels of pixels, images or probabilities of pixels"
    cost = "seconds for 100,000 outlines; the model of pixels about 10 images a second"

    def run(self, context: AuditContext) -> CheckResult:
        given = context.annotations
        drawn = given["kind"].isin(["polygon", "mask"]) | given["geometry"].str.contains('"(?:polygons|rle)"', na=False)
        if not drawn.any():
            return skipped("there are no polygons and no masks")
        # Boxes too, since an image's mask of a class may contradict them.
        rows = with_sizes(given[drawn | (given["kind"] == "box")], context.samples)
        rows = pd.concat([rows, measure_outlines(rows)], axis=1)
        told = RowFindings(self.name, context.samples, rows)
        told.add(outline_faults(rows))
        told.add(repeated(rows))
        told.add(against_class_masks(rows))
        summary: dict[str, Any] = {"outlines": int(drawn.sum())} | told.summary()
        summary["charts"] = [bars("Doubts about polygons and masks", told.counts)] if told.counts else []
        findings, scores = told.findings(), [told.scores()]
        maps = LabelMaps(rows, context.samples, context.schema.class_names)
        model = _pixel_model(context, maps)
        if isinstance(model, str):
            summary["pixels"] = f"not judged: {model}"
        else:
            pixels = judge_pixels(rows, maps, context, model, self.name)
            summary["pixels"] = pixels.summary
            summary["charts"] += pixels.summary.pop("charts", [])
            scores[0]["score"] = np.fmin(scores[0]["score"], pixels.means)
            findings, scores = findings + pixels.findings, [*scores, pixels.image_scores]
        scores[0] = scores[0][(rows["has_rings"] | rows["has_mask"] | (rows["kind"] != "box")).to_numpy()]
        return CheckResult(findings, pd.concat(scores, ignore_index=True), summary)


def _pixel_model(context: AuditContext, maps: LabelMaps) -> PixelModel | str:
    """The user's probabilities, else a probe on features of a network; a reason where neither can be had."""
    supplied: PixelModel | None = context.memo.get("pixel_probabilities")
    features: Features | None = context.memo.get("dense_features")
    if supplied is not None:
        return supplied
    if features is None:
        return "there are no probabilities of pixels"
    return fit_pixel_probe(context, maps, features)
