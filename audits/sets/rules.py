"""The schema's rules, held against every annotation: classes, kinds, attributes, geometry, values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import orjson
import pandas as pd

from datasetops.audits.base import AuditContext, CheckResult
from datasetops.audits.rowwise import is_crowd
from datasetops.audits.samplewise import SampleFindings, texts
from datasetops.audits.sets.coverage import slice_values
from datasetops.records import SAMPLES, Finding, canonical_json
from datasetops.schema import RELABEL, Attribute, LabelSchema, Limit

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]

_ROUNDING: Final = 0.05  # pixels by which a box may leave its image: files hold one or two decimals
_SLIGHT: Final = 0.5  # pixels up to which it is a matter of the tool that drew it
_FAR: Final = 8.0  # robust deviations from the median beyond which a number is taken for a slip
_MOSTLY_LABELED: Final = 0.8  # share of the samples with a label from which one without is an oversight
_CORNERS: Final = ("x1", "y1", "x2", "y2")
_MOSTLY: Final = 0.95  # share of a metadata key's values that are numbers for it to be judged as a number


@dataclass(frozen=True)
class Fault:
    """A rule that some of a table's rows break: `broken` (N,), and what is said of them.

    `message`: one for all of them, or a function from their row numbers to one for each.
    """

    broken: npt.NDArray[np.bool_]
    severity: str
    score: float
    message: str | Callable[[Ints], list[str]]

    def told(self) -> Iterator[tuple[int, str]]:
        """Row number and message of each broken row."""
        at = np.flatnonzero(self.broken)
        if len(at):
            messages = repeat(self.message) if isinstance(self.message, str) else self.message(at)
            yield from zip(at.tolist(), messages, strict=False)


def _ending(text: str, values: pd.Series[Any], show: Callable[[Any], str] = str) -> Callable[[Ints], list[str]]:
    """Messages that end with the row's value."""
    return lambda at: [text + show(value) for value in values.iloc[at]]


class Rules:
    name = "schema"
    title = "annotations and values that break the schema's rules"
    needs = "nothing"
    cost = "grows with the annotations; seconds for millions"

    def run(self, context: AuditContext) -> CheckResult:
        samples, schema = context.samples, context.schema
        about = SampleFindings(self.name, samples)
        rows = context.annotations.reset_index(drop=True)
        owner = pd.Index(samples["sample_id"]).get_indexer(pd.Index(rows["sample_id"]))
        rows = rows.assign(**{side: samples[side].to_numpy(dtype=np.float64)[owner] for side in ("width", "height")})
        ids, labels = texts(rows["annotation_id"]), texts(rows["label"])
        findings: list[Finding] = []
        bad = np.zeros(len(rows), dtype=bool)
        nearest = {name: schema.nearest(name) for name in rows["label"].dropna().unique() if not schema.find(name)}
        for fault in annotation_faults(rows, schema):
            bad |= fault.broken
            for at, text in fault.told():
                findings.append(
                    about.at(
                        int(owner[at]),
                        fault.severity,
                        fault.score,
                        text,
                        annotation_id=ids[at],
                        given=labels[at],
                        suggested=nearest.get(labels[at]),
                    )
                )
        for fault in sample_faults(samples, rows, schema):
            findings += [about.at(at, fault.severity, fault.score, text) for at, text in fault.told()]
        scores = pd.DataFrame(
            {"sample_id": rows["sample_id"], "annotation_id": rows["annotation_id"], "score": 1.0 - bad.astype(float)}
        )
        summary: dict[str, Any] = {"annotations": len(rows), "breaking a rule": int(bad.sum())}
        unlabeled = len(samples) - len(np.unique(owner))
        if unlabeled:
            summary["samples without any annotation"] = unlabeled
        return CheckResult(findings, scores, summary)


def annotation_faults(rows: pd.DataFrame, schema: LabelSchema) -> Iterator[Fault]:
    """Rules for annotations. `rows` has the columns of records.ANNOTATIONS, and width and height of the image."""
    label, kind = rows["label"], rows["kind"]
    known = label.isin([item.name for item in schema.classes]).to_numpy()
    unnamed = label.isna().to_numpy()
    yield Fault(~known & ~unnamed, "high", 0.0, _ending("the class is not in the schema: ", label))
    deprecated = label.isin([item.name for item in schema.classes if item.deprecated]).to_numpy()
    yield Fault(deprecated, "medium", 0.2, _ending("the class is deprecated: ", label))
    in_schema = kind.isin(schema.kinds)
    crowd = ~in_schema.to_numpy() & is_crowd(rows) & (kind == "mask").to_numpy() & ("polygon" in schema.kinds)
    text = "an area of many objects (iscrowd), kept as a mask; the schema has no task of that kind, so trainers may not expect it"
    yield Fault(crowd, "low", 0.5, text)
    yield Fault(~in_schema.to_numpy() & ~crowd, "high", 0.0, _ending("the schema has no task of the kind ", kind))
    for item in schema.classes:
        if item.kinds:
            misused = (label == item.name) & in_schema & ~kind.isin(item.kinds)
            text = f"{item.name} is for {' and '.join(item.kinds)}, not for "
            yield Fault(misused.to_numpy(), "medium", 0.2, _ending(text, kind))
    yield Fault(unnamed & (kind != "text").to_numpy(), "high", 0.0, "it has no class")
    yield from _attribute_faults(rows, schema)
    yield from _geometry_faults(rows, schema)


def _attribute_faults(rows: pd.DataFrame, schema: LabelSchema) -> Iterator[Fault]:
    given = rows["attributes"]
    parsed = {text: orjson.loads(text) for text in given.dropna().unique()}  # few differ, however many rows there are
    for attribute in schema.attributes:
        told = {text: _attribute_problem(attribute, value.get(attribute.name)) for text, value in parsed.items()}
        wrong = {text: problem for text, problem in told.items() if problem}
        asked = rows["label"].isin(attribute.classes) if attribute.classes else True
        broken = (given.isin(list(wrong)) & asked).to_numpy()
        yield Fault(broken, "medium", 0.2, _ending("", given, wrong.__getitem__))
    waiting = given.isin([text for text, value in parsed.items() if RELABEL in value]).to_numpy()
    yield Fault(waiting, "medium", 0.1, "it waits to be relabeled, since its class was split")


def _geometry_faults(rows: pd.DataFrame, schema: LabelSchema) -> Iterator[Fault]:
    x1, y1, x2, y2, across, down = (rows[c].to_numpy(dtype=np.float64) for c in (*_CORNERS, "width", "height"))
    complete = np.isfinite(x1) & np.isfinite(y1) & np.isfinite(x2) & np.isfinite(y2)
    incomplete = (rows["kind"] == "box").to_numpy() & ~complete
    yield Fault(incomplete, "high", 0.0, "the box has no complete coordinates")
    width, height = x2 - x1, y2 - y1
    empty = complete & ((width <= 0) | (height <= 0))
    yield Fault(empty, "high", 0.0, "the box has no area")
    beyond = np.fmax.reduce([-x1, -y1, x2 - across, y2 - down])
    leaving = "the box leaves the image by "
    slight = complete & (beyond > _ROUNDING) & (beyond <= _SLIGHT)
    yield Fault(slight, "low", 0.5, _ending(leaving, pd.Series(beyond), "{:.2f} pixels".format))
    far = complete & (beyond > _SLIGHT)
    yield Fault(far, "medium", 0.2, _ending(leaving, pd.Series(beyond), "{:.1f} pixels".format))
    for limit in schema.limits:
        applies = complete & ~empty
        if limit.classes:
            applies &= rows["label"].isin(limit.classes).to_numpy()
        relative = limit.unit == "relative"
        yield from _limit_faults(
            limit, applies, width / across if relative else width, height / down if relative else height, rows
        )


def _limit_faults(
    limit: Limit, applies: npt.NDArray[np.bool_], width: Floats, height: Floats, rows: pd.DataFrame
) -> Iterator[Fault]:
    """Sides are in the limit's unit."""
    small, large = np.minimum(width, height), np.maximum(width, height)
    unit = "" if limit.unit == "relative" else " px"
    bounds = [
        (limit.min_side, "shorter side", small, True, unit),
        (limit.max_side, "longer side", large, False, unit),
        (limit.min_area, "area", width * height, True, unit and " square px"),
        (limit.max_area, "area", width * height, False, unit and " square px"),
    ]
    if limit.max_aspect is not None:
        aspect = np.divide(large, small, out=np.full_like(large, np.inf), where=small > 0)
        bounds.append((limit.max_aspect, "longer over shorter side", aspect, False, ""))
    if limit.min_points is not None:
        points = rows["geometry"].where(applies).map(_fewest_points, na_action="ignore").to_numpy(dtype=np.float64)
        bounds.append((limit.min_points, "points of a polygon", points, True, ""))
    for bound, what, value, least, unit in bounds:
        if bound is not None:
            show = f"{{:.4g}}{unit}; the schema says at {'least' if least else 'most'} {bound:g}".format
            message = _ending(f"{what} ", pd.Series(value), show)
            yield Fault(applies & ((value < bound) if least else (value > bound)), "medium", 0.2, message)


def sample_faults(samples: pd.DataFrame, rows: pd.DataFrame, schema: LabelSchema) -> Iterator[Fault]:
    """Rules for samples; `rows` are their annotations."""
    if "classification" in schema.kinds and not schema.multi_label:
        labels = rows[rows["kind"] == "classification"]
        count = samples["sample_id"].map(labels["sample_id"].value_counts()).fillna(0).to_numpy()
        # Where more have no label yet, they are waiting to be labeled.
        if (count > 0).mean() >= _MOSTLY_LABELED:
            yield Fault(count == 0, "medium", 0.3, "it has no class label")
        # Labels of several people are theirs to agree on; one source gives one label.
        own = labels.assign(actor=labels["actor"].astype(object).fillna(""))
        twice = own.loc[own.duplicated(["sample_id", "actor"]), "sample_id"].unique()
        several = pd.Index(twice).get_indexer(pd.Index(samples["sample_id"])) >= 0
        yield Fault(several, "high", 0.1, "it has several class labels, and the schema allows one")
    for item in schema.slices:
        values = slice_values(samples, item.key)
        odd = values.notna().to_numpy(copy=True)
        odd[odd] = ~is_one_of(values[odd], item.values)
        text = f"{item.key} has a value that the schema does not list: "
        yield Fault(odd, "low", 0.5, _ending(text, values, _unlisted(item.values)))
    for key, values in _numbers(samples):
        yield Fault(
            far_off(values), "medium", 0.2, _ending(f"{key} is far from all other values: ", values, "{:g}".format)
        )


def is_one_of(values: pd.Series[Any], listed: Sequence[Any]) -> npt.NDArray[np.bool_]:
    """Which values are among those listed, equal as JSON: 1 is 1.0, but neither "1" nor true."""
    wanted = {canonical_json(value) for value in listed}
    return np.fromiter((canonical_json(value) in wanted for value in values), dtype=bool, count=len(values))


def _unlisted(listed: Sequence[Any]) -> Callable[[Any], str]:
    """How to show a value, so that it does not look like one that is listed."""
    alike = {str(value) for value in listed}
    return lambda value: repr(value) if str(value) in alike else str(value)


def _fewest_points(geometry: str) -> float:
    rings = orjson.loads(geometry).get("polygons") or []
    return min((len(ring) / 2 for ring in rings), default=float("inf"))


def _attribute_problem(attribute: Attribute, given: Any) -> str | None:
    if given is None:
        return None
    expected = {
        "bool": "true or false" if not isinstance(given, bool) else None,
        "number": "a number" if isinstance(given, bool) or not isinstance(given, int | float) else None,
        "text": "a text" if not isinstance(given, str) else None,
        "choice": f"one of {', '.join(attribute.values)}" if given not in attribute.values else None,
    }[attribute.type]
    return f"{attribute.name}: expected {expected}; got {given!r}" if expected else None


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
