"""What falls under a licence, an origin, a group, an actor, a model, an event or a guide, over all versions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datasetops.errors import NotFoundError, did_you_mean
from datasetops.ledger import Entry
from datasetops.manifest.diff import diff_tables
from datasetops.provenance.past import Past, unknown_value
from datasetops.provenance.rows import Flags, TablePast
from datasetops.provenance.told import parents_of

OF_SAMPLES: Final = ("license", "origin", "consent", "group")
OF_ANNOTATIONS: Final = ("actor", "model", "event", "guide")
BY: Final = (*OF_SAMPLES, *OF_ANNOTATIONS)
_RULES: Final = {
    "samples": "A sample falls under it in all versions if any version ever said so, and its annotations with it.",
    "annotations": "An annotation falls under it in a version if its row there does, or an earlier row of it in a version "
    "that this one stands on, or one that it was derived from; a sample does through its annotations.",
    "actor": "A row without a name is its event's actor's.",
    "event": "Samples that the event added or changed fall under it, and all annotations of those that it added.",
    "guide": "An annotation was made under the guide that its event names, and else under that of the version it came in.",
}


@dataclass(frozen=True)
class Reach:
    """`samples` and `annotations`: for each segment of the table which rows fall under it, and their later rows with them.

    `said_of` names the table whose rows say so themselves, and `said` which of them do. `made_in` is the
    place of the version that an event made.
    """

    by: str
    value: str
    samples: list[Flags]
    annotations: list[Flags]
    said_of: str
    said: list[Flags]
    rules: tuple[str, ...]
    made_in: int | None = None

    @property
    def known(self) -> bool:
        """Whether there was ever anything under it."""
        return any(mine.any() for mine in (*self.samples, *self.annotations))


def reach(past: Past, by: str, value: str) -> Reach:
    """Raises ValueError for what cannot be asked, NotFoundError for an event, model or guide that there is not."""
    if by not in BY:
        raise ValueError(f"{by!r}: {did_you_mean(by, BY, noun='questions')}")
    samples, annotations = past.table("samples"), past.table("annotations")
    if by in OF_SAMPLES:
        said = samples.flags(lambda rows: pc.equal(rows[by], value), [by])
        ever = samples.ever(said)
        ids = samples.keys(said)
        own = annotations.within("sample_id", ids)
        return Reach(by, value, ever, own, "samples", said, (_RULES["samples"],))
    said = _rows_of(past, annotations, by, value)
    touched, made_in = pa.array([], pa.string()), None
    under = said
    if by == "event":
        made_in = past.number.get(past.by_event[event_of(past, value)].version or "")
        added, touched = _samples_of(past, made_in)
        ofs = annotations.within("sample_id", added)
        under = [one | other for one, other in zip(said, ofs, strict=True)]
    ever = _with_derived(annotations, under)
    ids = pc.unique(pa.concat_arrays([annotations.values(ever, "sample_id"), touched]))
    told = (_RULES["annotations"], *([_RULES[by]] if by in _RULES else []))
    return Reach(by, value, samples.among(ids), ever, "annotations", said, told, made_in)


def known_values(past: Past, by: str) -> list[str]:
    """What can be asked for, sorted: the values that rows ever had."""
    if by in ("event", "guide"):
        return sorted(past.by_event if by == "event" else _guides(past))
    table = past.table("samples" if by in OF_SAMPLES else "annotations")
    found = {value for segment in table.segments for value in pc.unique(segment.table([by])[by]).to_pylist()}
    return sorted(value for value in found if value is not None)


def _rows_of(past: Past, table: TablePast, by: str, value: str) -> list[Flags]:
    if by == "actor":
        events = _events(one for one in past.entries if one.event.actor == value)
        return table.flags(
            lambda rows: pc.or_kleene(
                pc.fill_null(pc.equal(rows["actor"], value), False),
                pc.and_(pc.is_null(rows["actor"]), pc.is_in(rows["event_id"], value_set=events)),
            ),
            ["actor", "event_id"],
        )
    if by == "model":
        names = pa.array([name for name in known_values(past, "model") if _is_model(name, value)], pa.string())
        return table.within("model", names)
    if by == "event":
        events = pa.array([event_of(past, value)], pa.string())
    else:
        guide = _guide(past, value)
        events = _events(
            (
                one
                for one in past.entries
                if (one.event.inputs.get("guide") or (past.version(one.version).commit.guide if one.version else None))
                == guide
            ),
        )
    return table.within("event_id", events)


def _events(entries: Iterable[Entry]) -> pa.Array:
    return pa.array([one.event.event_id for one in entries], pa.string())


def _is_model(name: str, value: str) -> bool:
    """Whether what stands in the column `model` (NAME@REVISION#DIGEST) is a model that was asked for."""
    bare = name.partition("#")[0]
    return value in (name, bare, bare.partition("@")[0], bare.removeprefix("model:"))


def event_of(past: Past, value: str) -> str:
    """Id of an event by its id, the beginning of one, or the number of its ledger entry. Raises NotFoundError."""
    if value.isdigit() and int(value) < len(past.entries):
        return past.entries[int(value)].event.event_id
    begun = [name for name in past.by_event if value and name.startswith(value)]
    if len(begun) == 1:
        return begun[0]
    newest = [entry.event.event_id for entry in past.entries[-5:]]
    shown = begun[:5] or newest
    raise NotFoundError(
        f"{len(begun) or 'No'} events begin with {value!r}." if begun else f"There is no event {value!r}.",
        remedy=f"Give an id, its beginning, or the number of a ledger entry; such as: {', '.join(shown)}.",
    )


def _guides(past: Past) -> set[str]:
    named = {version.commit.guide for version in past.versions}
    return {guide for guide in named | {entry.event.inputs.get("guide") for entry in past.entries} if guide}


def _guide(past: Past, value: str) -> str:
    """Digest of a guide by its digest, the beginning of one, or a version that has it. Raises NotFoundError."""
    if value in past.number and (guide := past.version(value).commit.guide):
        return guide
    begun = [guide for guide in _guides(past) if value and guide.startswith(value)]
    if len(begun) != 1:
        raise unknown_value("guide", value, sorted(_guides(past)))
    return begun[0]


def _samples_of(past: Past, place: int | None) -> tuple[pa.Array, pa.Array]:
    """(samples that a version added, those that it added or changed)."""
    if place is None:
        return pa.array([], pa.string()), pa.array([], pa.string())
    now = past.versions[place].state("samples")
    if not past.parents[place]:
        every = now.read([now.key])[now.key].combine_chunks()
        return every, every
    found = diff_tables(past.versions[past.parents[place][0]].state("samples"), now)
    return found.added, pa.concat_arrays([found.added, found.changed])


def _with_derived(table: TablePast, flags: list[Flags]) -> list[Flags]:
    """With what was derived from it, however far; a circle ends where it began."""
    child, parent = _links(table)
    if not len(child):
        return flags
    held = table.keys(flags)
    found: list[pa.Array] = []
    frontier = held
    while len(frontier):
        reached = pc.unique(child.filter(pc.is_in(parent, value_set=frontier)))
        seen = pa.concat_arrays([held, *found])
        frontier = reached.filter(pc.invert(pc.is_in(reached, value_set=seen)))
        if len(frontier):
            found.append(frontier)
    if not found:
        return flags
    more = table.among(pa.concat_arrays(found))
    return [one | other for one, other in zip(flags, more, strict=True)]


def _links(table: TablePast) -> tuple[pa.Array, pa.Array]:
    """(annotations, what each was derived from) of all rows that name another one."""
    children, parents = [pa.array([], pa.string())], [pa.array([], pa.string())]
    for segment in table.segments:
        rows = segment.table([table.key, "derived_from"])
        rows = rows.filter(pc.is_valid(rows["derived_from"])).combine_chunks()
        if not len(rows):
            continue
        child, text = (_array(rows[name]) for name in (table.key, "derived_from"))
        several = pc.starts_with(text, "[")
        children.append(child.filter(pc.invert(several)))
        parents.append(text.filter(pc.invert(several)))
        lists = [parents_of(one) for one in text.filter(several).to_pylist()]
        which = np.repeat(np.arange(len(lists)), [len(one) for one in lists])
        children.append(child.filter(several).take(pa.array(which)))
        parents.append(pa.array([one for own in lists for one in own], pa.string()))
    child, parent = pa.concat_arrays(children), pa.concat_arrays(parents)
    other = pc.not_equal(child, parent)
    return child.filter(other), parent.filter(other)


def _array(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
