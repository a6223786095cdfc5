"""Changed samples of two versions, ready to be shown: what changed in words, and what to draw over either picture."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from datasetops.labeling.orientation import shown_size
from datasetops.manifest import Repository, Version
from datasetops.manifest.diff import Diff
from datasetops.records import SAMPLES
from datasetops.review.shown import Sizes, shown_annotations
from datasetops.review.texts import cut

Row: TypeAlias = Mapping[str, Any]

KEY: Final = ["annotation_id", "sample_id"]
_SHAPES: Final = 300  # drawn over a picture at most, changed ones first
_WORDS: Final = 6  # changes of one kind that are told at most
_LONG: Final = 80  # characters of a value that are shown
_CORNERS: Final = ("x1", "y1", "x2", "y2")
_SIDES: Final = ("before", "after")
_WITHOUT_SHAPE: Final = ("classification", "text")


def changed_samples(
    repository: Repository, found: Diff, before: pa.Table, after: pa.Table, sample_ids: Sequence[str]
) -> list[dict[str, Any]]:
    """A row for each sample, in their order. `before` and `after` (columns KEY) name the labels that differ.

    A row has `words` for what changed, `before` and `after` with the classes of the picture and the shapes on it (None
    where the version has no such sample), and `pair`: whether the two pictures differ.
    """
    ids = pa.array(sample_ids, pa.string())
    sides = []
    for version, keys, table in (
        (found.old, before, found.annotations.before_state),
        (found.new, after, found.annotations.after_state),
    ):
        samples = {row["sample_id"]: row for row in version.state("samples").rows(ids).to_pylist()}
        mine = keys.filter(pc.is_in(keys["sample_id"], ids))["annotation_id"].combine_chunks()
        labels: dict[str, dict[str, Row]] = defaultdict(dict)
        for row in table.rows(mine).to_pylist():
            labels[row["sample_id"]][row["annotation_id"]] = _loaded(row)
        sides.append((version, samples, labels))
    same = _unchanged(found, after, sample_ids)
    rows = []
    for sample_id in sample_ids:
        olds, news = (labels.get(sample_id, {}) for _, _, labels in sides)
        old, new = (samples.get(sample_id) for _, samples, _ in sides)
        both = old is not None and new is not None
        drawn = any(row["kind"] not in _WITHOUT_SHAPE for row in (*olds.values(), *news.values()))
        found_row: dict[str, Any] = {
            "sample_id": sample_id,
            "name": str((new or old or {}).get("uri") or sample_id).rsplit("/", 1)[-1],
            "split": (new or old or {}).get("split"),
            "state": "both" if both else "added" if new else "removed",
            "pair": bool(old and new and (drawn or old["sha256"] != new["sha256"])),
            "fields": _fields(old, new) if old and new else [],
            "words": _words(olds, news) if both else [],
        }
        for name, fact, (version, _, _), mine in zip(_SIDES, (old, new), sides, (olds, news), strict=True):
            shown = [*mine.values(), *same.get(sample_id, [])]
            found_row[name] = _side(_sizes(repository), version, fact, shown, mine.keys()) if fact else None
        rows.append(found_row)
    return rows


def _unchanged(found: Diff, after: pa.Table, sample_ids: Sequence[str]) -> dict[str, list[Row]]:
    """Labels that both versions hold alike: those of the newer one that are not among the changed."""
    rows = found.new.annotations_of(sample_ids)
    changed = after.filter(pc.is_in(after["sample_id"], pa.array(sample_ids, pa.string())))["annotation_id"]
    rows = rows.filter(
        pc.and_(pc.is_null(rows["role"]), pc.invert(pc.is_in(rows["annotation_id"], changed.combine_chunks())))
    )
    same: dict[str, list[Row]] = defaultdict(list)
    for row in rows.to_pylist():
        same[row["sample_id"]].append(_loaded(row))
    return same


def _side(
    sizes: Sizes, version: Version, sample: Row, labels: Sequence[Row], changed: Collection[str]
) -> dict[str, Any]:
    """One version's picture of a sample: classes, and shapes in pixels of the picture as it is shown."""
    size = sizes.of(sample)
    shown = [
        one | {"changed": one["annotation_id"] in changed}
        for one in shown_annotations(labels, version.schema, size, None)
    ]
    regions = [one for one in shown if one["kind"] not in _WITHOUT_SHAPE]
    width, height = shown_size(size) if size else (0, 0)
    return {
        "version": version.name,
        "picture": sample["sha256"] is not None,
        "width": width,
        "height": height,
        "classes": [
            {"label": cut(one["label"] or one["text"] or "", _LONG), "colour": one["colour"], "changed": one["changed"]}
            for one in shown
            if one["kind"] in _WITHOUT_SHAPE
        ],
        "shapes": regions[:_SHAPES] if size else [],
        "more": max(0, len(regions) - _SHAPES),
    }


@lru_cache(maxsize=4)
def _sizes(repository: Repository) -> Sizes:
    """Remembers what it read of images."""
    return Sizes(repository)


def _loaded(row: dict[str, Any]) -> dict[str, Any]:
    return row | {name: json.loads(row[name]) if row[name] else None for name in ("geometry", "attributes")}


def _words(olds: Mapping[str, Row], news: Mapping[str, Row]) -> list[str]:
    """What became of a sample's labels, a sentence a kind of change."""
    told: Counter[str] = Counter()
    for key, new in news.items():
        told[_change(olds[key], new) if key in olds else f"{_name(new)} added"] += 1
    for key, old in olds.items():
        if key not in news:
            told[f"{_name(old)} removed"] += 1
    return _few([f"{count} × {text}" if count > 1 else text for text, count in told.items()])


def _name(row: Row) -> str:
    label = row["label"] or (f"“{cut(row['text'], _LONG)}”" if row["text"] else "no class")
    return label if row["kind"] == "classification" else f"{label} {row['kind']}"


def _change(old: Row, new: Row) -> str:
    told = []
    if old["label"] != new["label"]:
        told.append(f"{_name(old)} is now {new['label'] or 'without a class'}")
    if any(old[name] != new[name] for name in _CORNERS) and None not in [
        row[name] for row in (old, new) for name in _CORNERS
    ]:
        told.append(_moved(old, new))
    elif old["geometry"] != new["geometry"]:
        told.append(f"{_name(new)} reshaped")
    if old["text"] != new["text"]:
        told.append(f"text “{cut(old['text'] or '', _LONG)}” is now “{cut(new['text'] or '', _LONG)}”")
    if old["attributes"] != new["attributes"]:
        told.append(f"{_name(new)}: " + "; ".join(_few(_values(old["attributes"] or {}, new["attributes"] or {}))))
    if not told:
        told.append(
            f"{_name(new)}: by {_maker(new)}, not {_maker(old)}"
            if _maker(new) != _maker(old)
            else f"{_name(new)}: other values"
        )
    return ", ".join(told)


def _moved(old: Row, new: Row) -> str:
    sizes = [(row["x2"] - row["x1"], row["y2"] - row["y1"]) for row in (old, new)]
    shift = math.dist(*(((row["x1"] + row["x2"]) / 2, (row["y1"] + row["y2"]) / 2) for row in (old, new)))
    resized = any(round(a) != round(b) for a, b in zip(*sizes, strict=True))
    grown = f"{sizes[0][0]:.0f} × {sizes[0][1]:.0f} px is now {sizes[1][0]:.0f} × {sizes[1][1]:.0f} px"
    return f"{_name(new)} {grown}" if resized else f"{_name(new)} moved by {max(shift, 0.1):.3g} px"


def _maker(row: Row) -> str:
    return str(row["actor"] or row["model"] or row["source"] or "nobody")


def _values(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Keys of two JSON objects whose values differ."""
    return [
        f"{cut(key, _LONG)} {_value(before.get(key))} → {_value(after.get(key))}"
        for key in sorted({*before, *after})
        if before.get(key) != after.get(key)
    ]


def _value(value: Any) -> str:
    if value is None:
        return "nothing"
    return cut(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str), _LONG)


def _fields(old: Row, new: Row) -> list[str]:
    """Facts of a sample that changed: its columns, and the keys of its metadata."""
    columns = [name for name in SAMPLES.names if name != "metadata" and old[name] != new[name]]
    told = [f"{name} {_value(old[name])} → {_value(new[name])}" for name in columns]
    return _few(told + _values(*(json.loads(row["metadata"] or "{}") for row in (old, new))))


def _few(words: list[str]) -> list[str]:
    return [*words[:_WORDS], f"and {len(words) - _WORDS:,} more"] if len(words) > _WORDS else words
