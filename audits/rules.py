"""The schema's rules, held against every annotation: classes, kinds, attributes, geometry, values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import orjson
import pandas as pd

from datasetops.audits.balance import slice_values
from datasetops.audits.base import AuditContext, CheckResult
from datasetops.records import SAMPLES, Finding
from datasetops.schema import RELABEL, LabelSchema, Limit

_TOLERANCE: Final = 0.5  # pixels by which a box may leave its image: tools round differently
_FAR: Final = 8.0  # robust deviations from the median beyond which a number is taken for a slip
_MOSTLY: Final = 0.95  # share of a metadata key's values that are numbers for it to be judged as a number

Found = Iterator[tuple[Any, str, float, Any]]  # (mask of the rows at fault, severity, score, text or texts)


class Rules:
    name = "schema"
    title = "annotations and values that break the schema's rules"
    needs = "nothing"

    def run(self, context: AuditContext) -> CheckResult:
        rows = context.annotations.reset_index(drop=True)
        sizes = context.samples.set_index("sample_id")[["uri", "split", "width", "height"]]
        rows = rows.join(sizes, on="sample_id")
        findings: list[Finding] = []
        bad = np.zeros(len(rows), dtype=bool)
        for mask, severity, score, text in self._annotation_faults(rows, context.schema):
            mask = np.asarray(mask, dtype=bool)
            bad |= mask
            texts = text if isinstance(text, pd.Series) else pd.Series(text, index=rows.index)
            chosen = rows[mask]
            findings += [
                Finding(
                    self.name,
                    severity,
                    score,
                    told,
                    sample_id=sample,
                    uri=uri,
                    annotation_id=own,
                    split=split,
                    given=label,
                )
                for told, sample, uri, own, split, label in zip(
                    texts[mask],
                    chosen["sample_id"],
                    chosen["uri"],
                    chosen["annotation_id"],
                    chosen["split"],
                    chosen["label"],
                    strict=True,
                )
            ]
        findings += self._sample_faults(context, rows)
        scores = pd.DataFrame(
            {"sample_id": rows["sample_id"], "annotation_id": rows["annotation_id"], "score": 1.0 - bad.astype(float)}
        )
        return CheckResult(findings, scores, {"annotations": len(rows), "breaking a rule": int(bad.sum())})

    def _annotation_faults(self, rows: pd.DataFrame, schema: LabelSchema) -> Found:
        known = {item.name: item for item in schema.classes}
        label = rows["label"]
        yield (
            label.notna() & ~label.isin(list(known)),
            "high",
            0.0,
            "the class is not in the schema: " + label.astype(str),
        )
        deprecated = [name for name, item in known.items() if item.deprecated]
        yield label.isin(deprecated), "medium", 0.2, "the class is deprecated: " + label.astype(str)
        yield (
            ~rows["kind"].isin(schema.kinds),
            "high",
            0.0,
            "the schema has no task of the kind " + rows["kind"].astype(str),
        )
        yield label.isna() & (rows["kind"] != "text"), "high", 0.0, "it has no class"
        yield from self._attribute_faults(rows, schema)
        yield from self._geometry_faults(rows, schema)

    def _attribute_faults(self, rows: pd.DataFrame, schema: LabelSchema) -> Found:
        texts = rows["attributes"]
        parsed = {text: orjson.loads(text) for text in texts.dropna().unique()}
        told = {text: _attribute_problem(value, schema) for text, value in parsed.items()}
        problem = texts.map(told)
        yield problem.notna(), "medium", 0.2, problem
        waiting = texts.isin([text for text, value in parsed.items() if RELABEL in value])
        yield waiting, "medium", 0.1, "it waits to be relabeled, since its class was split"

    def _geometry_faults(self, rows: pd.DataFrame, schema: LabelSchema) -> Found:
        width, height = rows["x2"] - rows["x1"], rows["y2"] - rows["y1"]
        has_box = rows[["x1", "y1", "x2", "y2"]].notna().all(axis=1)
        empty = has_box & ((width <= 0) | (height <= 0))
        yield empty, "high", 0.0, "the box has no area"
        beyond = pd.concat(
            [-rows["x1"], -rows["y1"], rows["x2"] - rows["width"], rows["y2"] - rows["height"]], axis=1
        ).max(axis=1)
        outside = has_box & (beyond > _TOLERANCE)
        yield outside, "medium", 0.2, "the box leaves the image by " + beyond.round(1).astype(str) + " pixels"
        for limit in schema.limits:
            applies = has_box & ~empty & (rows["label"].isin(limit.classes) if limit.classes else True)
            yield from _limit_faults(limit, applies, width, height, rows)

    def _sample_faults(self, context: AuditContext, rows: pd.DataFrame) -> list[Finding]:
        samples, schema = context.samples, context.schema
        findings: list[Finding] = []

        def report(mask: Any, severity: str, score: float, texts: Any) -> None:
            chosen = samples[np.asarray(mask, dtype=bool)]
            told = texts[chosen.index] if isinstance(texts, pd.Series) else [texts] * len(chosen)
            findings.extend(
                Finding(self.name, severity, score, text, sample_id=own, uri=uri, split=split)
                for text, own, uri, split in zip(told, chosen["sample_id"], chosen["uri"], chosen["split"], strict=True)
            )

        if "classification" in schema.kinds and not schema.multi_label:
            classes = rows.loc[rows["kind"] == "classification", "sample_id"].value_counts()
            count = samples["sample_id"].map(classes).fillna(0)
            if classes.sum():  # a set without any label yet is waiting to be labeled
                report(count == 0, "medium", 0.3, "it has no class label")
            report(count > 1, "high", 0.1, "it has several class labels, and the schema allows one")
        for item in schema.slices:
            values = slice_values(samples, item.key)
            listed = {str(value) for value in item.values}
            odd = values.notna() & ~values.map(lambda value, listed=listed: str(value) in listed)
            report(odd, "low", 0.5, f"{item.key} has a value that the schema does not list: " + values.astype(str))
        for key, values in _numbers(samples):
            far = far_off(values)
            report(far, "medium", 0.2, f"{key} is far from all other values: " + values.astype(str))
        return findings


def _limit_faults(limit: Limit, applies: Any, width: Any, height: Any, rows: pd.DataFrame) -> Found:
    if limit.unit == "relative":
        width, height = width / rows["width"], height / rows["height"]
    small, large = np.minimum(width, height), np.maximum(width, height)
    area = width * height
    unit = "" if limit.unit == "relative" else " px"
    bounds = (
        (limit.min_side, small < (limit.min_side or 0), "shorter side", small, "at least"),
        (limit.max_side, large > (limit.max_side or 0), "longer side", large, "at most"),
        (limit.min_area, area < (limit.min_area or 0), "area", area, "at least"),
        (limit.max_area, area > (limit.max_area or 0), "area", area, "at most"),
    )
    for bound, broken, what, value, word in bounds:
        if bound is not None:
            text = f"{what} " + value.round(3).astype(str) + f"{unit}; the schema says {word} {bound:g}"
            yield applies & broken, "medium", 0.2, text
    if limit.max_aspect is not None:
        aspect = large / small
        text = (
            "longer over shorter side "
            + aspect.round(2).astype(str)
            + f"; the schema says at most {limit.max_aspect:g}"
        )
        yield applies & (aspect > limit.max_aspect), "medium", 0.2, text
    if limit.min_points is not None:
        least = rows["geometry"].map(_fewest_points, na_action="ignore")
        text = "a polygon has " + least.astype(str) + f" points; the schema says at least {limit.min_points}"
        yield applies & (least < limit.min_points), "medium", 0.2, text


def _fewest_points(geometry: str) -> float:
    rings = orjson.loads(geometry).get("polygons") or []
    return min((len(ring) / 2 for ring in rings), default=float("inf"))


def _attribute_problem(value: dict[str, Any], schema: LabelSchema) -> str | None:
    for attribute in schema.attributes:
        given = value.get(attribute.name)
        if given is None:
            continue
        if attribute.type == "bool" and not isinstance(given, bool):
            return f"{attribute.name}: expected true or false; got {given!r}"
        if attribute.type == "number" and (isinstance(given, bool) or not isinstance(given, int | float)):
            return f"{attribute.name}: expected a number; got {given!r}"
        if attribute.type == "choice" and given not in attribute.values:
            return f"{attribute.name}: expected one of {', '.join(attribute.values)}; got {given!r}"
    return None


def _numbers(samples: pd.DataFrame) -> Iterator[tuple[str, pd.Series[Any]]]:
    """Metadata keys whose values are numbers, perhaps with a unit such as 060Y; the number of the commonest unit."""
    texts = samples["metadata"]
    parsed = {text: orjson.loads(text) for text in texts.dropna().unique()}
    keys = {key for value in parsed.values() for key in value} - set(SAMPLES.names)
    for key in sorted(keys):
        values = texts.map({text: value.get(key) for text, value in parsed.items()})
        told = values.dropna().map(lambda value: None if isinstance(value, bool) else str(value))
        parts = told.str.extract(r"^(-?\d+(?:\.\d+)?)\s*([A-Za-z%]{0,3})$") if len(told) else pd.DataFrame()
        if not len(parts) or parts[0].notna().mean() < _MOSTLY:
            continue
        unit = parts[1].value_counts().index[0]
        number = parts.loc[parts[1] == unit, 0].astype(float)
        yield key, number.reindex(samples.index)


def far_off(values: pd.Series[Any]) -> npt.NDArray[np.bool_]:
    """Numbers so far above or below all others that they are rather slips than rare cases; missing ones are not.

    Farther from the median than 8 robust deviations, and separated from the next value by as much as that value's own
    distance to the median: a long tail has no such gap. Keys that look like ids (nearly all different) are passed over.
    """
    known = values.dropna()
    flags = np.zeros(len(values), dtype=bool)
    if len(known) < 30 or known.nunique() > 0.5 * len(known):
        return flags
    distance = (known - known.median()).abs()
    spread = distance[distance > 0].median() / 0.6745 if (distance > 0).any() else 0.0
    ordered = np.sort(distance.unique())
    cut = np.inf
    for low, high in zip(ordered[-2::-1], ordered[:0:-1], strict=True):
        if high <= _FAR * spread:
            break
        if high >= 2 * max(low, spread):
            cut = high
    if (distance >= cut).sum() <= max(1, 0.001 * len(known)):
        flags[values.index.get_indexer(known.index[distance >= cut])] = True
    return flags
