"""What happened to the annotations of a sample, over versions."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datasetops.errors import DatasetOpsError
from datasetops.manifest import Repository, Version
from datasetops.manifest.encoding import DELETE
from datasetops.review.rows import Rows
from datasetops.review.texts import cut

MOST_VERSIONS: Final = 50  # that are looked back
_MOST_READ: Final = 1_000_000  # rows that are read to see which annotations a version removed: some 0.2 s
_MOST_REMOVED: Final = 20_000  # annotations that a version removed, beyond which they are not told one by one
_CORNERS: Final = ("x1", "y1", "x2", "y2")
_LONGEST: Final = 80  # characters of a text that is told in a sentence

Row = dict[str, Any]


def history(repository: Repository, version: Version, sample_id: str, rows: Rows | None = None) -> list[Row]:
    """Changes of a sample's annotations, newest first, over at most the last 50 versions that `version` stands on.

    Each is {"time", "version", "actor", "source", "words", "annotation_ids", "model", "tool"}; several that were added
    at once are one. What was made before all of these versions, or by an event that made none, has the version "".
    `rows`: where the version's annotations by sample are known already. An annotation names the event that made it, and
    a version its event, so only versions that changed the sample are read; what versions removed is read once.
    """
    past = _past(repository, version.name)
    known = (rows or Rows(version)).annotations([sample_id])[sample_id]
    pending = {row["annotation_id"]: row for row in known}
    removed = past.removed.get(sample_id, {})
    told: list[Row] = []
    for place, (step, parent) in enumerate(past.steps):
        mine = [name for name, row in pending.items() if row["event_id"] == step.commit.event_id]
        lost = removed.get(place, [])
        if not mine and not lost:
            continue
        before = _rows(parent, [*mine, *lost]) if parent else {}
        tool = _tool(repository, step)
        told += _changes(step, tool, {name: pending.pop(name) for name in mine}, before)
        for name in lost:
            told.append(_entry(step, step.commit.author, "", [before[name]], f"{thing(before[name])} removed", tool))
        pending |= before
    told += [
        _entry(None, row["actor"], row["source"], [row], f"{thing(row)} made", "") | {"time": _time(row)}
        for row in pending.values()
    ]
    return sorted(told, key=lambda entry: str(entry["time"]), reverse=True)


@dataclass(frozen=True)
class _Past:
    """Versions with the one before each, newest first, and annotations that they removed, by sample and place here."""

    steps: tuple[tuple[Version, Version | None], ...]
    removed: Mapping[str, Mapping[int, list[str]]]


@lru_cache(maxsize=8)
def _past(repository: Repository, name: str) -> _Past:
    """A version's name always means the same, so what it stands on is read once."""
    steps = tuple(_back(repository, repository.version(name)))
    removed: dict[str, dict[int, list[str]]] = {}
    for place, (step, parent) in enumerate(steps):
        if parent is not None:
            for key, sample_id in _removed(step, parent):
                removed.setdefault(sample_id, {}).setdefault(place, []).append(key)
    return _Past(steps, removed)


def _back(repository: Repository, version: Version) -> Iterator[tuple[Version, Version | None]]:
    """After a merge those of both sides."""
    older = (repository.version(f"v{number}") for number in range(int(version.name[1:]) - 1, 0, -1))
    found: dict[str, Version] = {}

    def parent_of(digest: str) -> Version | None:
        while digest not in found and (one := next(older, None)) is not None:
            found[one.digest] = one
        return found.get(digest)

    waiting, seen = [version], {version.digest}
    for _ in range(MOST_VERSIONS):
        if not waiting:
            return
        waiting.sort(key=lambda one: int(one.name[1:]))
        step = waiting.pop()
        parents = [one for digest in step.commit.parents if (one := parent_of(digest)) is not None]
        yield step, parents[0] if parents else None
        fresh = [one for one in parents if one.digest not in seen]
        seen.update(one.digest for one in fresh)
        waiting += fresh


def _removed(step: Version, parent: Version) -> list[tuple[str, str]]:
    """(annotation_id, sample_id) of what a version removed; nothing where that would take reading a million rows."""
    now, before = step.state("annotations"), parent.state("annotations")
    columns = [now.key, "sample_id", "role"]
    known = {info.id for info in before.infos}
    new = [segment for segment in now.segments if segment.info.id not in known]
    if any(segment is now.segments[0] for segment in new):  # all rows were written anew
        if parent.commit.counts["annotations"] > _MOST_READ:
            return []
        stood = before.read(columns)
        gone = stood.filter(pc.invert(pc.is_in(stood[now.key], now.read([now.key])[now.key].combine_chunks())))
    else:
        keys: list[str] = []
        for segment in new:
            rows = np.flatnonzero(segment.table(["_op"])["_op"].to_numpy() == DELETE)
            keys += segment.take(rows, [now.key])[now.key].to_pylist() if len(rows) <= _MOST_REMOVED else []
        gone = before.rows(pa.array(keys, pa.string()), columns) if keys else None
    if gone is None or len(gone) > _MOST_REMOVED:
        return []
    return [(row[now.key], row["sample_id"]) for row in gone.to_pylist() if row["role"] is None]


def _rows(version: Version, names: Sequence[str]) -> dict[str, Row]:
    return {
        row["annotation_id"]: row for row in version.state("annotations").rows(pa.array(names, pa.string())).to_pylist()
    }


def _changes(step: Version, tool: str, now: Mapping[str, Row], before: Mapping[str, Row]) -> Iterator[Row]:
    added: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for name, row in now.items():
        old = before.get(name)
        if old is None:
            added[row["actor"], row["source"], row["model"]].append(row)
        else:
            yield _entry(step, row["actor"], row["source"], [row], f"{thing(old)}: {difference(old, row)}", tool)
    for (actor, source, _), rows in added.items():
        counts = Counter(thing(row) for row in rows)
        things = ", ".join(name if count == 1 else f"{count} × {name}" for name, count in counts.most_common())
        yield _entry(step, actor, source, rows, f"{things} added", tool)


def _entry(step: Version | None, actor: str | None, source: str, rows: Sequence[Row], words: str, tool: str) -> Row:
    return {
        "time": step.commit.time if step else "",
        "version": step.name if step else "",
        "actor": actor or (step.commit.author if step else ""),
        "source": source,
        "words": words,
        "annotation_ids": [row["annotation_id"] for row in rows],
        "model": next((row["model"] for row in rows if row["model"]), ""),
        "tool": tool,
    }


def _tool(repository: Repository, step: Version) -> str:
    """The annotation tool, format or command that a version came from."""
    try:
        number = json.loads(repository.store.get(f"refs/versions/{step.name}"))["entry"]
        event = repository.ledger.read(int(number)).event
    except (DatasetOpsError, ValueError, KeyError, TypeError):
        return ""
    return str(event.parameters.get("tool") or event.parameters.get("format") or event.kind)


def thing(row: Row) -> str:
    """In a few words, what an annotation is."""
    name = row["label"] or cut(row["text"] or "", _LONGEST)
    return f"{row['kind']} {name}".strip()


def difference(old: Row, new: Row) -> str:
    """In words, how two states of an annotation differ."""
    words = [f"{_shown(old[name])} becomes {_shown(new[name])}" for name in ("label", "text") if old[name] != new[name]]
    if any(old[name] != new[name] for name in _CORNERS):
        known = [(old[name], new[name]) for name in _CORNERS if None not in (old[name], new[name])]
        far = max((abs(a - b) for a, b in known), default=0.0)
        words.append(f"box moved by up to {far:.1f} px" if known else "box changed")
    if old["geometry"] != new["geometry"]:
        words.append("outline changed")
    if old["attributes"] != new["attributes"]:
        words.append("attributes changed")
    if not words and old["source"] != new["source"]:
        words.append(f"confirmed, {old['source']} becomes {new['source']}")
    return ", ".join(words) or "nothing but its origin changed"


def _shown(value: str | None) -> str:
    return cut(value, _LONGEST) if value else "none"


def _time(row: Row) -> str:
    return row["created_at"].isoformat(timespec="microseconds") if row["created_at"] else ""
