"""What people said in a version: labels that no model may overwrite, and from which one may learn."""

from __future__ import annotations

from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from datasetops.manifest import Version

# Given by a person, merged from several people's, or brought along with the data by whoever made it.
BY_PEOPLE: Final = ("human", "consensus", "import")


def human_labels(version: Version, kind: str) -> pa.Table:
    """Annotations of a kind that count and that people gave: sample_id, label, sha256, uri, split and group of their
    samples."""
    rows = version.labels(["annotation_id", "sample_id", "kind", "label", "source"])
    by_people = pc.and_(pc.equal(rows["kind"], kind), pc.is_in(rows["source"], pa.array(BY_PEOPLE)))
    chosen = rows.filter(by_people)
    samples = version.table("samples", ["sample_id", "uri", "sha256", "split", "group"])
    return chosen.join(samples, "sample_id").sort_by("annotation_id").select(
        ["sample_id", "label", "uri", "sha256", "split", "group"]
    )  # fmt: skip
