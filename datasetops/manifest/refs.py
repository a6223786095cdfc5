"""Write-once refs: which commit a version's name stands for, and which ledger entry made it."""

from __future__ import annotations

from datasetops.errors import DamagedError, NotFoundError
from datasetops.ledger import Entry, Ledger
from datasetops.records import canonical_json, parse_json
from datasetops.store import Store


def ref_of(entry: Entry) -> tuple[str, bytes]:
    """Key and bytes of the ref of the version that a ledger entry made."""
    return f"refs/versions/{entry.version}", canonical_json({"commit": entry.commit, "entry": entry.number})


def write_ref(store: Store, entry: Entry) -> None:
    """Write the ref of the version that an entry made, unless it is there."""
    key, data = ref_of(entry)
    if not store.exists(key):
        store.put(key, data)


def commit_of(store: Store, ledger: Ledger, name: str) -> str:
    """Commit digest of a version, from its ref, or from the ledger where a crash left none."""
    try:
        return str(parse_json(store.get(f"refs/versions/{name}"))["commit"])
    except (NotFoundError, ValueError, KeyError, TypeError):
        for entry in ledger.backwards():
            if entry.version == name:
                write_ref(store, entry)
                return str(entry.commit)
        raise DamagedError(f"The ledger has no entry for {name}.", remedy="Run `dsops verify`.") from None
