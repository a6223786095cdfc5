"""Run checks over a version and leave an audit record: findings, scores, parameters, and what they were made from."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from datasetops.audits.base import AuditContext, Check, CheckResult
from datasetops.audits.probabilities import for_version
from datasetops.audits.stored import StoredImages
from datasetops.errors import ModelError, NotFoundError, did_you_mean
from datasetops.ledger import Event
from datasetops.manifest import Repository, Version
from datasetops.models import EmbeddingCache, embed_images, open_embedder
from datasetops.plugins import load_plugin, plugin_names
from datasetops.progress import Progress, no_progress
from datasetops.records import SEVERITIES, canonical_json, findings_table, sha256_hex

SCORES = pa.schema(
    [("check", pa.string()), ("sample_id", pa.string()), ("annotation_id", pa.string()), ("score", pa.float64())]
)


@dataclass(frozen=True)
class AuditRecord:
    """What an audit left behind. `info` has version, commit, parameters, models and, by check, findings and seconds."""

    audit_id: str
    info: Mapping[str, Any]
    findings: pa.Table  # columns of records.FINDINGS, worst first within a check
    scores: pa.Table  # columns of SCORES: every item that a check scored, flagged or not
    summaries: Mapping[str, Any] = field(default_factory=dict)
    reused: bool = False  # it was made by an earlier run

    @property
    def version(self) -> str:
        return str(self.info["version"])

    def worst(self) -> str | None:
        """The highest severity found."""
        found = set(pc.unique(self.findings["severity"]).to_pylist())
        return next((severity for severity in reversed(SEVERITIES) if severity in found), None)


def audit(
    repository: Repository,
    version: Version,
    *,
    checks: Sequence[str] = (),
    split: str | None = None,
    where: str | None = None,
    probabilities: pd.DataFrame | None = None,
    model: str | None = None,
    seed: int = 0,
    again: bool = False,
    progress: Progress = no_progress,
) -> AuditRecord:
    """Run the named checks (all of them by default) over a version's samples and store the record.

    `split` and `where` (a SQL condition as in `Version.where`) choose samples. `probabilities` are out-of-sample class
    probabilities from any model: index sample_id, one column a class; without them a probe on embeddings of `model`
    makes them. The same inputs give the same findings, so a stored record is returned unless `again` is set or some
    image could not be read for it. Raises NotFoundError for an unknown check and where not one image can be read,
    ValueError for probabilities that do not fit.
    """
    names = _check_names(checks)
    table = version.table("samples")
    if split is not None:
        check_split(version, split)
        table = table.filter(pc.equal(table["split"], split))
    if where is not None:
        table = table.filter(pc.is_in(table["sample_id"], pa.array(version.where(where), pa.string())))
    if not len(table):
        raise NotFoundError(f"No sample of {version.name} is chosen.", remedy="Loosen --split and --where.")
    reference = model or repository.settings.model
    parameters = {
        "checks": names,
        "split": split,
        "where": where,
        "model": reference,
        "probabilities": None if probabilities is None else _frame_digest(probabilities),
        "seed": seed,
    }
    audit_id = sha256_hex(canonical_json([version.digest, parameters, _code_version()]))[:12]
    stored = None if again else _stored(repository, version, audit_id)
    if stored is not None and stored.info.get("unreadable") == 0:
        return replace(stored, reused=True)

    annotations = version.labels()
    annotations = annotations.filter(pc.is_in(annotations["sample_id"], table["sample_id"].combine_chunks()))
    samples = table.to_pandas()
    embeddings = _Embeddings(repository, reference, samples, progress)
    context = AuditContext(
        samples=samples,
        annotations=annotations.to_pandas(),
        schema=version.schema,
        images=embeddings.images,
        embeddings=embeddings,
        probabilities=None if probabilities is None else for_version(probabilities, samples, version.schema),
        ingest_findings=lambda: ingest_findings(repository, version),
        seed=seed,
        jobs=repository.settings.jobs,
        progress=progress,
    )
    results: dict[str, CheckResult] = {}
    facts: dict[str, dict[str, Any]] = {}
    for name in names:
        check: Check = load_plugin("checks", name)()
        started = time.perf_counter()
        results[name] = check.run(context)
        _refuse_without_images(embeddings.images, version)
        counts = pd.Series([finding.severity for finding in results[name].findings], dtype=object).value_counts()
        facts[name] = {
            "findings": len(results[name].findings),
            "seconds": round(time.perf_counter() - started, 3),
            "severity": {severity: int(counts.get(severity, 0)) for severity in reversed(SEVERITIES)},
        }
        if "skipped" in results[name].summary:
            facts[name]["skipped"] = results[name].summary["skipped"]
    info = {
        "audit": audit_id,
        "version": version.name,
        "commit": version.digest,
        "parameters": parameters,
        "models": embeddings.models,
        "samples": len(samples),
        "annotations": len(annotations),
        "unreadable": len(embeddings.unreadable()),
        "checks": facts,
    }
    record = AuditRecord(
        audit_id,
        info,
        _sorted(pa.concat_tables([findings_table(result.findings) for result in results.values()])),
        _scores(results),
        {name: result.summary for name, result in results.items()},
    )
    _store(repository, record)
    return record


def latest_audit(repository: Repository, version: Version, audit_id: str | None = None) -> AuditRecord:
    """What the audits of a version found: each check as the newest audit that ran it left it, or one audit alone.

    `audit_id` may be the beginning of one. Of several audits, id and parameters are the newest one's.
    Raises NotFoundError where there is none.
    """
    ran: dict[str, list[str]] = {}
    for entry in repository.ledger.backwards():
        if entry.event.kind == "audit" and entry.event.inputs.get("commit") == version.digest:
            ran.setdefault(str(entry.event.outputs["audit"]), entry.event.parameters["checks"])
    remedy = f"Run: dsops audit {version.name}"
    if audit_id is not None:
        if len(chosen := [name for name in ran if name.startswith(audit_id)]) != 1:
            remedy = did_you_mean(audit_id, ran, noun="audits") if ran else remedy
            raise NotFoundError(f"{version.name} has no audit {audit_id!r}.", remedy=remedy)
        ran = {chosen[0]: ran[chosen[0]]}
    newest: list[AuditRecord] = []
    owner: dict[str, AuditRecord] = {}
    for name, checks in ran.items():
        if set(checks) <= owner.keys() or (record := _stored(repository, version, name)) is None:
            continue
        newest.append(record)
        owner = dict.fromkeys(record.info["checks"], record) | owner
    if not newest:
        raise NotFoundError(f"{version.name} has not been audited.", remedy=remedy)
    return AuditRecord(
        newest[0].audit_id,
        dict(newest[0].info) | {"checks": {name: owner[name].info["checks"][name] for name in sorted(owner)}},
        _sorted(pa.concat_tables([_of_owned(record.findings, record, owner) for record in newest])),
        pa.concat_tables([_of_owned(record.scores, record, owner) for record in newest]),
        {name: record.summaries.get(name, {}) for name, record in owner.items()},
        reused=True,
    )


def _of_owned(rows: pa.Table, record: AuditRecord, owner: Mapping[str, AuditRecord]) -> pa.Table:
    mine = [name for name, one in owner.items() if one is record]
    return rows.filter(pc.is_in(rows["check"], pa.array(mine, pa.string())))


def check_split(version: Version, split: str) -> None:
    """Raises NotFoundError, with the splits that there are, for one that the version does not have."""
    known = [name for name in pc.unique(version.table("samples", ["split"])["split"]).to_pylist() if name]
    if split not in known:
        raise NotFoundError(
            f"{version.name} has no split {split!r}.",
            remedy=did_you_mean(split, known, noun="splits")
            if known
            else "None of its samples has a split yet. Place them with: dsops split train=0.8,val=0.1,test=0.1",
        )


def _refuse_without_images(images: StoredImages, version: Version) -> None:
    """Not one image can be read: then the images are not where they were, and findings would say nothing."""
    if images.faults and not images.any_read:
        raise NotFoundError(
            f"No image of {version.name} can be read from {images.folder()}: {next(iter(images.faults.values()))}",
            remedy="Put the folder back, or ingest the images from where they are now. Checks that need no image still "
            "run, by --check (dsops audit --list).",
        )


def ingest_findings(repository: Repository, version: Version) -> list[dict[str, Any]]:
    """What ingest found at fault in the sources of a version and of those it stands on, newest first."""
    from datasetops.manifest.commit import get_object

    ancestors = {version.digest, *(item.digest for item in _history(repository, version))}
    found: list[dict[str, Any]] = []
    for entry in repository.ledger.backwards():
        digest = entry.event.outputs.get("findings")
        if entry.event.kind == "ingest" and digest and entry.commit in ancestors:
            found += json.loads(get_object(repository.store, "findings", digest))
    return found


def _history(repository: Repository, version: Version) -> list[Version]:
    by_digest = {item.digest: item for item in repository.versions()}
    queue, seen = [version.digest], {}
    while queue:
        digest = queue.pop()
        if digest in by_digest and digest not in seen:
            seen[digest] = by_digest[digest]
            queue += by_digest[digest].commit.parents
    return list(seen.values())


class _Embeddings:
    """Computed when a check first asks for them, from the cache where they were computed before."""

    def __init__(self, repository: Repository, reference: str, samples: pd.DataFrame, progress: Progress) -> None:
        self._repository = repository
        self._reference = reference
        self._samples = samples
        self._progress = progress
        self.models: dict[str, str] = {}
        self.images = StoredImages(repository, samples["uri"].tolist())

    def __call__(self) -> npt.NDArray[np.float32]:
        return self._array

    def unreadable(self) -> set[int]:
        """Rows of images that some check could not read or decode."""
        rows = set(self.images.faults)
        if "_array" in self.__dict__:  # it was asked for
            rows |= set(np.flatnonzero(np.isnan(self._array[:, 0]) & self._samples["sha256"].notna()).tolist())
        return rows

    @cached_property
    def _array(self) -> npt.NDArray[np.float32]:
        embedder = open_embedder(self._reference, cache=self._repository.settings.cache)
        self.models[self._reference] = embedder.digest
        readable = np.flatnonzero(self._samples["sha256"].notna())
        array = np.full((len(self._samples), embedder.dim), np.nan, dtype=np.float32)
        if not len(readable):
            raise ModelError(
                "The version's samples have no images at hand.",
                remedy="Ingest it with --images, or run the checks that need none (dsops audit --list).",
            )
        array[readable] = embed_images(
            embedder,
            self._samples["sha256"].iloc[readable].tolist(),
            lambda row: self.images.read(int(readable[row])),
            cache=EmbeddingCache(self._repository.cache / "embeddings", embedder.digest),
            jobs=self._repository.settings.jobs,
            progress=self._progress,
        )
        return array


def _check_names(checks: Sequence[str]) -> list[str]:
    known = plugin_names("checks")
    for name in checks:
        if name not in known:
            raise NotFoundError(f"There is no check {name!r}.", remedy=did_you_mean(name, known, noun="checks"))
    return [name for name in known if not checks or name in checks]


def _sorted(findings: pa.Table) -> pa.Table:
    """Worst first: by severity, then score, then id, so that the same findings stand in the same order."""
    rank = pc.index_in(findings["severity"], pa.array(list(reversed(SEVERITIES))))
    ordered = findings.append_column("rank", rank).sort_by(
        [("rank", "ascending"), ("score", "ascending"), ("finding_id", "ascending")]
    )
    return ordered.drop(["rank"])


def _scores(results: Mapping[str, CheckResult]) -> pa.Table:
    tables = []
    for name, result in results.items():
        frame = result.scores.assign(check=name).astype({"score": "float64"})
        frame["annotation_id"] = frame["annotation_id"].astype(object)
        tables.append(pa.Table.from_pandas(frame[SCORES.names], schema=SCORES, preserve_index=False))
    return pa.concat_tables(tables) if tables else SCORES.empty_table()


def _folder(version: str, audit_id: str) -> str:
    return f"audits/{version}/{audit_id}"


def _store(repository: Repository, record: AuditRecord) -> None:
    folder = _folder(record.version, record.audit_id)
    contents = {
        f"{folder}/findings.parquet": _parquet(record.findings),
        f"{folder}/scores.parquet": _parquet(record.scores),
        f"{folder}/audit.json": canonical_json(_plain(dict(record.info) | {"summaries": record.summaries})),
    }
    for key, data in contents.items():
        repository.store.put(key, data)
    event = Event(
        "audit",
        repository.settings.actor,
        inputs={"version": record.version, "commit": record.info["commit"], "models": record.info["models"]},
        outputs={"audit": record.audit_id, "files": {key: sha256_hex(data) for key, data in contents.items()}},
        parameters=_plain(record.info["parameters"]),
    )
    repository.ledger.record(event)


def _stored(repository: Repository, version: Version, audit_id: str) -> AuditRecord | None:
    folder = _folder(version.name, audit_id)
    try:
        info = json.loads(repository.store.get(f"{folder}/audit.json"))
        findings, scores = (_table(repository.store.get(f"{folder}/{name}.parquet")) for name in ("findings", "scores"))
    except (NotFoundError, ValueError, pa.ArrowInvalid, OSError):
        return None
    return AuditRecord(audit_id, info, findings, scores, info.pop("summaries"))


def _table(data: bytes) -> pa.Table:
    """Read in this thread alone: a thread of Arrow's pool that lets go of Python bytes after Python has begun to end
    aborts the process."""
    return pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True).read(use_threads=False)


def _parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue()


def _plain(value: Any) -> Any:
    """NumPy numbers and non-finite floats as JSON has them."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


def _frame_digest(frame: pd.DataFrame) -> str:
    hashes = pd.util.hash_pandas_object(frame, index=True).to_numpy().tobytes()
    return sha256_hex(hashes + canonical_json([str(column) for column in frame.columns]))


def _code_version() -> str:
    from importlib.metadata import version

    return version("dsops")
