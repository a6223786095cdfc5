"""Which sample and which annotation of a version each row of a source is."""

from __future__ import annotations

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from datasetops.formats.base import SCOPE, Parsed
from datasetops.identity import sample_ids
from datasetops.ingest.merge import VALUES, Base, merged_samples, region_ids
from datasetops.manifest import Version
from datasetops.records import ANNOTATIONS, SAMPLES, Finding


def identified_samples(rows: pa.Table, parsed: Parsed, head: Version | None) -> pa.Table:
    """Columns of records.SAMPLES and `key`; of several rows that would be one sample the first is kept."""
    columns = ["sample_id", "uri", "sha256"]
    existing = head.table("samples", columns) if head else SAMPLES.empty_table().select(columns)
    ids = pa.array(sample_ids(rows.select(columns).to_pandas(), existing.to_pandas()), pa.string())
    table = rows.set_column(rows.column_names.index("sample_id"), "sample_id", ids)
    first = pd.Series(ids.to_pandas()).duplicated().to_numpy()
    for row in table.filter(pa.array(first)).select(["sample_id", "uri"]).to_pylist():
        text = f"the id {row['sample_id']!r} stands twice in the source; the first is kept"
        parsed.findings.append(Finding("ingest", "high", 0.0, text, sample_id=row["sample_id"], uri=row["uri"]))
        parsed.rejected += 1
    return merged_samples(table.filter(pa.array(~first)), head).select(["key", *SAMPLES.names])


def existing_annotations(head: Version | None, samples: pa.Table, parsed: Parsed) -> pa.Table:
    """Annotations that the version has for the source's samples, votes too, and those that the source names."""
    if head is None or not head.commit.counts["annotations"]:
        return ANNOTATIONS.empty_table()
    table = head.table("annotations")
    mine = pc.is_in(table["sample_id"], samples["sample_id"].combine_chunks())
    named = pc.is_in(table["annotation_id"], parsed.annotations["annotation_id"].drop_null().combine_chunks())
    return table.filter(pc.or_(mine, named)).combine_chunks()


def identified_annotations(
    parsed: Parsed, samples: pa.Table, existing: pa.Table, base: Base | None, multi_label: bool
) -> pa.Table:
    """The source's annotations with ids; of several that would be one the first is kept."""
    at = pc.index_in(parsed.annotations["key"], samples["key"].combine_chunks())
    rows = parsed.annotations.filter(at.is_valid())
    owners = samples["sample_id"].combine_chunks().take(at.drop_null())
    rows = rows.append_column("sample_id", owners)
    ids = _ids(rows, existing, base, multi_label)
    rows = rows.set_column(rows.column_names.index("annotation_id"), "annotation_id", ids)
    repeated = pd.Series(rows["annotation_id"].to_pandas()).duplicated().to_numpy()
    for row in rows.filter(pa.array(repeated)).select(["annotation_id", "sample_id", "label"]).to_pylist():
        text = f"annotated twice as the same ({row['annotation_id']!r}, here as {row['label']!r}); the first is kept"
        parsed.findings.append(Finding("ingest", "high", 0.0, text, sample_id=row["sample_id"]))
        parsed.rejected += 1
    return rows.filter(pa.array(~repeated)).combine_chunks()


def _ids(rows: pa.Table, existing: pa.Table, base: Base | None, multi_label: bool) -> pa.Array:
    """The source's own; for a class `<sample>/label`, with the annotator where there is one; `<sample>#<number>`.

    A class without an annotator gets the id of the sample's only one instead, and regions that have none of these that
    of the existing region that they revise, or one from their content.
    """
    owners = rows["sample_id"].combine_chunks()
    is_class = pc.equal(rows["kind"], "classification").combine_chunks()
    of_class = pc.binary_join_element_wise(owners, "label", "/")
    actor = rows["actor"].combine_chunks()
    if multi_label:
        of_class = pc.binary_join_element_wise(of_class, rows["label"].combine_chunks(), "/")
    else:
        only = _only_class(existing)
        at = pc.index_in(owners, only["sample_id"].combine_chunks())
        of_class = pc.coalesce(only["annotation_id"].combine_chunks().take(at), of_class)
    by_actor = pc.binary_join_element_wise(
        *([owners, "label", rows["label"].combine_chunks(), actor] if multi_label else [owners, "label", actor]), "/"
    )
    of_class = pc.if_else(actor.is_valid(), by_actor, of_class)
    numbered = pc.binary_join_element_wise(owners, rows["external_id"].combine_chunks(), SCOPE)
    ids = pc.coalesce(rows["annotation_id"].combine_chunks(), pc.if_else(is_class, of_class, numbered))
    if not ids.null_count:
        return ids
    frame = rows.select(["sample_id", *VALUES]).to_pandas()
    frame["annotation_id"] = ids.to_pandas()
    return pa.array(region_ids(frame, existing, base)["annotation_id"], pa.string())


def _only_class(existing: pa.Table) -> pa.Table:
    """Samples with one class that counts and is no answer of an annotator that a source named: sample_id, annotation_id."""
    counts = pc.and_(pc.equal(existing["kind"], "classification"), existing["role"].is_null())
    named = pc.and_(pc.equal(existing["source"], "import"), existing["actor"].is_valid())
    grouped = (
        existing.filter(pc.and_(counts, pc.invert(named)))
        .group_by("sample_id")
        .aggregate([("annotation_id", "count"), ("annotation_id", "min")])
        .rename_columns({"annotation_id_min": "annotation_id", "annotation_id_count": "n"})
    )
    return grouped.filter(pc.equal(grouped["n"], 1))
