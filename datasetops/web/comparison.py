"""What the comparison page shows: what changed between two versions, with pictures, in time that grows with the changes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, TypeAlias
from urllib.parse import quote, unquote

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from datasetops.manifest import Repository, Version, diff
from datasetops.manifest.diff import Diff
from datasetops.web.changed_samples import KEY, changed_samples

Ints: TypeAlias = npt.NDArray[np.int64]

KINDS: Final = {
    "relabeled": "Another class",
    "moved": "Moved or reshaped",
    "drawn": "Label added",
    "deleted": "Label removed",
    "other": "Other values of a label",
    "fields": "Facts of the sample",
    "added": "Sample added",
    "removed": "Sample removed",
}
MOST: Final = 200  # samples on a page
_BIT: Final = {name: 1 << at for at, name in enumerate(KINDS)}
_WHOLE: Final = _BIT["added"] | _BIT["removed"]
_GEOMETRY: Final = ("x1", "y1", "x2", "y2", "geometry")
_COLUMNS: Final = ["annotation_id", "sample_id", "kind", "label", *_GEOMETRY, "role"]
_NONE: Final = "(none)"
_MATRIX: Final = 12  # classes on a side; what has more is told as a list
_PAIRS: Final = 40
_CLASSES: Final = 100


@dataclass(frozen=True)
class Changed:
    """`ids` of the changed samples, those in both versions first, and `what` changed, a bit for each of KINDS.

    `relabels` has a row for each label whose class changed (sample_id, before, after), `by_class` counts labels,
    `before` and `after` name those that changed, were removed or added (annotation_id, sample_id).
    """

    ids: npt.NDArray[np.object_]
    what: Ints
    relabels: pd.DataFrame
    by_class: Mapping[str, Counter[str]]
    before: pa.Table
    after: pa.Table


def comparison(
    repository: Repository, a: Version, b: Version, start: int = 0, size: int = 48, only: str | None = None
) -> dict[str, Any]:
    """What the page of two versions shows, with `size` changed samples from the place `start`; JSON-able.

    `only`: a key of KINDS, or `relabel_filter(before, after)` for labels that went from one class to another.
    Raises ValueError for any other.
    """
    found = _diff(repository, a.name, b.name)
    changed = _changed(repository, a.name, b.name)
    chosen = _chosen(changed, only)
    size = max(1, min(size, MOST))
    start = max(0, min(start, len(chosen) - 1) // size * size)
    page = chosen[start : start + size]
    return {
        "a": _about(a),
        "b": _about(b),
        "samples": found.samples.counts,
        "annotations": found.annotations.counts,
        "schema_changed": a.commit.schema != b.commit.schema,
        "guide_changed": a.commit.guide != b.commit.guide,
        "classes": _classes(changed, a, b),
        "relabels": _relabels(changed, a, b),
        "kinds": [
            {"only": name, "words": words, "count": count}
            for name, words in KINDS.items()
            if (count := int(np.count_nonzero(changed.what & _BIT[name])))
        ],
        "only": only,
        "only_words": _only_words(only),
        "all": len(changed.ids),
        "total": len(chosen),
        "start": start,
        "size": size,
        "rows": changed_samples(repository, found, changed.before, changed.after, changed.ids[page].tolist()),
    }


def relabel_filter(before: str, after: str) -> str:
    """The value of `only` for labels that went from one class to another."""
    return f"{quote(before, safe='')}>{quote(after, safe='')}"


def _only_words(only: str | None) -> str:
    if not only or only in KINDS:
        return KINDS.get(only or "", "")
    return " → ".join(unquote(part) for part in only.split(">"))


def _about(version: Version) -> dict[str, Any]:
    commit = version.commit
    return {
        "name": version.name,
        "message": commit.message.strip().splitlines()[0] if commit.message.strip() else "",
        "author": commit.author,
        "time": commit.time[:16].replace("T", " "),
        "samples": commit.counts["samples"],
        "annotations": commit.counts["annotations"],
    }


@lru_cache(maxsize=4)
def _diff(repository: Repository, a: str, b: str) -> Diff:
    return diff(repository.version(a), repository.version(b))


@lru_cache(maxsize=4)
def _changed(repository: Repository, a: str, b: str) -> Changed:
    """Versions never change, so this is worked out once for every page and filter of the two."""
    found = _diff(repository, a, b)
    before, after = (_frame(side(_COLUMNS)) for side in (found.annotations.before, found.annotations.after))
    both = before.index.intersection(after.index)
    old, new = before.loc[both], after.loc[both]
    gone, made = before.drop(both), after.drop(both)
    relabeled = _differs(old["label"], new["label"])
    moved = np.logical_or.reduce([_differs(old[name], new[name]) for name in _GEOMETRY])
    parts = {
        "relabeled": new["sample_id"][relabeled],
        "moved": new["sample_id"][moved],
        "other": new["sample_id"][~relabeled & ~moved],
        "drawn": made["sample_id"],
        "deleted": gone["sample_id"],
        "fields": found.samples.changed.to_pandas(),
        "added": found.samples.added.to_pandas(),
        "removed": found.samples.removed.to_pandas(),
    }
    bits = np.repeat([_BIT[name] for name in parts], [len(ids) for ids in parts.values()])
    codes, ids = pd.factorize(pd.concat(parts.values(), ignore_index=True).astype(object), sort=True)
    what: Ints = np.zeros(len(ids), np.int64)
    np.bitwise_or.at(what, codes, bits)
    what = np.where(what & _WHOLE, what & _WHOLE, what)  # its labels came or went with it
    order = np.argsort(what & _WHOLE, kind="stable")
    relabels = pd.DataFrame(
        {"sample_id": new["sample_id"], "before": old["label"].fillna(_NONE), "after": new["label"].fillna(_NONE)}
    )[relabeled]
    by_class: dict[str, Counter[str]] = defaultdict(Counter)
    for name, labels in {
        "added": made["label"],
        "removed": gone["label"],
        "edited": new["label"][~relabeled],
        "came": relabels["after"],
        "left": relabels["before"],
    }.items():
        for label, count in labels.fillna(_NONE).value_counts().items():
            by_class[str(label)][name] = int(count)
    return Changed(
        np.asarray(ids, object)[order],
        what[order],
        relabels,
        by_class,
        *(pa.Table.from_pandas(frame[KEY], preserve_index=False) for frame in (before, after)),
    )


def _frame(rows: pa.Table) -> pd.DataFrame:
    """The labels that count. A label that went to another sample is another one."""
    frame: pd.DataFrame = rows.filter(pc.is_null(rows["role"])).to_pandas()
    return frame.set_index(frame["annotation_id"] + "\0" + frame["sample_id"])


def _differs(old: pd.Series[Any], new: pd.Series[Any]) -> npt.NDArray[np.bool_]:
    result: npt.NDArray[np.bool_] = ~((old == new) | (old.isna() & new.isna())).to_numpy(dtype=bool)
    return result


def _chosen(changed: Changed, only: str | None) -> Ints:
    """Places in `changed.ids`."""
    if not only:
        return np.arange(len(changed.ids))
    if only in KINDS:
        return np.flatnonzero(changed.what & _BIT[only])
    before, arrow, after = only.partition(">")
    if not arrow:
        raise ValueError(f"only: expected one of {', '.join(KINDS)}, or a class before and after; got {only[:100]!r}")
    rows = changed.relabels
    rows = rows[(rows["before"] == unquote(before)) & (rows["after"] == unquote(after))]
    return np.flatnonzero(pd.Index(changed.ids).isin(rows["sample_id"]))


def _colours(a: Version, b: Version) -> dict[str, str]:
    return {item.name: item.colour for version in (a, b) for item in version.schema.classes}


def _classes(changed: Changed, a: Version, b: Version) -> dict[str, Any]:
    """Labels that each class gained, lost and kept but changed, most changes first."""
    colours = _colours(a, b)
    names = sorted(changed.by_class, key=lambda name: (-changed.by_class[name].total(), name))
    rows: list[dict[str, Any]] = []
    for name in names[:_CLASSES]:
        one = changed.by_class[name]
        net = one["added"] - one["removed"] + one["came"] - one["left"]
        counts = {key: one[key] for key in ("added", "removed", "came", "left", "edited")}
        rows.append({"name": name, "colour": colours.get(name), **counts, "net": net})
    most = max([max(row["added"] + row["came"], row["removed"] + row["left"]) for row in rows], default=0)
    return {"rows": rows, "most": most, "more": max(0, len(names) - _CLASSES)}


def _relabels(changed: Changed, a: Version, b: Version) -> dict[str, Any]:
    """How many labels went from which class to which: the pairs, most first, and a matrix where it is not too large."""
    counted = Counter(zip(changed.relabels["before"], changed.relabels["after"], strict=True))
    ordered = sorted(counted.items(), key=lambda item: (-item[1], item[0]))
    pairs: list[dict[str, Any]] = [
        {"before": before, "after": after, "count": count, "only": relabel_filter(before, after)}
        for (before, after), count in ordered
    ]
    found: dict[str, Any] = {"total": len(changed.relabels), "pairs": pairs[:_PAIRS], "colours": _colours(a, b)}
    found["more"] = len(pairs) - len(found["pairs"])
    order = {name: at for at, name in enumerate(found["colours"])}
    rows, columns = (
        sorted({pair[side] for pair in pairs}, key=lambda name: (order.get(name, len(order)), name))
        for side in ("before", "after")
    )
    if len(pairs) > 2 and len(rows) <= _MATRIX and len(columns) <= _MATRIX:
        at = {(pair["before"], pair["after"]): pair for pair in pairs}
        cells = [[at.get((row, column)) for column in columns] for row in rows]
        found["matrix"] = {"rows": rows, "columns": columns, "cells": cells, "most": pairs[0]["count"]}
    return found
