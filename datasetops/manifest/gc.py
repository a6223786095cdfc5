"""Remove what no version refers to: leftovers of interrupted writes and of lost races."""

from __future__ import annotations

from dataclasses import dataclass

from datasetops.errors import NotFoundError
from datasetops.manifest.repository import Repository
from datasetops.manifest.segment import segment_key

GRACE_SECONDS = 3600.0  # younger objects may belong to a commit that is being written
_FOLDERS = ("commits/", "schemas/", "guides/", "segments/", "findings/", "tmp/")


@dataclass(frozen=True)
class Collected:
    """Keys that were removed (or would be), and their bytes."""

    keys: list[str]
    bytes: int


def collect_garbage(repository: Repository, *, dry_run: bool = False, grace: float = GRACE_SECONDS) -> Collected:
    """Delete unreferenced objects that are older than `grace` seconds. Versions, ledger and media are never touched."""
    store = repository.store
    used: set[str] = set()
    for entry in repository.ledger.backwards():
        for name, folder, suffix in (
            ("schema", "schemas", "json"),
            ("guide", "guides", "md"),
            ("findings", "findings", "json"),
        ):
            used.add(f"{folder}/{entry.event.outputs.get(name)}.{suffix}")
    for version in repository.versions():
        commit = version.commit
        used |= {f"commits/{version.digest}.json", f"schemas/{commit.schema}.json", f"guides/{commit.guide}.md"}
        for table, infos in commit.tables.items():
            used |= {segment_key(table, info.id, suffix) for info in infos for suffix in ("parquet", "json")}
    removed, size = [], 0
    for folder in _FOLDERS:
        for key in store.list(folder):
            try:
                if key in used or store.age(key) < grace:
                    continue
                size += store.size(key)
            except NotFoundError:
                continue
            removed.append(key)
            if not dry_run:
                store.delete(key)
    return Collected(removed, size)
