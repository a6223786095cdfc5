"""What must hold of every change, whoever asks for it."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from datasetops.errors import RejectedError
from datasetops.manifest.change import TableChange
from datasetops.manifest.encoding import DELETE
from datasetops.manifest.table import Changes, TableState
from datasetops.records import one_array


def with_orphans(wanted: dict[str, TableChange], annotations: TableState) -> TableChange:
    """The annotation change, extended by removing every annotation of a removed sample."""
    change = wanted["annotations"]
    if not len(wanted["samples"].removals):
        return change
    owners = annotations.read(["annotation_id", "sample_id"])
    orphans = one_array(owners.filter(pc.is_in(owners["sample_id"], wanted["samples"].removals))["annotation_id"])
    return TableChange(change.upserts, pc.unique(pa.concat_arrays([change.removals, orphans])))


def check_references(wanted: dict[str, TableChange], samples: TableState) -> None:
    owners = pc.unique(wanted["annotations"].upserts["sample_id"])
    unknown = owners.filter(pc.invert(pc.is_in(owners, one_array(wanted["samples"].upserts["sample_id"]))))
    missing = unknown.filter(pa.array(~samples.contains(unknown))).to_pylist()
    gone = owners.filter(pc.is_in(owners, wanted["samples"].removals)).to_pylist()
    if missing or gone:
        raise ValueError(f"annotations: sample_id: there is no sample {(missing + gone)[0]!r}")


def refuse_sealed(changes: Changes, sealed: frozenset[str], still_sealed: tuple[str, ...]) -> None:
    opened = sorted(sealed - set(still_sealed))
    before = dict(zip(changes.replaced["sample_id"].to_pylist(), changes.replaced["split"].to_pylist(), strict=True))
    rows = changes.rows.select(["sample_id", "split", "_op"]).to_pylist() if sealed and before else []
    left = [
        row["sample_id"]
        for row in rows
        if before.get(row["sample_id"]) in sealed and (row["_op"] == DELETE or row["split"] != before[row["sample_id"]])
    ]
    if left or opened:
        what = (
            f"{len(left)} samples would leave it, {left[0]!r} first" if left else f"{', '.join(opened)} would be opened"
        )
        raise RejectedError(
            f"A sealed split may not change: {what}.",
            remedy="Give the reason with --unseal REASON if this is meant; it is recorded in the ledger.",
        )
