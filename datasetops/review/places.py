"""Samples and annotations that decisions are about, as they were when somebody decided, and as they are now."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from datasetops.audits.decisions import Decision
from datasetops.manifest import Repository, Version

Row = dict[str, Any]  # columns of records.ANNOTATIONS; geometry, attributes and answer as objects


@dataclass(frozen=True)
class Place:
    """A sample and its annotations by id (votes too), as they were when somebody decided, and as they are now.

    Samples are None where the version has none, else sample_id, sha256 and split.
    """

    sample_before: Mapping[str, Any] | None
    sample: Mapping[str, Any] | None
    before: Mapping[str, Row]
    rows: Mapping[str, Row]


def lineage_of(repository: Repository, version: Version) -> dict[str, Version]:
    """A version and all that it stands on, by digest; it stands for decisions that do not name theirs, too."""
    known = {item.digest: item for item in repository.versions()}
    found, queue = {"": version}, [version.digest]
    while queue:
        digest = queue.pop()
        if digest in known and digest not in found:
            found[digest] = known[digest]
            queue += known[digest].commit.parents
    return found


class Places:
    """All that some decisions are about, read once a version. `rows` are annotations by id as they are now."""

    def __init__(self, head: Version, lineage: Mapping[str, Version], made: Sequence[Decision]) -> None:
        self._lineage = lineage
        wanted: dict[str, set[str]] = defaultdict(set)
        for item in made:
            if item.sample_id:
                wanted[lineage[item.commit].digest].add(item.sample_id)
        self._now = _read(head, set().union(*wanted.values()))
        self._then = {
            digest: self._now if digest == head.digest else _read(lineage[digest], names)
            for digest, names in wanted.items()
        }
        self.rows = {key: row for rows in self._now[1].values() for key, row in rows.items()}

    def of(self, item: Decision) -> Place:
        samples, rows = self._then[self._lineage[item.commit].digest]
        name = str(item.sample_id)
        return Place(samples.get(name), self._now[0].get(name), rows.get(name, {}), self._now[1].get(name, {}))

    def rows_before(self, item: Decision) -> list[Row]:
        return list(self.of(item).before.values()) if item.sample_id else []

    def name_of(self, item: Decision) -> str:
        return self._lineage[item.commit].name


def _read(version: Version, names: Iterable[str]) -> tuple[dict[str, Row], dict[str, dict[str, Row]]]:
    """Samples by id, and their annotations by id."""
    ids = sorted(names)
    columns = ["sample_id", "sha256", "split"]
    samples = version.state("samples").rows(pa.array(ids, pa.string()), columns).to_pylist()
    rows: dict[str, dict[str, Row]] = defaultdict(dict)
    for row in version.annotations_of(ids).to_pylist():
        for name in ("geometry", "attributes", "answer"):
            row[name] = json.loads(row[name]) if row[name] else None
        rows[row["sample_id"]][row["annotation_id"]] = row
    return {row["sample_id"]: row for row in samples}, rows
