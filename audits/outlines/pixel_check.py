"""Masks and polygons held against class probabilities of every pixel: image after image, keeping a few numbers of each."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import orjson
import pandas as pd

from datasetops.audits.base import AuditContext
from datasetops.audits.charts import bars
from datasetops.audits.outlines.overlaps import draw, pixels, usable_outlines
from datasetops.audits.outlines.pixel_noise import BINS, LabelMap, Region, judge_image
from datasetops.audits.outlines.pixel_probabilities import PixelModel
from datasetops.audits.samplewise import SampleFindings, sample_scores, texts
from datasetops.images import PIXEL_LIMIT
from datasetops.records import Finding

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]
Bools: TypeAlias = npt.NDArray[np.bool_]

_KNOWN: Final = 0.5  # median probability of a class's own pixels from which the model knows it, and may suggest it
_HABIT: Final = 0.1  # share of a class's pixels that the model takes for one other, from which it mixes the two up,
_FEW: Final = 5  # as long as they are more regions than these
_DENSE: Final = 0.8  # share of the pixels with a label from which those without one were forgotten
_SURE: Final = 0.8  # mean probability of the suggestion
_LARGE: Final = 0.05  # depth as a share of the image's side
_VERY_SURE: Final = 0.95
_VERY_LARGE: Final = 0.1
_CHARTED: Final = 15


@dataclass
class PixelResult:
    """`means` (N,): mean probability of each row's label over its pixels, NaN where it was not judged."""

    means: Floats
    image_scores: pd.DataFrame
    findings: list[Finding]
    summary: dict[str, Any]


class LabelMaps:
    """What each image's pixels are labeled as. `rows`: columns of records.ANNOTATIONS, width and height of the image, and
    what `measure_outlines` made of them. Smaller outlines lie on top; crowds and classes out of use are not judged."""

    def __init__(self, rows: pd.DataFrame, samples: pd.DataFrame, names: tuple[str, ...]) -> None:
        self._rows = rows
        codes = pd.Categorical(rows["label"], categories=list(names)).codes.astype(np.int16)
        self._judged: Bools = usable_outlines(rows) & (codes >= 0)
        self._codes = codes
        owner = pd.Index(samples["sample_id"]).get_indexer(pd.Index(rows["sample_id"]))
        size = rows[["height", "width"]].to_numpy(dtype=np.float64)
        drawn = (rows["has_rings"] | rows["has_mask"]).to_numpy() & rows["fault"].isna().to_numpy()
        drawn &= np.isfinite(size).all(axis=1) & (size.prod(axis=1) <= PIXEL_LIMIT)
        order = np.flatnonzero(drawn)
        order = order[np.lexsort((-rows["area"].to_numpy()[order], owner[order]))]
        heads = np.flatnonzero(np.diff(owner[order])) + 1
        self._of_sample = {int(owner[group[0]]): group for group in np.split(order, heads) if len(group)}
        self.samples = [sample for sample, group in self._of_sample.items() if self._judged[group].any()]

    def paint(self, sample: int) -> LabelMap:
        group = self._of_sample[sample]
        height, width = (int(side) for side in self._rows[["height", "width"]].iloc[group[0]])
        classes, owner = np.full((height, width), -1, np.int16), np.full((height, width), -1, np.int32)
        for row, geometry in zip(group.tolist(), self._rows["geometry"].iloc[group], strict=True):
            inside = pixels(draw(orjson.loads(geometry), height, width))
            classes[inside] = self._codes[row] if self._judged[row] else -1
            owner[inside] = row if self._judged[row] else -2
        return LabelMap(classes, owner)


def judge_pixels(
    rows: pd.DataFrame, maps: LabelMaps, context: AuditContext, model: PixelModel, check: str
) -> PixelResult:
    """Scores and findings of the annotations and images that the model has probabilities for."""
    names, samples = context.schema.class_names, context.samples
    ids = [str(one) for one in samples["sample_id"]]
    means, areas = np.full(len(rows), np.nan), np.zeros(len(rows))
    scores = np.full(len(samples), np.nan)
    histogram = np.zeros((len(names), BINS), np.int64)
    found: list[tuple[int, Region]] = []
    images = labeled = judged = 0
    for sample in context.progress(maps.samples, len(maps.samples), "Judging pixels"):
        labels = maps.paint(sample)
        bands = model.bands(ids[sample], *labels.classes.shape)
        if bands is None:
            continue
        image = judge_image(labels, bands, len(names))
        images += 1
        means[image.owners], areas[image.owners], scores[sample] = image.means, image.areas, image.score
        histogram += image.histogram
        found += [(sample, region) for region in image.regions]
        labeled, judged = labeled + int((labels.owner >= 0).sum()), judged + int((labels.owner >= -1).sum())
    summary: dict[str, Any] = {
        "model": model.name,
        "images": images,
        "images not judged": len(samples) - images,
    }
    dense = labeled >= _DENSE * judged
    if not dense:
        summary["unlabeled pixels"] = f"not judged: only {labeled / max(judged, 1):.0%} of all have a label"
    kept = _believed(
        [(sample, region) for sample, region in found if dense or region.owner >= 0], histogram, names, summary
    )
    about = SampleFindings(check, samples)
    annotation_ids = texts(rows["annotation_id"])
    findings = [_finding(about, sample, region, names, annotation_ids, areas) for sample, region in kept]
    mixed = Counter(f"{_named(names, region.label)} → {names[region.suggested]}" for _, region in kept)
    summary["regions"] = len(kept)
    if mixed:
        summary["charts"] = [bars("Regions labeled → looking like", dict(mixed.most_common(_CHARTED)))]
    return PixelResult(means, sample_scores(samples, ~np.isnan(scores), scores), findings, summary)


def _believed(
    found: list[tuple[int, Region]], histogram: Ints, names: tuple[str, ...], summary: dict[str, Any]
) -> list[tuple[int, Region]]:
    """Regions without suggestions of classes that the model does not know, or mixes up with what is given."""
    count = histogram.sum(axis=1)
    median = (histogram.cumsum(axis=1) < count[:, None] / 2).sum(axis=1) / BINS
    known = (median >= _KNOWN) & (count > 0)
    taken = np.zeros((2, len(names) + 1, len(names)))
    for _, region in found:
        taken[:, region.label, region.suggested] += (region.area, 1)
    mixed = (taken[0] > _HABIT * np.append(count, np.inf)[:, None]) & (taken[1] > _FEW)
    unknown = [name for name, knows, pixels in zip(names, known, count, strict=True) if pixels and not knows]
    if unknown:
        summary["classes that the model does not know"] = unknown
    if mixed.any():
        pairs = zip(*np.nonzero(mixed), strict=True)
        summary["classes that the model mixes up"] = [f"{names[one]} → {names[other]}" for one, other in pairs]
    return [pair for pair in found if known[pair[1].suggested] and not mixed[pair[1].label, pair[1].suggested]]


def _finding(
    about: SampleFindings,
    sample: int,
    region: Region,
    names: tuple[str, ...],
    ids: npt.NDArray[np.object_],
    areas: Floats,
) -> Finding:
    sure, suggested = region.sure - region.given, names[region.suggested]
    severity = "low"
    if region.depth >= _LARGE and region.sure >= _SURE:
        severity = "high" if region.depth >= _VERY_LARGE and sure >= _VERY_SURE else "medium"
    score = 1 - sure * min(1.0, region.depth / _VERY_LARGE)
    chances = f"{region.sure:.0%} against {region.given:.0%}"
    if region.owner < 0:
        text = f"{region.area:,} pixels have no label and look like {suggested}: {region.sure:.0%}"
        return about.at(sample, severity, score, text, suggested=suggested, box=region.box)
    place = ", ".join(f"{side:.0f}" for side in region.box)
    text = f"{region.area / areas[region.owner]:.0%} of the pixels, around ({place}), look like {suggested}: {chances}"
    return about.at(
        sample,
        severity,
        score,
        text,
        annotation_id=ids[region.owner],
        given=names[region.label],
        suggested=suggested,
    )


def _named(names: tuple[str, ...], label: int) -> str:
    return names[label] if label >= 0 else "no label"
