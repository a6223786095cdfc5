"""The whole story of a sample or of an annotation, newest first."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datasetops.errors import NotFoundError
from datasetops.manifest import Repository
from datasetops.manifest.segment import Positions
from datasetops.provenance.past import Past, unknown
from datasetops.provenance.rows import TablePast
from datasetops.provenance.told import Item, Story, parents_of
from datasetops.provenance.touched import touched
from datasetops.records import TABLES, VOTE
from datasetops.review.history import difference, thing

Row = dict[str, Any]
RIGHTS: Final = ("origin", "license", "consent", "expires_at", "captured_at")
_TOLD: Final = ("uri", "sha256", "split", "group", *RIGHTS)  # facts of a sample
_NEAR: Final = 10  # of several that may be meant, so many are told
_COLUMNS: Final = {name: [*schema.names, "_salt"] for name, schema in TABLES.items()}


def sample_story(repository: Repository, sample_id: str) -> Story:
    """Where a sample came from, what was done to it, and where it went.

    `sample_id` may be the beginning of one, or the sample's path or its end. Raises NotFoundError with the nearest ids.
    """
    past = Past(repository)
    name, live = _found(past, "samples", sample_id)
    held = np.flatnonzero(live[:, 0] >= 0)
    newest = _row(past.table("samples"), int(live[held[-1], 0]))
    annotations = past.table("annotations")
    own = annotations.keys(annotations.flags(lambda rows: pc.equal(rows["sample_id"], name), ["sample_id"]))
    items = list(_sample_changes(past, live)) + _annotation_changes(past, own)
    facts = {column: newest[column] for column in _TOLD} | {"metadata": json.loads(newest["metadata"] or "{}")}
    return _told(past, "sample", name, facts, items, held, [name], None)


def annotation_story(repository: Repository, annotation_id: str) -> Story:
    """Who or what made an annotation, from which others, and what became of it; as `sample_story`."""
    past = Past(repository)
    name, live = _found(past, "annotations", annotation_id)
    held = np.flatnonzero(live[:, 0] >= 0)
    table = past.table("annotations")
    newest = _row(table, int(live[held[-1], 0]))
    family = _family(past, name, newest["sample_id"])
    columns = ("sample_id", "kind", "label", "text", "source", "actor", "model", "score", "derived_from", "role")
    facts = {column: newest[column] for column in columns} | {"event_id": newest["event_id"]}
    items = _annotation_changes(past, pa.array(family, pa.string()))
    samples = past.table("samples").live(pa.array([newest["sample_id"]], pa.string()))
    items += _sample_changes(past, samples)
    return _told(past, "annotation", name, facts, items, held, [newest["sample_id"]], set(family))


def _told(
    past: Past,
    kind: str,
    name: str,
    facts: Mapping[str, Any],
    items: list[Item],
    held: Positions,
    sample_ids: Sequence[str],
    annotations: set[str] | None,
) -> Story:
    met = touched(past, sample_ids[0], annotations, set(past.names(held)))
    ordered = sorted(items + met.items, key=lambda item: item.entry, reverse=True)
    return Story(
        kind,
        name,
        facts,
        tuple(ordered),
        tuple(past.names(held)),
        tuple(met.models),
        tuple(met.exports),
        tuple(past.notes),
        past.basis(*met.read),
    )


def _found(past: Past, table: str, wanted: str) -> tuple[str, Positions]:
    """(the id, its places in all versions) of a row by its id or the beginning of one."""
    rows = past.table(table)
    live = rows.live(pa.array([wanted], pa.string()))
    if (live >= 0).any():
        return wanted, live
    near = rows.near(wanted)
    begun = [name for name in near if wanted and name.startswith(wanted)]
    if table == "samples" and not begun:
        begun = _by_place(rows, wanted)
    if len(begun) == 1:
        return begun[0], rows.live(pa.array(begun, pa.string()))
    if begun:
        raise NotFoundError(
            f"{wanted!r} may be {len(begun):,} {table}.", remedy=f"Give one: {', '.join(begun[:_NEAR])}."
        )
    raise unknown(table.removesuffix("s"), wanted, near)


def _by_place(rows: TablePast, wanted: str) -> list[str]:
    """Samples that ever had this path, belonged to this group, or had a path that ends with these names."""
    ending = "/" + wanted.removeprefix("./").lstrip("/")
    while ending.startswith("/../"):
        ending = ending.removeprefix("/..")
    for column, test in (
        ("uri", lambda part: pc.equal(part["uri"], wanted)),
        ("group", lambda part: pc.equal(part["group"], wanted)),
        ("uri", lambda part: pc.or_(pc.equal(part["uri"], ending[1:]), pc.ends_with(part["uri"], ending))),
        ("uri", lambda part: pc.ends_with(part["uri"], f"#{ending[1:]}")),  # of an image that was copied into the store
    ):
        if found := rows.keys(rows.flags(test, [column])).to_pylist():
            return [str(one) for one in found]
    return []


def _row(table: TablePast, place: int) -> Row:
    row: Row = table.rows(np.array([place]), TABLES[table.name].names).to_pylist()[0]
    return row


def _changes(past: Past, name: str, live: Positions) -> Iterator[tuple[int, Row | None, Row | None]]:
    """(version, row before, row now) wherever a row is not what any parent had."""
    table = past.table(name)
    places = np.unique(live[live >= 0])
    rows = dict(zip(places.tolist(), table.rows(places, _COLUMNS[name]).to_pylist(), strict=True))
    codes: dict[bytes, int] = {}
    code_of = {place: codes.setdefault(row.pop("_salt"), len(codes)) for place, row in rows.items()}
    salts = np.array([code_of.get(place, -1) for place in live.ravel().tolist()]).reshape(live.shape)
    for version, key in past.changed(live, salts):
        before = next((rows[int(live[p, key])] for p in past.parents[version] if live[p, key] >= 0), None)
        yield version, before, rows.get(int(live[version, key]))


def _sample_changes(past: Past, live: Positions) -> list[Item]:
    items = []
    for place, before, now in _changes(past, "samples", live):
        if now is None:
            words = "removed"
        elif before is None:
            words = "collected" if place == 0 or not past.parents[place] else "added"
            words = f"{words}: {', '.join(_fact(name, now[name]) for name in RIGHTS)}"
        else:
            told = [name for name in TABLES["samples"].names if before[name] != now[name]]
            words = "; ".join(f"{name} {_shown(before[name])} becomes {_shown(now[name])}" for name in told)
        items.append(_item(past, place, "sample", f"sample {words}", None, ()))
    return items


def _fact(name: str, value: Any) -> str:
    word = name.replace("_at", "").replace("license", "licence")
    return f"{word} {'not recorded' if value is None else _shown(value)}"


def _shown(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value or "none")


def _annotation_changes(past: Past, keys: pa.Array) -> list[Item]:
    items: list[Item] = []
    if not len(keys):
        return items
    for place, before, now in _changes(past, "annotations", past.table("annotations").live(keys)):
        row = now or before
        if row is None:
            continue
        vote = " (one of several answers)" if row["role"] == VOTE else ""
        if now is None:
            words = f"{thing(row)} removed"
        elif before is None:
            words = f"{thing(row)} added by {_maker(row)}"
        else:
            words = f"{thing(before)}: {difference(before, now)}, by {_maker(now)}"
        items.append(_item(past, place, "label", words + vote, now, (row["annotation_id"],)))
    return items


def _maker(row: Row) -> str:
    """Who or what says what an annotation says."""
    if row["source"] == "model":
        score = f", score {row['score']:.2f}" if row["score"] is not None else ""
        return f"the model {row['model'] or '(not named)'}{score}"
    who = row["actor"]
    words = {"human": "a person", "import": "an import", "consensus": "a merge of answers", "rule": "a rule"}
    return f"{who} ({row['source']})" if who else f"{words[row['source']]} (not named)"


def _item(past: Past, place: int, kind: str, words: str, row: Row | None, about: tuple[str, ...]) -> Item:
    """What a version changed, with the event that made the row where the ledger knows it, and else the version's."""
    version = past.versions[place]
    entry = past.made[version.name]
    source = past.by_event.get((row or {}).get("event_id") or "", entry)
    event = source.event
    details: dict[str, Any] = {
        "event_id": event.event_id,
        "event": event.kind,
        "tool": event.parameters.get("tool") or event.parameters.get("format"),
        "from": event.inputs.get("source"),
        "schema": event.inputs.get("schema") or version.commit.schema,
        "guide": event.inputs.get("guide") or version.commit.guide,
    }
    if row is not None:
        details |= {name: row[name] for name in ("source", "model", "score", "derived_from")}
        details["answer"] = json.loads(row["answer"]) if row["answer"] else None
    details = {name: value for name, value in details.items() if value is not None}
    actor = (row or {}).get("actor") or event.actor
    return Item(entry.number, entry.event.time, actor, kind, words, version.name, about, details)


def _family(past: Past, name: str, sample_id: str) -> list[str]:
    """An annotation, what it came from and what came from it, each once; notes a circle in `derived_from`."""
    table = past.table("annotations")
    flags = table.flags(lambda rows: pc.equal(rows["sample_id"], sample_id), ["sample_id"])
    places = np.concatenate(
        [np.flatnonzero(mine) + start for mine, start in zip(flags, table.starts, strict=False)] or [np.empty(0)]
    ).astype(np.int64)
    known = table.rows(places, ["annotation_id", "derived_from"]).to_pylist()
    up: dict[str, set[str]] = {}
    down: dict[str, set[str]] = {}
    for row in known:
        for parent in parents_of(row["derived_from"]):
            if parent != row["annotation_id"]:  # one that stands in the place of what it corrects
                up.setdefault(row["annotation_id"], set()).add(parent)
                down.setdefault(parent, set()).add(row["annotation_id"])
    before, after = _reached(name, up), _reached(name, down)
    circle = sorted(({name} & before) | (before & after))
    if circle:
        past.note(f"derived_from goes in a circle: {', '.join(circle)}. Each of them is told once.")
    return [name, *sorted((before | after) - {name})]


def _reached(name: str, links: Mapping[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    waiting = [name]
    while waiting:
        fresh = links.get(waiting.pop(), set()) - seen
        seen |= fresh
        waiting += fresh
    return seen
