"""What a version holds: classes, slices that are covered, and where its labels come from. Everything is JSON-able.

A version never changes, so what is counted is counted once in a process.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from functools import lru_cache
from itertools import pairwise
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from datasetops.audits.record import latest_audit
from datasetops.audits.sets.coverage import count_values, values_by_key
from datasetops.errors import NotFoundError
from datasetops.gate.status import ancestors
from datasetops.manifest import Repository, Version
from datasetops.manifest.diff import diff_tables

_HISTORY: Final = 12  # versions that the label history goes back
_TOLD_APART: Final = 5  # splits, annotators: as many as there are colours but one, for all others together
_LACKING: Final = 10
_NONE: Final = "(none)"
_NOBODY: Final = "not told"
_OTHERS: Final = "others"

Tally = Counter[tuple[str, str]]  # of labels, by (source, annotator or model)


@lru_cache(maxsize=32)
def class_balance(repository: Repository, name: str) -> dict[str, Any]:
    """Labels of each class, most first, with their parts by split; and how many samples have no label."""
    version = repository.version(name)
    rows = version.table("annotations", ["sample_id", "label", "role"])
    rows = rows.filter(pc.is_null(rows["role"]))
    samples = version.table("samples", ["sample_id", "split"])
    at = pc.index_in(rows["sample_id"], samples["sample_id"].combine_chunks())
    split = pc.fill_null(samples["split"].take(at), _NONE)
    splits = _most(split, _TOLD_APART)
    counted = pa.table({"label": pc.fill_null(rows["label"], _NONE), "split": split}).group_by(["label", "split"])
    by_class: dict[str, Counter[str]] = defaultdict(Counter)
    for row in counted.aggregate([([], "count_all")]).to_pylist():
        by_class[row["label"]][row["split"] if row["split"] in splits else _OTHERS] += row["count_all"]
    if any(_OTHERS in parts for parts in by_class.values()):
        splits.append(_OTHERS)
    colours = {item.name: item.colour for item in version.schema.classes}
    names = dict.fromkeys([*version.schema.class_names, *by_class])
    table: list[dict[str, Any]] = [
        {
            "name": label,
            "colour": colours.get(label),
            "total": sum(by_class[label].values()),
            "parts": [by_class[label][item] for item in splits],
        }
        for label in sorted(names, key=lambda label: (-sum(by_class[label].values()), label))
    ]
    return {
        "splits": splits,
        "rows": table,
        "labels": len(rows),
        "most": max([row["total"] for row in table], default=0),
        "unlabelled": len(samples) - len(pc.unique(at)),
    }


def _most(column: pa.ChunkedArray, count: int) -> list[str]:
    counted = sorted(pc.value_counts(column).to_pylist(), key=lambda item: (-item["counts"], item["values"]))
    return [item["values"] for item in counted[:count]]


def coverage(repository: Repository, version: Version) -> dict[str, Any]:
    """How many samples each slice value of the schema has, and the pairs that lack most, where an audit told them."""
    if not version.schema.slices:
        return {"skipped": "The schema names no slices."}
    counted = _slice_counts(repository, version.name)
    keys: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for item in version.schema.slices:
        for value in item.values:
            count = counted[item.key, json.dumps(value)]
            keys[item.key].append({"value": str(value), "count": count, "wanted": item.min_count})
    found: dict[str, Any] = {"keys": [{"name": name, "rows": rows} for name, rows in keys.items()]}
    try:
        summary = latest_audit(repository, version, whole=True).summaries.get("coverage", {})
    except NotFoundError:
        summary = {}
    cells = [cell for cell in summary.get("cells", []) if cell["and"] is not None and cell["collect"] > 0]
    return found | {"index": summary.get("coverage index"), "lacking": cells[:_LACKING], "lacking_total": len(cells)}


@lru_cache(maxsize=32)
def _slice_counts(repository: Repository, name: str) -> dict[tuple[str, str], int]:
    version = repository.version(name)
    keys = list(dict.fromkeys(item.key for item in version.schema.slices))
    values = values_by_key(version.table("samples").to_pandas(), keys)
    return {
        (item.key, json.dumps(value)): count
        for item in version.schema.slices
        for value, count in count_values(values[item.key], item.values).items()
    }


def label_history(repository: Repository, version: Version) -> dict[str, Any]:
    """Shares of the labels by source and by annotator, of this version and those it stands on, oldest first."""
    line = ancestors(repository, version)[:_HISTORY]
    tallies = _tallies(repository, tuple(item.name for item in line))
    people = Counter[str]()
    for tally in tallies:
        for (_, maker), count in tally.items():
            people[maker] += count
    named = [name for name, _ in people.most_common(_TOLD_APART)]
    sources = list(dict.fromkeys(source for tally in tallies for (source, _), _ in tally.most_common()))
    rows: list[dict[str, Any]] = []
    for item, tally in zip(line, tallies, strict=True):
        by_source, by_actor = Counter[str](), Counter[str]()
        for (source, maker), count in tally.items():
            by_source[source] += count
            by_actor[maker if maker in named else _OTHERS] += count
        rows.append(
            {
                "version": item.name,
                "labels": tally.total(),
                "sources": [by_source[name] for name in sources],
                "annotators": [by_actor[name] for name in [*named, _OTHERS]],
            }
        )
    if len(people) > len(named):
        named.append(_OTHERS)
    for row in rows:
        row["annotators"] = row["annotators"][: len(named)]
    return {"sources": sources, "annotators": named, "rows": rows[::-1], "people": len(people)}


@lru_cache(maxsize=32)
def _tallies(repository: Repository, names: tuple[str, ...]) -> list[Tally]:
    """Of versions, newest first: the newest is counted, the others from what changed."""
    versions = [repository.version(name) for name in names]
    columns = ["source", "actor", "model", "role"]
    found = [_tally(versions[0].table("annotations", columns))]
    for newer, older in pairwise(versions):
        changed = diff_tables(older.state("annotations"), newer.state("annotations"))
        tally = found[-1].copy()
        tally.subtract(_tally(changed.after(columns)))
        tally.update(_tally(changed.before(columns)))
        found.append(+tally)
    return found


def _tally(rows: pa.Table) -> Tally:
    rows = rows.filter(pc.is_null(rows["role"])).group_by(["source", "actor", "model"]).aggregate([([], "count_all")])
    tally: Tally = Counter()
    for row in rows.to_pylist():
        tally[row["source"] or _NOBODY, row["actor"] or row["model"] or _NOBODY] += row["count_all"]
    return tally
