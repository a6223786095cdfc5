"""Bring a labeled or unlabeled image set into a repository as a new version."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from datasetops.errors import FormatError, RejectedError
from datasetops.formats import detect_format, load_format
from datasetops.formats.base import SCOPE, Parsed, ReadOptions
from datasetops.identity import match_regions, region_name, sample_ids
from datasetops.ledger import Event
from datasetops.manifest import MAIN, Change, CommitResult, Repository, Version
from datasetops.manifest.commit import put_object
from datasetops.media import ScanCache, scan_media
from datasetops.progress import Progress, no_progress
from datasetops.records import ANNOTATIONS, SAMPLES, Finding, canonical_json, findings_table
from datasetops.store.media import Media, media_uri
from datasetops.store.source import SourceTree, open_source

Guard = Callable[[Repository, Version, pa.Table], None]  # (repository, newest version, samples to put)


@dataclass(frozen=True)
class IngestResult:
    """`samples` and `annotations` are those of the source that were taken; `rejected` rows were left out.

    `kept` counts annotations that the source gives otherwise, or not at all, but that people or models changed since:
    theirs stay. `changed` is false where the version held all of it already.
    """

    version: Version
    changed: bool
    samples: int
    annotations: int
    rejected: int
    kept: int
    findings: list[Finding]
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return {
            "version": self.version.name,
            "samples": self.samples,
            "annotations": self.annotations,
            "rejected": self.rejected,
            "kept": self.kept,
            "changed": self.changed,
            "findings": len(self.findings),
            "counts": {name: dict(counts) for name, counts in self.counts.items()},
        }


def ingest(
    repository: Repository,
    source: str,
    *,
    format: str | None = None,
    images: str | None = None,
    split: str | None = None,
    columns: Mapping[str, str] | None = None,
    copy: bool = False,
    strict: bool = False,
    message: str | None = None,
    branch: str = MAIN,
    unseal: str | None = None,
    guard: Guard | None = None,
    progress: Progress = no_progress,
) -> IngestResult:
    """Make the branch's newest version say what the source says about the source's samples.

    Samples and annotations that are new are added; those that changed are updated; imported annotations of the
    source's samples that it no longer has are removed. Samples that the source does not name are left alone, and so
    are annotations that people or models made or changed. Ingesting the same source again makes no version.

    `guard` may refuse samples that are about to be added, by raising (see audits.sealed).

    `images` is where media paths are looked up, if not in the source; `copy` takes the files into the store. Faulty
    rows become findings and are left out; with `strict` any of them refuses the whole (RejectedError).
    """
    tree = open_source(source)
    image_tree = open_source(images) if images else tree
    reader = load_format(format or detect_format(tree).format)
    schema = repository.schema if branch == MAIN else (repository.head(branch) or repository).schema
    parsed = reader.read(tree, ReadOptions(images=image_tree, schema=schema, split=split, columns=dict(columns or {})))
    if not len(parsed.samples):
        raise FormatError(
            f"{source}: nothing in it can be read as format {reader.name!r}." + _examples(parsed.findings),
            remedy="Check --format and the path; `dsops ingest --help` says what each format looks like.",
        )
    head = repository.head(branch)
    media = Media(repository.store, repository.root)
    rows = _with_media(parsed, image_tree, repository, media, copy=copy, progress=progress)
    samples = _identified_samples(rows, parsed, head)
    annotations, removals, kept = _identified_annotations(parsed, samples, head, schema.multi_label)

    if strict and parsed.rejected:
        raise RejectedError(
            f"{source}: {parsed.rejected} faulty rows, and --strict refuses the whole." + _examples(parsed.findings),
            remedy="Correct the source, or ingest without --strict to keep the good rest.",
        )
    if guard is not None and head is not None and not unseal:
        guard(repository, head, samples)
    event = Event(
        "ingest",
        repository.settings.actor,
        inputs={"source": tree.url, "images": image_tree.url},
        outputs={"findings": _store_findings(repository, parsed.findings)},
        parameters={"format": reader.name, "split": split, "copy": copy, "strict": strict},
    )
    result: CommitResult = repository.commit(
        Change(samples=samples.drop(["key"]), annotations=annotations, remove_annotations=removals),
        message=message or f"Ingest {tree.url} ({reader.name})",
        event=event,
        branch=branch,
        parent=head,
        unseal=unseal,
    )
    if not result.changed:
        repository.ledger.record(event)
    return IngestResult(
        version=result.version,
        changed=result.changed,
        samples=len(samples),
        annotations=len(annotations) + kept,
        rejected=parsed.rejected,
        kept=kept,
        findings=parsed.findings,
        counts=result.counts,
    )


def _with_media(
    parsed: Parsed, tree: SourceTree, repository: Repository, media: Media, *, copy: bool, progress: Progress
) -> pa.Table:
    """The parsed samples with uri, sha256, size and media type from the files; unusable files become findings."""
    samples = parsed.samples
    paths = pc.unique(samples["media"].drop_null()).to_pylist()
    if not paths:
        uris = pc.coalesce(samples["media"], samples["sample_id"], samples["key"])
        nothing = pa.nulls(len(samples), pa.string())
        return samples.append_column("uri", uris).append_column("sha256", nothing).append_column("media_type", nothing)
    cache = ScanCache(repository.cache / "media.sqlite")
    facts = scan_media(tree, paths, cache=cache, jobs=repository.settings.jobs, progress=progress)
    by_path = {row["media"]: row for row in facts.to_pylist()}
    kept: list[dict[str, Any]] = []
    for row in samples.to_pylist():
        fact = by_path.get(row["media"])
        if fact is None:  # listed without a file of its own
            kept.append(row | {"uri": row["sample_id"] or row["key"], "sha256": None, "media_type": None})
            continue
        if fact["error"]:
            text = f"{fact['error']}; the sample is left out"
            parsed.findings.append(Finding("ingest", "high", 0.0, text, uri=row["media"]))
            parsed.rejected += 1
            continue
        size = (fact["width"], fact["height"])
        stated = (row["width"], row["height"])
        if None not in stated and stated != size:
            text = f"stated size {stated[0]} x {stated[1]}, but the file is {size[0]} x {size[1]}"
            parsed.findings.append(Finding("ingest", "medium", 0.3, text, uri=row["media"]))
        where = media.relative(tree.uri(row["media"]))
        if copy:
            where = media_uri(fact["sha256"], row["media"])
        names = ("sha256", "width", "height", "media_type")
        kept.append(row | {"uri": where} | {name: fact[name] for name in names})
    if copy:
        for row in progress(kept, len(kept), "Copying images"):
            if row["sha256"]:
                media.add(tree.read(row["media"]), sha256=row["sha256"], path=row["media"])
    schema = samples.schema.append(pa.field("uri", pa.string())).append(pa.field("sha256", pa.string()))
    return pa.Table.from_pylist(kept, schema=schema.append(pa.field("media_type", pa.string())))


def _identified_samples(rows: pa.Table, parsed: Parsed, head: Version | None) -> pa.Table:
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
    return table.filter(pa.array(~first)).select(["key", *SAMPLES.names])


def _identified_annotations(
    parsed: Parsed, samples: pa.Table, head: Version | None, multi_label: bool
) -> tuple[pa.Table, list[str], int]:
    """(annotations to put, ids to remove, how many were kept as people or models left them)."""
    at = pc.index_in(parsed.annotations["key"], samples["key"].combine_chunks())
    rows = parsed.annotations.filter(at.is_valid())
    owners = samples["sample_id"].combine_chunks().take(at.drop_null())
    rows = rows.append_column("sample_id", owners)
    existing = _existing(head, samples, rows)
    rows = rows.set_column(rows.column_names.index("annotation_id"), "annotation_id", _ids(rows, existing, multi_label))
    repeated = pd.Series(rows["annotation_id"].to_pandas()).duplicated().to_numpy()
    for row in rows.filter(pa.array(repeated)).select(["annotation_id", "sample_id", "label"]).to_pylist():
        text = f"annotated twice as the same ({row['annotation_id']!r}, here as {row['label']!r}); the first is kept"
        parsed.findings.append(Finding("ingest", "high", 0.0, text, sample_id=row["sample_id"]))
        parsed.rejected += 1
    rows = rows.filter(pa.array(~repeated))
    rows = rows.set_column(
        rows.column_names.index("source"), "source", pc.fill_null(rows["source"], pa.scalar("import"))
    )
    theirs = existing.filter(pc.not_equal(existing["source"], "import"))["annotation_id"]
    protected = pc.is_in(rows["annotation_id"], theirs.combine_chunks())
    imported = existing.filter(pc.equal(existing["source"], "import"))["annotation_id"]
    gone = imported.filter(pc.invert(pc.is_in(imported, rows["annotation_id"].combine_chunks())))
    put = rows.filter(pc.invert(protected)).select([name for name in ANNOTATIONS.names if name in rows.column_names])
    return put, gone.to_pylist(), int(pc.sum(protected).as_py() or 0)


def _existing(head: Version | None, samples: pa.Table, rows: pa.Table) -> pa.Table:
    """Annotations that the version has for the source's samples, of the kinds that the source speaks of."""
    if head is None or not head.commit.counts["annotations"]:
        return ANNOTATIONS.empty_table()
    table = head.labels()
    mine = pc.and_(
        pc.is_in(table["sample_id"], samples["sample_id"].combine_chunks()),
        pc.is_in(table["kind"], pc.unique(rows["kind"])),
    )
    return table.filter(mine)


def _ids(rows: pa.Table, existing: pa.Table, multi_label: bool) -> pa.Array:
    """The source's own; `<sample>/label` for a class, with the annotator where there is one; `<sample>#<number>`.

    Regions that have none of these get the id of the existing region that they revise, or one from their content.
    """
    owners = rows["sample_id"].combine_chunks()
    is_class = pc.equal(rows["kind"], "classification").combine_chunks()
    of_class = pc.binary_join_element_wise(owners, "label", "/")
    if multi_label:
        of_class = pc.binary_join_element_wise(of_class, rows["label"].combine_chunks(), "/")
    actor = rows["actor"].combine_chunks()
    of_class = pc.if_else(actor.is_valid(), pc.binary_join_element_wise(of_class, actor, "/"), of_class)
    numbered = pc.binary_join_element_wise(owners, rows["external_id"].combine_chunks(), SCOPE)
    ids = pc.coalesce(rows["annotation_id"].combine_chunks(), pc.if_else(is_class, of_class, numbered))
    if not ids.null_count:
        return ids
    frame = rows.select(["sample_id", "kind", "label", "x1", "y1", "x2", "y2", "geometry", "text"]).to_pandas()
    frame["annotation_id"] = ids.to_pandas()
    old = dict(iter(existing.to_pandas().groupby("sample_id")))
    for sample_id, group in frame[frame["annotation_id"].isna()].groupby("sample_id"):
        before = old.get(sample_id, pd.DataFrame(columns=[*frame.columns]))
        taken = set(before["annotation_id"])
        for row, match in zip(group.index, match_regions(group, before), strict=True):
            if match >= 0:
                frame.loc[row, "annotation_id"] = before["annotation_id"].iloc[match]
                continue
            values = frame.loc[row, ["kind", "label", "x1", "y1", "x2", "y2", "geometry", "text"]].tolist()
            name = base = f"{sample_id}/{region_name(values)}"
            number = 1
            while name in taken:
                number += 1
                name = f"{base}-{number}"
            taken.add(name)
            frame.loc[row, "annotation_id"] = name
    return pa.array(frame["annotation_id"], pa.string())


def _store_findings(repository: Repository, findings: list[Finding]) -> str | None:
    """Findings as an object named by its digest, so that the audit can show them; None where there are none."""
    if not findings:
        return None
    rows = findings_table(findings).to_pylist()
    return put_object(repository.store, "findings", canonical_json(rows))


def _examples(findings: list[Finding]) -> str:
    lines = [f"\n  {finding.uri or finding.sample_id or ''}: {finding.message}" for finding in findings[:5]]
    more = f"\n  … and {len(findings) - 5} more" if len(findings) > 5 else ""
    return "".join(lines) + more
