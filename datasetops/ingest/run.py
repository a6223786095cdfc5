"""Bring a labeled or unlabeled image set into a repository as a new version."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from datasetops.errors import FormatError, RejectedError
from datasetops.formats import detect_format, load_format
from datasetops.formats.base import Format, ReadOptions
from datasetops.formats.hf_hub import fetched_set, is_hub_name
from datasetops.identity import Known
from datasetops.ingest.identify import existing_annotations, identified_annotations, identified_samples
from datasetops.ingest.media import with_media, without_erased
from datasetops.ingest.merge import last_ingest, settle
from datasetops.ledger import Event
from datasetops.manifest import MAIN, Change, CommitResult, Repository, Version
from datasetops.manifest.commit import put_object
from datasetops.progress import Progress, no_progress
from datasetops.records import TABLES, Finding, canonical_json, findings_table
from datasetops.schema import LabelSchema
from datasetops.store.media import Media
from datasetops.store.source import open_source
from datasetops.store.source_dvc import dvc_records
from datasetops.store.tree import SourceTree

_LISTED: Final = 100  # rejected rows in the answer as JSON
STATED: Final = ("license", "origin", "consent")  # columns that may be said of all samples of a source
_SEVERAL: Final = {"classification": "classes", "box": "boxes", "polygon": "polygons", "mask": "masks", "text": "texts"}
_OPS: Final = {"inserted": "added", "updated": "changed", "deleted": "removed"}
Guard = Callable[[Repository, Version, pa.Table], None]  # (repository, newest version, samples to put)


@dataclass(frozen=True)
class IngestResult:
    """`samples` and `annotations` are those of the source that were understood; `rejected` rows were left out.

    `counts` has rows added, changed and removed by table. `kept` counts annotations that the source gives otherwise, or
    not at all, but that others made or changed: theirs stay; `conflicts` those of them that the source changed too since
    it was ingested last; `confirmed` those that a model had made alike. `changed` is false
    where the version held all of it already.
    """

    version: Version
    changed: bool
    samples: int
    annotations: int
    rejected: int
    kept: int
    conflicts: int
    confirmed: int
    findings: list[Finding]
    counts: Mapping[str, Mapping[str, int]]
    notes: list[str] = field(default_factory=list)

    @property
    def effect(self) -> str:
        """What changed, in one line."""
        if not self.changed:
            return f"{self.version.name}: nothing changed ({self.samples:,} samples, {self.annotations:,} labels)"
        samples, labels = self.counts["samples"], self.counts["annotations"]
        changed = labels["changed"] - self.confirmed
        text = (
            f"{self.version.name}: {samples['added']:,} sample{'' if samples['added'] == 1 else 's'} added, "
            f"{samples['changed']:,} changed; {changed:,} label{'' if changed == 1 else 's'} changed, "
            f"{labels['removed']:,} removed, {labels['added']:,} added"
        )
        return text + (f", {self.confirmed:,} of models confirmed" if self.confirmed else "")

    def as_dict(self) -> dict[str, Any]:
        return {
            "version": self.version.name,
            "samples": self.samples,
            "annotations": self.annotations,
            "rejected": self.rejected,
            "kept": self.kept,
            "conflicts": self.conflicts,
            "confirmed": self.confirmed,
            "changed": self.changed,
            "findings": len(self.findings),
            "counts": {name: dict(counts) for name, counts in self.counts.items()},
            "rejected_rows": [_place(finding) for finding in self.findings if finding.severity == "high"][:_LISTED],
            "notes": self.notes,
        }


def ingest(
    repository: Repository,
    source: str | Path | SourceTree,
    *,
    format: str | Format | None = None,
    images: str | None = None,
    split: str | None = None,
    columns: Mapping[str, str] | None = None,
    values: Mapping[str, str] | None = None,
    copy: bool = False,
    strip: bool = False,
    strict: bool = False,
    message: str | None = None,
    branch: str = MAIN,
    unseal: str | None = None,
    overrule: bool = False,
    take_erased: bool = False,
    guard: Guard | None = None,
    progress: Progress = no_progress,
) -> IngestResult:
    """Make the branch's newest version say what the source says about the source's samples.

    Samples and annotations that are new are added; those that changed are updated; imported annotations of the
    source's samples that it no longer has are removed. Samples that the source does not name are left alone, and so
    are annotations that people or models made or changed. Ingesting the same source again makes no version.

    Columns and metadata keys that the source does not have, and empty cells, leave a sample's values as they are. A row
    at fault is left out whole. A source that was ingested before speaks only where it says otherwise than last time:
    what others changed since stays. Where both changed an annotation theirs stays, and a finding tells; `overrule` lets
    the source's word count over everybody's.

    Samples that were erased, by their id or their image's bytes, are left out, which a note tells, unless `take_erased`.

    `guard` may refuse samples that are about to be added, by raising (see audits.sealed). A source that is no folder is a
    tree of its own, with the format that reads it.

    `values` say license, origin or consent of all samples of which nothing says it yet. `images` is where media paths are
    looked up, if not in the source; `copy` takes the files into the store, with `strip` without what they say beside their
    pixels (embedded.without_metadata). Faulty rows become findings and are left out; with `strict` any of them refuses the
    whole (RejectedError).
    """
    if strip and not copy:
        raise ValueError("strip: files that stay where they are stay as they are; it goes with copy")
    if unknown := sorted({*(values or {})} - {*STATED}):
        raise ValueError(f"values: there is no {unknown[0]!r} to set; there are {', '.join(STATED)}")
    hub = fetched_set(str(source), repository.cache) if format == "hf" and is_hub_name(str(source)) else None
    tree = hub.tree if hub else open_source(source) if isinstance(source, str | Path) else source
    source = source if isinstance(source, str | Path) else tree.url
    image_tree = open_source(images) if images else tree
    reader = format if isinstance(format, Format) else load_format(format or detect_format(tree).format)
    head = repository.head(branch)
    schema = repository.schema if branch == MAIN else (head or repository).schema
    media = Media(repository.store, repository.root)
    known = Known(head, media) if head else None
    options = ReadOptions(images=image_tree, schema=schema, split=split, columns=dict(columns or {}), known=known)
    parsed = reader.read(tree, options)
    if parsed.images is not None:
        image_tree, copy = parsed.images, True
    parsed.annotations = _with_truth_values(parsed.annotations, schema)
    if not len(parsed.samples):
        raise FormatError(
            f"{source}: nothing in it can be read as format {reader.name!r}." + _examples(parsed.findings),
            remedy="Check --format and the path; `dsops ingest --help` says what each format looks like.",
        )
    rows = with_media(parsed, image_tree, repository, media, copy=copy, strip=strip, progress=progress)
    if not take_erased:
        rows = without_erased(rows, parsed, image_tree, repository)
    samples = identified_samples(rows, parsed, head)
    for name, value in (values or {}).items():
        there = len(samples) - samples[name].null_count - (pc.sum(pc.equal(samples[name], value)).as_py() or 0)
        parsed.notes += [f"{there:,} samples have another {name} already, which stays; a table corrects it"] * bool(
            there
        )
        samples = samples.set_column(samples.column_names.index(name), name, pc.fill_null(samples[name], value))
    address = tree.url if tree.single_file is None else tree.uri(tree.single_file)
    address = hub.address if hub else address
    again = head is not None and head.state("samples").contains(samples["sample_id"].combine_chunks()).any()
    base = last_ingest(repository, head, address) if head and again else None
    existing = existing_annotations(head, samples, parsed)
    annotations = identified_annotations(parsed, samples, existing, base, schema.multi_label)
    ids = dict(zip(samples["key"].to_pylist(), samples["sample_id"].to_pylist(), strict=True))
    corrects, held = ([ids[key] for key in sorted(keys) if key in ids] for keys in (parsed.corrects, parsed.held))
    settled = settle(annotations, existing, base, corrects=corrects, held=held, overrule=overrule)
    parsed.findings += settled.findings
    parsed.notes += _unasked_kinds(annotations, schema)

    if strict and parsed.rejected:
        raise RejectedError(
            f"{source}: {parsed.rejected} faulty rows, and --strict refuses the whole." + _examples(parsed.findings),
            remedy="Correct the source, or ingest without --strict to keep the good rest.",
        )
    if guard is not None and head is not None and not unseal:
        guard(repository, head, samples)
    tracked = dvc_records(tree, image_tree)
    event = Event(
        "ingest",
        repository.settings.actor,
        inputs={"source": address, "images": image_tree.url, "version": head.name if head else None}
        | ({"earlier": list(base.events)} if base else {})
        | ({"dvc": tracked} if tracked else {}),
        outputs={"findings": _store_findings(repository, parsed.findings)}
        | ({"kept": settled.kept} if settled.kept else {}),
        parameters={
            "format": reader.name,
            "split": split,
            "copy": copy,
            "strip": strip,
            "strict": strict,
            "overrule": overrule,
            **({"revision": hub.revision} if hub else {}),
        },
    )
    result: CommitResult = repository.commit(
        Change(samples=samples.drop(["key"]), annotations=settled.put, remove_annotations=settled.remove),
        message=message or f"Ingest {tree.single_file or address} ({reader.name})",
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
        annotations=len(annotations),
        rejected=parsed.rejected,
        kept=settled.stay,
        conflicts=len(settled.findings),
        confirmed=settled.confirmed if result.changed else 0,
        findings=parsed.findings,
        counts={name: {word: result.counts.get(name, {}).get(op, 0) for op, word in _OPS.items()} for name in TABLES},
        notes=parsed.notes,
    )


def _unasked_kinds(annotations: pa.Table, schema: LabelSchema) -> list[str]:
    """A note about annotations of kinds that the schema has no task for; none without any."""
    counts = Counter(kind for kind in annotations["kind"].to_pylist() if kind not in schema.kinds)
    told = (f"{n:,} {kind if n == 1 else _SEVERAL.get(kind, kind)}" for kind, n in sorted(counts.items()))
    note = (
        f"{', '.join(told)}: the schema asks for {' and '.join(schema.kinds)}. They are kept, but no task counts them. If "
        "they are wanted, take a schema with that task (dsops init --schema FILE); if only boxes are, ingest without outlines"
    )
    return [note] if counts else []


def _with_truth_values(annotations: pa.Table, schema: LabelSchema) -> pa.Table:
    """The numbers 0 and 1 as false and true, in attributes that the schema declares to be either."""
    names = {attribute.name for attribute in schema.attributes if attribute.type == "bool"}
    if not names:
        return annotations
    coded = annotations["attributes"].combine_chunks().dictionary_encode()
    texts = []
    for text in coded.dictionary.to_pylist():
        given = orjson.loads(text)
        flags = {name: bool(given[name]) for name in names & given.keys() if given[name] in (0, 1)}
        texts.append(canonical_json(given | flags).decode() if flags else text)
    told = pa.array(texts, pa.string()).take(coded.indices)
    return annotations.set_column(annotations.column_names.index("attributes"), "attributes", told)


def _place(finding: Finding) -> dict[str, str | None]:
    names = ("uri", "sample_id", "message", "given", "suggested")
    return {name: getattr(finding, name) for name in names}


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
