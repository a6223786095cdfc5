"""What a source says of samples and annotations that a version has already, and whose word counts.

A source is compared with what it said when it was ingested last: what it changed since then counts, unless others
changed the same annotation meanwhile. An annotation that it does not say otherwise than before stays as it is.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import orjson
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from datasetops.identity import match_regions, region_name
from datasetops.manifest import Repository, Version
from datasetops.manifest.commit import get_commit
from datasetops.records import ANNOTATIONS, SAMPLES, Finding, canonical_json, one_array

VALUES = ("kind", "label", "x1", "y1", "x2", "y2", "geometry", "text", "attributes")
_MAKERS = ("actor", "model", "score", "derived_from")
_REGION = ("kind", "label", "x1", "y1", "x2", "y2", "geometry", "text")  # what a region's id is made of

Mask: TypeAlias = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Base:
    """What a source gave when it was ingested last.

    That is `labels`, the annotations of the version at that time, but for those in `kept`: id → digest of what the source
    gave, None where it gave nothing. `events` are the ids of all its ingests: they wrote what it said first.
    """

    labels: pa.Table
    kept: Mapping[str, str | None]
    events: tuple[str, ...]


@dataclass(frozen=True)
class Settled:
    """Annotations to put and to remove, and how many stay otherwise than the source says. `findings` tells of conflicts.

    `confirmed` of those to put say what a model said. `kept` is that of `Base`, for the next ingest.
    """

    put: pa.Table
    remove: list[str]
    stay: int
    confirmed: int
    kept: dict[str, str | None]
    findings: list[Finding]


def last_ingest(repository: Repository, head: Version, source: str) -> Base | None:
    """What a source (its address) gave when it was last ingested into the versions that `head` stands on."""
    lineage = {head.digest}
    for entry in repository.ledger.backwards():
        if entry.event.kind == "ingest" and entry.event.inputs.get("source") == source:
            name = entry.version or entry.event.inputs.get("version")
            if name and (version := repository.version(name)).digest in lineage:
                events = (*entry.event.inputs.get("earlier", ()), entry.event.event_id)
                return Base(version.labels(), entry.event.outputs.get("kept") or {}, events)
        if entry.commit in lineage:
            lineage |= set(get_commit(repository.store, str(entry.commit)).parents)
    return None


def merged_samples(rows: pa.Table, head: Version | None) -> pa.Table:
    """Rows with the columns of records.SAMPLES and `media`; where one says nothing, what the version has stays.

    Of metadata the keys that a row has replace the version's, the others stay; the uri stays where there is no file.
    """
    if head is None:
        return rows
    old = head.state("samples").rows(one_array(rows["sample_id"]))
    at = pc.index_in(one_array(rows["sample_id"]), one_array(old["sample_id"]))
    for name in SAMPLES.names[1:]:
        new, before = one_array(rows[name]), one_array(old[name]).cast(rows.schema.field(name).type).take(at)
        if name == "uri":
            stays = pc.and_(one_array(rows["media"]).is_null(), before.is_valid())
            value = pc.if_else(stays, before, new)
        elif name == "metadata":
            value = _merged_objects(new, before)
        else:
            value = pc.coalesce(new, before)
        rows = rows.set_column(rows.column_names.index(name), rows.schema.field(name), value)
    return rows


def _merged_objects(new: pa.Array, before: pa.Array) -> pa.Array:
    both = pc.fill_null(pc.not_equal(new, before), False)
    merged = [
        canonical_json(orjson.loads(old) | orjson.loads(text)).decode()
        for text, old in zip(new.filter(both).to_pylist(), before.filter(both).to_pylist(), strict=True)
    ]
    return pc.replace_with_mask(pc.coalesce(new, before), both, pa.array(merged, pa.string()))


def settle(
    rows: pa.Table,
    existing: pa.Table,
    base: Base | None,
    *,
    corrects: Collection[str] = (),
    held: Collection[str] = (),
    overrule: bool = False,
) -> Settled:
    """Decide about each annotation of a source, and each that the version has for its samples.

    `rows` are the source's, with their ids; `existing` the version's. Without a `base` the source's word counts, but
    not over annotations that people or models made. Samples in `corrects` were named as the version's own: there it
    counts over everybody's. Of samples in `held` nothing is removed, and of others only what was imported, of kinds
    that the source has. Where both the source and others changed an annotation, theirs stays, with a finding. With
    `overrule` the source's word counts over everybody's, whatever it said before. A source that says what a model said
    confirms it: from then on the annotation is the source's.
    """
    votes = existing.filter(existing["role"].is_valid())["annotation_id"]
    rows = rows.filter(pc.invert(pc.is_in(rows["annotation_id"], one_array(votes))))
    labels = existing.filter(existing["role"].is_null())
    ours = _aligned(labels, rows)
    there = _mask(ours["annotation_id"].is_valid())
    explicit = _mask(pc.is_in(rows["sample_id"], pa.array(list(corrects), pa.string())))
    partial = explicit | _mask(pc.equal(rows["kind"], "classification"))
    stated = _overlaid(rows, ours, partial)
    same = there & _same(stated, ours)
    imported = _mask(pc.fill_null(pc.equal(ours["source"], "import"), False))
    allowed = ~there | imported | explicit | overrule
    said = _mask(pc.or_(rows["label"].is_valid(), rows["text"].is_valid()))
    confirmed = same & said & _made_by_model(ours) & ~_made_by_model(stated)
    base = None if overrule else base
    if base is None:
        stays: Mask = ~same & ~allowed
        conflict: Mask = np.zeros(len(rows), dtype=bool)
    else:
        stays, conflict = _three_way(rows, ours, base, explicit, partial, same, allowed)
    told_before = _mask(pc.is_in(ours["event_id"], _strings(base.events if base else ())))
    noted = rows.filter(pa.array(stays | (explicit & same & ~confirmed & ~told_before)))
    kept: dict[str, str | None] = dict(zip(noted["annotation_id"].to_pylist(), digests(noted), strict=True))
    findings = _conflicts(rows.filter(pa.array(conflict)), ours.filter(pa.array(conflict)))
    remove, spared, disputed = _removals(rows, labels, base, held)
    kept |= dict.fromkeys(spared)
    if base is not None and not corrects:
        known = {*rows["annotation_id"].to_pylist(), *labels["annotation_id"].to_pylist()} if base.kept else set()
        kept |= {key: digest for key, digest in base.kept.items() if key not in known}
    findings += disputed
    made = _with_makers(stated, ours, same & ~confirmed)
    put = made.filter(pa.array(~stays & (~same | imported | confirmed)))
    put = put.select([name for name in ANNOTATIONS.names if name in put.column_names])
    stay = int(stays.sum()) + (len(spared) if base is not None else 0)
    return Settled(put, remove, stay, int(confirmed.sum()), kept, findings)


def _three_way(
    rows: pa.Table, ours: pa.Table, base: Base, explicit: Mask, partial: Mask, same: Mask, allowed: Mask
) -> tuple[Mask, Mask]:
    """(rows where the version's state stays, those of them that both sides changed)."""
    there = _mask(ours["annotation_id"].is_valid())
    before = _aligned(base.labels, rows)
    given = _mask(before["annotation_id"].is_valid())
    withheld = _mask(pc.is_in(rows["annotation_id"], _strings(base.kept)))
    noted = rows.filter(pa.array(withheld))
    repeated = np.zeros(len(rows), dtype=bool)
    repeated[withheld] = [
        base.kept[key] == digest for key, digest in zip(noted["annotation_id"].to_pylist(), digests(noted), strict=True)
    ]
    unchanged = np.where(withheld, repeated, given & _same(_overlaid(rows, before, partial), before))
    known = withheld | (given & (~explicit | _mask(pc.is_in(before["event_id"], _strings(base.events)))))
    ours_unchanged = np.where(there, given & _same(ours, before) & (explicit | ~withheld), ~given & ~withheld)
    differs = ~same
    conflict = differs & known & ~unchanged & (~ours_unchanged | ~allowed)
    return differs & ((known & unchanged) | conflict | ~allowed), conflict


def _removals(
    rows: pa.Table, labels: pa.Table, base: Base | None, held: Collection[str]
) -> tuple[list[str], list[str], list[Finding]]:
    """(ids to remove, ids that stay although the source does not have them, conflicts among those).

    A class is removed only where the source gives that image another one, and at first none of annotators that it does
    not name.
    """
    classes = rows.filter(pc.equal(rows["kind"], "classification"))
    is_class = pc.equal(labels["kind"], "classification")
    replaced = pc.is_in(labels["sample_id"], one_array(classes["sample_id"]))
    wanted = pc.and_(
        pc.and_(pc.equal(labels["source"], "import"), pc.is_in(labels["kind"], pc.unique(one_array(rows["kind"])))),
        pc.and_(pc.or_(pc.invert(is_class), replaced), pc.invert(pc.is_in(labels["sample_id"], _strings(held)))),
    )
    absent = labels.filter(
        pc.and_(wanted, pc.invert(pc.is_in(labels["annotation_id"], one_array(rows["annotation_id"]))))
    )
    ids: list[str] = absent["annotation_id"].to_pylist()
    if base is None:
        asked = _mask(pc.is_in(absent["actor"], pc.unique(one_array(classes["actor"]))))
        goes = asked | ~_mask(pc.equal(absent["kind"], "classification"))
        return _chosen(ids, goes), _chosen(ids, ~goes), []
    before = _aligned(base.labels, absent)
    nothing = np.array([key in base.kept and base.kept[key] is None for key in ids], dtype=bool)
    otherwise = np.array([base.kept.get(key) is not None for key in ids], dtype=bool)
    given = (_mask(before["annotation_id"].is_valid()) | otherwise) & ~nothing
    disputed = given & (otherwise | ~_same(absent, before))
    goes = given & ~disputed
    told = absent.filter(pa.array(disputed))
    nowhere = told.take(pa.array([None] * len(told), pa.int64()))
    findings = _conflicts(nowhere, told)
    return _chosen(ids, goes), _chosen(ids, ~goes), findings


def _chosen(ids: list[str], mask: Mask) -> list[str]:
    return [ids[row] for row in np.flatnonzero(mask)]


def _made_by_model(rows: pa.Table) -> Mask:
    return _mask(pc.fill_null(pc.equal(rows["source"], "model"), False))


def _with_makers(stated: pa.Table, ours: pa.Table, same: Mask) -> pa.Table:
    """Who made a row: what the source says; of one that says the same as before, what is known already; else import."""
    unchanged = pa.array(same)
    for name in ("source", *_MAKERS):
        nobody = pa.scalar(None, ANNOTATIONS.field(name).type)
        value = pc.coalesce(one_array(stated[name]), pc.if_else(unchanged, one_array(ours[name]), nobody))
        if name == "source":
            value = pc.fill_null(value, "import")
        stated = stated.set_column(stated.column_names.index(name), ANNOTATIONS.field(name), value)
    return stated


def _conflicts(theirs: pa.Table, ours: pa.Table) -> list[Finding]:
    """Findings about annotations that a source and others changed since it was ingested last; null rows: removed."""
    findings = []
    for new, old in zip(theirs.to_pylist(), ours.to_pylist(), strict=True):
        row = old if old["annotation_id"] else new
        said = f"as {new['label']!r}" if new["annotation_id"] else "no more"
        kept = f"stays as {old['label']!r}, changed by others" if old["annotation_id"] else "stays removed by others"
        text = f"the source gives it {said}, but it {kept} since the source was ingested last"
        findings.append(
            Finding(
                *("ingest", "medium", 0.3, text),
                sample_id=row["sample_id"],
                annotation_id=row["annotation_id"],
                given=old["label"],
                suggested=new["label"],
            )
        )
    return findings


def region_ids(frame: pd.DataFrame, existing: pa.Table, base: Base | None) -> pd.DataFrame:
    """`frame` with the column annotation_id filled, for regions that the source gives no id or number.

    In this order: the id of what the source gave last time, of the region of the version that it revises, and one made
    from its content. Columns: annotation_id, sample_id and VALUES.
    """
    frame = frame.copy()
    open_ = frame["annotation_id"].isna()
    labels = existing.filter(existing["role"].is_null()).to_pandas()
    named = dict(iter(labels.groupby("sample_id")))
    last: dict[str, pd.DataFrame] = {}
    withheld: dict[str, str] = {}
    if base is not None:
        mine = base.labels.filter(pc.is_in(base.labels["sample_id"], _strings(frame.loc[open_, "sample_id"].unique())))
        rows = mine.to_pandas()
        last = dict(iter(rows[~rows["annotation_id"].isin(list(base.kept))].groupby("sample_id")))
        withheld = {digest: key for key, digest in base.kept.items() if digest is not None}
    for owner, group in frame[open_].groupby("sample_id"):
        sample_id = str(owner)
        old = named.get(sample_id, labels.iloc[:0])
        taken = set(frame.loc[(frame["sample_id"] == sample_id) & ~open_, "annotation_id"])
        rest = list(group.index)
        if withheld:
            rest = []
            for row in group.index:
                values: list[Any] = frame.loc[row, ["sample_id", *VALUES]].tolist()
                key = withheld.get(region_name(values))
                if key is None or key in taken:
                    rest.append(row)
                else:
                    frame.loc[row, "annotation_id"] = key
                    taken.add(key)
        for candidates in (last.get(sample_id), old):
            if candidates is None:
                continue
            free = candidates[~candidates["annotation_id"].isin(taken)]
            matches = match_regions(group.loc[rest], free)
            for row, match in zip(rest, matches, strict=True):
                if match >= 0:
                    frame.loc[row, "annotation_id"] = free["annotation_id"].iloc[match]
                    taken.add(free["annotation_id"].iloc[match])
            rest = [row for row, match in zip(rest, matches, strict=True) if match < 0]
        taken |= set(old["annotation_id"])
        for row in rest:
            name = first = f"{sample_id}/{region_name(frame.loc[row, list(_REGION)].tolist())}"
            number = 1
            while name in taken:
                number += 1
                name = f"{first}-{number}"
            taken.add(name)
            frame.loc[row, "annotation_id"] = name
    return frame


def digests(rows: pa.Table) -> list[str]:
    """A short digest of what each row says of its sample."""
    columns = [rows[name].to_pylist() for name in ("sample_id", *VALUES)]
    return [region_name(values) for values in zip(*columns, strict=True)]


def _overlaid(rows: pa.Table, below: pa.Table, where: Mask) -> pa.Table:
    """`rows` with the values of `below` in cells that are null, in the rows of `where`."""
    for name in ("kind", *VALUES[1:]):
        value = pc.if_else(
            pa.array(where), pc.coalesce(one_array(rows[name]), one_array(below[name])), one_array(rows[name])
        )
        rows = rows.set_column(rows.column_names.index(name), ANNOTATIONS.field(name), value)
    return rows


def _aligned(table: pa.Table, rows: pa.Table) -> pa.Table:
    """The row of `table` for the annotation of each of `rows`, null where there is none."""
    at = pc.index_in(one_array(rows["annotation_id"]), one_array(table["annotation_id"]))
    return table.take(at)


def _same(a: pa.Table, b: pa.Table) -> Mask:
    same = np.ones(len(a), dtype=bool)
    for name in VALUES:
        x, y = one_array(a[name]), one_array(b[name])
        equal = pc.or_(pc.fill_null(pc.equal(x, y), False), pc.and_(x.is_null(), y.is_null()))
        same &= _mask(equal)
    return same


def _mask(array: pa.Array | pa.ChunkedArray) -> Mask:
    return np.asarray(array.to_numpy(zero_copy_only=False) if isinstance(array, pa.Array) else array.to_numpy(), bool)


def _strings(values: Collection[str]) -> pa.Array:
    return pa.array(list(values), pa.string())
