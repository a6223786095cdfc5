"""A version of a repository as a dataset in FiftyOne, with what its newest audits found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from datasetops.audits.decisions import decisions, open_findings
from datasetops.audits.record import latest_audit
from datasetops.errors import NotFoundError, StoreError
from datasetops.fiftyone.database import connect, quietly, shown_address
from datasetops.fiftyone.dataset import Target
from datasetops.fiftyone.images import Picture, Pictures
from datasetops.fiftyone.labels import KEYS, RESERVED, LabelMaker, field_of_rows, fields_asked, object_id
from datasetops.fiftyone.marks import ALL, TAG, marks_of, ranked, severity_view
from datasetops.fiftyone.merge import changed_there, new_sample, update_sample
from datasetops.fiftyone.rows import ByOwner
from datasetops.fiftyone.values import Type, Values, objects
from datasetops.labeling.orientation import shown_size
from datasetops.ledger import Event
from datasetops.manifest import Repository, Version
from datasetops.progress import Progress, no_progress
from datasetops.records import FINDINGS

_BATCH: Final = 250  # samples in memory at a time
_TEXTS: Final = ("uri", "split", "group", "origin", "license", "consent")
_TIMES: Final = ("expires_at", "captured_at")
_NOT_SHOWN: Final = ("image/tiff", "image/jp2", "image/x-portable-pixmap")  # by browsers
_TOLD: Final = 3  # examples of images that cannot be shown
_TYPES: Final[dict[str, Type]] = {"bool": "boolean", "number": "number", "choice": "text", "text": "text"}
_GENERAL: Final = 1000  # findings about no single sample that go with the dataset


@dataclass
class FiftyOneResult:
    """Samples by what happened to them; `kept` are those whose labels were changed in FiftyOne and stay as they are.

    `audit` is None where the version has not been audited; `findings` counts those about exported samples. `notes` are
    sentences about what is otherwise than one may expect.
    """

    version: str
    dataset: str
    database: str
    samples: int
    labels: int
    added: int = 0
    updated: int = 0
    unchanged: int = 0
    removed: int = 0
    kept: int = 0
    audit: str | None = None
    findings: int = 0
    views: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def default_name(repository: Repository) -> str:
    """The name of the repository's folder, or of the last part of its address."""
    return repository.root.name if repository.root else repository.store.url.rstrip("/").rpartition("/")[2]


def export_to_fiftyone(
    repository: Repository,
    version: Version,
    *,
    name: str | None = None,
    database: str | None = None,
    where: str | None = None,
    overrule: bool = False,
    rights: Mapping[str, Any] | None = None,
    progress: Progress = no_progress,
) -> FiftyOneResult:
    """Make a dataset in FiftyOne like a version, or bring it up to date; `where` is a SQL condition as in `Version.where`.

    Labels that were changed in FiftyOne since the last export stay as they are there unless `overrule` is given; tags,
    fields and samples of others stay in any case. `rights` as in datasetops.export. Raises MissingDependencyError,
    StoreError where no database answers, ConflictError where the dataset was made by others, from another repository or
    with another `where`.
    """
    with quietly():
        fiftyone = connect(database)
        from pymongo.errors import PyMongoError

        ids = pa.array(version.where(where), pa.string()) if where else None
        try:
            owner = {"repository": repository.ledger.read(0).digest, "where": where}
            target = Target(fiftyone, name or default_name(repository), owner)
            result = _Export(repository, version, target, ids).run(overrule, progress)
        except PyMongoError as error:
            reason = str(error).partition("\n")[0]
            remedy = "Look after the database, then run the same command again: it goes on where it was."
            raise StoreError(f"The database of FiftyOne failed: {reason}", remedy=remedy) from None
    result.database = shown_address(fiftyone.config.database_uri)
    parameters = {
        "format": "fiftyone",
        "path": target.name,
        "database": result.database,
        "where": where,
        **(rights or {}),
    }
    outputs = {"samples": result.samples, "labels": result.labels}
    inputs = {"version": version.name, "audit": result.audit}
    repository.ledger.record(Event("export", repository.settings.actor, inputs, outputs, parameters))
    return result


class _Export:
    """One run: everything that is known before the first sample, then the samples in batches."""

    def __init__(self, repository: Repository, version: Version, target: Target, ids: pa.Array | None) -> None:
        self.version = version
        self.target = target
        self.pictures = Pictures(repository)
        samples = version.table("samples")
        self.samples = samples if ids is None else samples.filter(pc.is_in(samples["sample_id"], ids))
        labels = version.labels()
        labels = labels.append_column("field", field_of_rows(labels, version.schema))
        self.labels = ByOwner(labels, self.samples["sample_id"])
        asked = {item.name: _TYPES[item.type] for item in version.schema.attributes}
        self.attributes = Values(objects(labels["attributes"]), taken=RESERVED, declared=asked)
        self.decided = 0
        self.result = FiftyOneResult(version.name, target.name, "", len(self.samples), len(self.labels.rows))
        found = self._audited(repository)
        self.findings = ByOwner(ranked(found), self.samples["sample_id"])
        self.result.findings = len(self.findings.rows)
        self.general = found.filter(pc.is_null(found["sample_id"]))
        used = [name for name in (*_TEXTS, *_TIMES) if self.samples[name].null_count < len(self.samples)]
        self.columns = ["sample_id", *used]
        self.metadata = Values(
            objects(self.samples["metadata"]), taken={*target.reserved(), *_TEXTS, *_TIMES, "sample_id"}
        )
        self.keys = {*KEYS, *self.attributes.types, *target.info.get("keys", ())}
        self.maker = LabelMaker(self.attributes)
        self.troubles: list[str] = []

    def _audited(self, repository: Repository) -> pa.Table:
        try:
            audit = latest_audit(repository, self.version)
        except NotFoundError as error:
            self.result.notes.append(f"{error.message} So there are no findings to show. {error.remedy}")
            return FINDINGS.empty_table()
        self.result.audit = audit.audit_id
        made = decisions(repository)
        self.decided = len(made)
        return open_findings(audit.findings, made)

    def run(self, overrule: bool, progress: Progress) -> FiftyOneResult:
        self._declare()
        total = len(self.samples)
        steps = progress(range(total), total, "Writing samples to FiftyOne")
        for start in range(0, total, _BATCH):
            self._write(start, overrule)
            for _ in zip(range(_BATCH), steps, strict=False):
                pass
        self._remove_others()
        self._save_views()
        self.target.keep_info(self.target.info | {"done": state_of(self.version, self.result.audit, self.decided)})
        self._tell()
        return self.result

    def _declare(self) -> None:
        plain: dict[str, Type | None] = {name: None if name in _TIMES else "text" for name in self.columns}
        plain |= self.metadata.types
        rows, marked = self.labels.rows, self.findings.rows
        present = [name for name in ("model", "text") if rows[name].null_count < len(rows)]
        present += ["finding"] if marked["annotation_id"].null_count < len(marked) else []
        labels: dict[str, dict[str, Type]] = {}
        asked = {self.attributes.field_of(item.name) for item in self.version.schema.attributes}
        names = {*pc.unique(rows["field"]).to_pylist(), *fields_asked(self.version.schema)}
        for name in sorted(names - ({"classification"} if "classifications" in names else set())):
            of_field = objects(rows["attributes"].filter(pc.equal(rows["field"], name)))
            attributes = asked | {key for item in of_field for key in self.attributes.fields(item)}
            labels[name] = _texts("annotation_id", "source", "actor", *present)
            labels[name] |= {key: self.attributes.types[key] for key in sorted(attributes)}
        if "keypoints" in labels:
            labels["keypoints"]["score"] = "number"
        if marked["box"].null_count < len(marked):
            labels["suggested"] = _texts("annotation_id", "severity", "message") | {"score": "number"}
        checks = [ALL, *sorted(pc.unique(marked["check"]).to_pylist())] if len(marked) else []
        self.target.declare(plain, labels, checks)
        self.target.describe(self.version.schema, labels)
        self.target.keep_info(
            self.target.info
            | {"version": self.version.name, "commit": self.version.digest, "audit": self.result.audit}
            | {"done": None, "keys": sorted(self.keys), "fields": sorted(plain), "attributes": self.attributes.stored()}
            | {"findings": self.general.select(["check", "severity", "message"]).to_pylist()[:_GENERAL]}
        )

    def _write(self, start: int, overrule: bool) -> None:
        rows = self.samples.slice(start, _BATCH).to_pylist()
        pictures = self.pictures.of(rows)
        labels = self.labels.between(start, start + len(rows))
        findings = self.findings.between(start, start + len(rows))
        ids = [object_id(row["sample_id"]) for row in rows]
        known = {} if self.target.created else self.target.find(ids)
        new, changed = [], {}
        for place, (row, picture, key) in enumerate(zip(rows, pictures, ids, strict=True), start):
            if picture.problem:
                self.troubles.append(picture.problem)
            values = self._values(row, picture)
            marks = marks_of(findings.get(place, ()), picture.size)
            made = self.maker.labels(labels.get(place, ()), picture.size) | {"suggested": marks.suggested}
            if key not in known:
                share = int.from_bytes(key.binary[:6]) / 2**48  # FiftyOne draws samples in the order of `_rand`
                new.append({"_id": key, "_rand": share} | new_sample(values, made, marks, self.keys))
                continue
            update = update_sample(known[key], values, made, marks, self.keys, overrule=overrule)
            self.result.kept += bool(update.kept)
            if update.values or update.gone:
                changed[key] = (update.values, update.gone)
        self.target.write(new, changed)
        self.result.added += len(new)
        self.result.updated += len(changed)
        self.result.unchanged += len(rows) - len(new) - len(changed)

    def _values(self, row: Mapping[str, Any], picture: Picture) -> dict[str, Any]:
        """Plain fields of a sample; null where it has no value."""
        metadata = {"_cls": "ImageMetadata", "mime_type": row["media_type"]}
        if picture.size is not None:
            metadata["width"], metadata["height"] = shown_size(picture.size)
        values = {name: _time(row[name]) if name in _TIMES else row[name] for name in self.columns}
        values |= {"filepath": picture.path, "metadata": metadata} | dict.fromkeys(self.metadata.types)
        return values | self.metadata.fields(orjson.loads(row["metadata"]) if row["metadata"] else {})

    def _remove_others(self) -> None:
        """Takes out samples that are no longer in the version, unless their labels were changed in FiftyOne."""
        if self.target.created:
            return
        wanted = {object_id(name) for name in self.samples["sample_id"].to_pylist()}
        others = [name for name in self.target.written() if name not in wanted]
        edited = 0
        for start in range(0, len(others), _BATCH):
            found = self.target.find(others[start : start + _BATCH])
            gone = [name for name, sample in found.items() if not changed_there(sample, self.keys)]
            self.target.remove(gone)
            self.result.removed += len(gone)
            edited += len(found) - len(gone)
        if edited:
            self.result.notes.append(
                f"{edited:,} samples are no longer in {self.version.name}, and stay in FiftyOne because their labels were "
                "changed there."
            )

    def _save_views(self) -> None:
        """One view for each check and each severity that has findings, worst first."""
        about = f"Findings of {self.version.name}, worst first"
        rows = self.findings.rows
        checks, severities = (sorted(pc.unique(rows[name]).to_pylist()) for name in ("check", "severity"))
        wanted = {name: (f"{TAG}{name}", f"finding_rank.{name}", f"{about}: check {name}") for name in checks}
        for severity in severities:
            name = severity_view(severity)
            wanted[name] = (f"{TAG}{name}", f"finding_rank.{ALL}", f"{about}: severity {severity}")
        taken = self.target.save_views(wanted)
        self.result.views = sorted(wanted.keys() - set(taken))
        if taken:
            self.result.notes.append(f"Saved views of yours have these names and were left alone: {', '.join(taken)}.")

    def _tell(self) -> None:
        notes = self.result.notes
        if self.result.kept:
            notes.append(
                f"{self.result.kept:,} samples have labels that were changed in FiftyOne since the last export: those "
                "stay as they are there. --overrule replaces them."
            )
        if len(self.general):
            notes.append(
                f"{len(self.general):,} findings are about no single sample: see `dsops findings {self.version.name}`."
            )
        for reason, count in self.maker.left_out.most_common():
            notes.append(f"{count:,} labels were left out: {reason}.")
        self.result.labels -= self.maker.left_out.total()
        if self.troubles:
            told = " ".join(self.troubles[:_TOLD])
            notes.append(f"{len(self.troubles):,} images cannot be shown, such as: {told}")
        if hidden := pc.sum(pc.is_in(self.samples["media_type"], pa.array(_NOT_SHOWN))).as_py():
            notes.append(f"{hidden:,} images are TIFF or of another kind that browsers do not show.")


def state_of(version: Version, audit: str | None, decided: int) -> list[str | int | None]:
    """What a dataset shows that was written to its end."""
    return [version.digest, audit, decided]


def _texts(*names: str) -> dict[str, Type]:
    return dict.fromkeys(names, "text")


def _time(value: datetime | None) -> datetime | None:
    """As the database holds it: UTC without a zone, in milliseconds."""
    if value is None:
        return None
    plain = value.astimezone(UTC).replace(tzinfo=None)
    return plain.replace(microsecond=plain.microsecond // 1000 * 1000)
