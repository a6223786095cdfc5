"""What identifies the items to erase, in every version that there is, and who used them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from datasetops.manifest import Repository
from datasetops.manifest.erasing import Rows, contains_any
from datasetops.manifest.segment import Segment
from datasetops.training.record import model_records, model_samples

_SAMPLE_COLUMNS = ["sample_id", "uri", "sha256", "group"]


@dataclass(frozen=True)
class Traces:
    """`samples` and `annotations` by id; `uris`, `images` (SHA-256) and `groups` that no other sample of any version has.

    `shared` are images that others have, too, and `shared_groups` the groups that others are in. `versions` that hold any
    of the samples, oldest first; `models` that learned from or were validated on any, with how many; `segments` (table, id)
    that have rows of them.
    """

    samples: frozenset[str]
    annotations: frozenset[str]
    uris: frozenset[str]
    images: frozenset[str]
    groups: frozenset[str]
    versions: tuple[str, ...]
    models: Mapping[str, int]
    segments: tuple[tuple[str, str], ...]
    rows: Mapping[str, int] = field(default_factory=dict)
    shared: frozenset[str] = frozenset()
    shared_groups: frozenset[str] = frozenset()

    @property
    def words(self) -> frozenset[str]:
        """All of them: what no object of the store may contain any more."""
        return self.samples | self.annotations | self.uris | self.images | self.groups

    def akin(self, rows: pa.Table) -> int:
        """How many of these rows are other samples of the same group, or the same file."""
        same = contains_any(rows["group"], pa.array(sorted(self.shared_groups), pa.string()))
        same |= contains_any(rows["sha256"], pa.array(sorted(self.shared), pa.string()))
        return int((same & ~self.in_samples(rows)).sum())

    def in_samples(self, rows: pa.Table) -> Rows:
        return contains_any(rows["sample_id"], pa.array(sorted(self.samples), pa.string()))

    def in_annotations(self, rows: pa.Table) -> Rows:
        mine = contains_any(rows["sample_id"], pa.array(sorted(self.samples), pa.string()))
        return mine | contains_any(rows["annotation_id"], pa.array(sorted(self.annotations), pa.string()))


def find_traces(repository: Repository, sample_ids: Iterable[str], annotations: Iterable[str] = ()) -> Traces:
    """Look for samples in all versions; ids that no version ever had are not among `samples`.

    `annotations`: those known to be theirs, whose rows with the sample may be gone already.
    """
    wanted = pa.array(sorted(set(sample_ids)), pa.string())
    segments, used_by = distinct_segments(repository)
    found: dict[str, set[str]] = {name: set() for name in _SAMPLE_COLUMNS}
    known = set(annotations)
    holding: dict[tuple[str, str], int] = {}
    for (table, identity), segment in segments.items():
        if table == "samples":
            places = segment.lookup(wanted)
            rows = segment.take(places[places >= 0], _SAMPLE_COLUMNS)
            for name, values in found.items():
                values.update(rows[name].drop_null().to_pylist())
            count = len(rows)
        else:
            owners = segment.table(["annotation_id", "sample_id"])
            mine = owners.filter(pa.array(contains_any(owners["sample_id"], wanted)))
            known.update(mine["annotation_id"].to_pylist())
            count = len(mine)
        if count:
            holding[table, identity] = count
    own = {name: set(found[name]) for name in ("uri", "sha256", "group")}
    for (table, _), segment in segments.items():
        if table == "samples" and any(own.values()):
            _leave_shared(segment, wanted, own)
        elif table == "annotations" and known:  # deletions have no sample
            held = segment.lookup(pa.array(sorted(known), pa.string()))
            if (held >= 0).any():
                holding[table, segment.info.id] = max(holding.get((table, segment.info.id), 0), int((held >= 0).sum()))
    versions = sorted({name for key in holding for name in used_by[key]}, key=lambda name: int(name[1:]))
    rows_by_table: dict[str, int] = defaultdict(int)
    for (table, _), count in holding.items():
        rows_by_table[table] += count
    return Traces(
        frozenset(found["sample_id"]),
        frozenset(known),
        frozenset(own["uri"]),
        frozenset(own["sha256"]),
        frozenset(own["group"]),
        tuple(versions),
        _models(repository, found["sample_id"]),
        tuple(sorted(holding)),
        dict(rows_by_table),
        frozenset(found["sha256"] - own["sha256"]),
        frozenset(found["group"] - own["group"]),
    )


def distinct_segments(
    repository: Repository,
) -> tuple[dict[tuple[str, str], Segment], dict[tuple[str, str], list[str]]]:
    """Each segment once, by table and id, and the versions that are made of it."""
    segments: dict[tuple[str, str], Segment] = {}
    used_by: dict[tuple[str, str], list[str]] = defaultdict(list)
    for version in repository.versions():
        for table in version.commit.tables:
            for segment in version.state(table).segments:
                segments[table, segment.info.id] = segment
                used_by[table, segment.info.id].append(version.name)
    return segments, used_by


def _leave_shared(segment: Segment, wanted: pa.Array, own: Mapping[str, set[str]]) -> None:
    """Take out of `own` what another sample has as well."""
    rows = segment.table(_SAMPLE_COLUMNS)
    others = pc.invert(pa.array(contains_any(rows["sample_id"], wanted)))
    for name, values in own.items():
        if values:
            shared = pc.and_(others, pa.array(contains_any(rows[name], pa.array(sorted(values), pa.string()))))
            values -= set(rows[name].filter(shared).to_pylist())


def _models(repository: Repository, sample_ids: set[str]) -> dict[str, int]:
    found = {}
    for record in model_records(repository):
        parts: Mapping[str, Sequence[str]] = model_samples(repository, record)
        count = sum(len(sample_ids.intersection(ids)) for ids in parts.values())
        if count:
            found[record.name] = count
    return found
