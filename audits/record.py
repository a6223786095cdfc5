"""What audits leave behind: findings, scores, parameters, and what they were made from, kept with the version."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from datasetops.audits.base import CheckResult
from datasetops.errors import DamagedError, NotFoundError, did_you_mean
from datasetops.ledger import Event
from datasetops.manifest import Repository, Version
from datasetops.manifest.erasing import was_replaced
from datasetops.records import SEVERITIES, canonical_json, sha256_hex

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


def latest_audit(
    repository: Repository, version: Version, audit_id: str | None = None, *, whole: bool = False
) -> AuditRecord:
    """What the audits of a version found: each check as the newest audit that ran it left it, or one audit alone.

    `audit_id` may be the beginning of one; `whole`: only audits of all samples. Of several audits, id and parameters are
    the newest one's.
    Raises NotFoundError where there is none, DamagedError where a file of one is not as the ledger says.
    """
    ran: dict[str, list[str]] = {}
    files: dict[str, Mapping[str, str]] = {}
    for entry in repository.ledger.backwards():
        if entry.event.kind == "audit" and entry.event.inputs.get("commit") == version.digest:
            if whole and (entry.event.parameters.get("split") or entry.event.parameters.get("where")):
                continue
            ran.setdefault(str(entry.event.outputs["audit"]), entry.event.parameters["checks"])
            files.setdefault(str(entry.event.outputs["audit"]), entry.event.outputs["files"])
    remedy = f"Run: dsops audit {version.name}"
    if audit_id is not None:
        if len(chosen := [name for name in ran if name.startswith(audit_id)]) != 1:
            remedy = did_you_mean(audit_id, ran, noun="audits") if ran else remedy
            raise NotFoundError(f"{version.name} has no audit {audit_id!r}.", remedy=remedy)
        ran = {chosen[0]: ran[chosen[0]]}
    newest: list[AuditRecord] = []
    owner: dict[str, AuditRecord] = {}
    for name, checks in ran.items():
        if set(checks) <= owner.keys() or (record := stored_audit(repository, version, name)) is None:
            continue
        _refuse_changed(repository, files[name])
        newest.append(record)
        owner = dict.fromkeys(record.info["checks"], record) | owner
    if not newest:
        raise NotFoundError(f"{version.name} has not been audited.", remedy=remedy)
    return AuditRecord(
        newest[0].audit_id,
        dict(newest[0].info) | {"checks": {name: owner[name].info["checks"][name] for name in sorted(owner)}},
        worst_first(pa.concat_tables([_of_owned(record.findings, record, owner) for record in newest])),
        pa.concat_tables([_of_owned(record.scores, record, owner) for record in newest]),
        {name: record.summaries.get(name, {}) for name, record in owner.items()},
        reused=True,
    )


def _refuse_changed(repository: Repository, files: Mapping[str, str]) -> None:
    """Raise DamagedError for a file that is no longer what the ledger says, unless an erasure changed it."""
    for key, digest in files.items():
        if repository.store.exists(key):
            now = sha256_hex(repository.store.get(key))
            if now != digest and not was_replaced(repository.store, key, digest, now):
                raise DamagedError(f"{key} is damaged: its bytes changed.", remedy="Audit again: dsops audit --again.")


def _of_owned(rows: pa.Table, record: AuditRecord, owner: Mapping[str, AuditRecord]) -> pa.Table:
    mine = [name for name, one in owner.items() if one is record]
    return rows.filter(pc.is_in(rows["check"], pa.array(mine, pa.string())))


def worst_first(findings: pa.Table) -> pa.Table:
    """Worst first: by severity, then score, then id, so that the same findings stand in the same order."""
    rank = pc.index_in(findings["severity"], pa.array(list(reversed(SEVERITIES))))
    ordered = findings.append_column("rank", rank).sort_by(
        [("rank", "ascending"), ("score", "ascending"), ("finding_id", "ascending")]
    )
    return ordered.drop(["rank"])


def scores_table(results: Mapping[str, CheckResult]) -> pa.Table:
    tables = []
    for name, result in results.items():
        frame = result.scores.assign(check=name).astype({"score": "float64"})
        frame["annotation_id"] = frame["annotation_id"].astype(object)
        tables.append(pa.Table.from_pandas(frame[SCORES.names], schema=SCORES, preserve_index=False))
    return pa.concat_tables(tables) if tables else SCORES.empty_table()


def _folder(version: str, audit_id: str) -> str:
    return f"audits/{version}/{audit_id}"


def store_audit(repository: Repository, record: AuditRecord) -> None:
    folder = _folder(record.version, record.audit_id)
    contents = {
        f"{folder}/findings.parquet": _parquet(record.findings),
        f"{folder}/scores.parquet": _parquet(record.scores),
        f"{folder}/audit.json": canonical_json(plain(dict(record.info) | {"summaries": record.summaries})),
    }
    for key, data in contents.items():
        repository.store.put(key, data)
    event = Event(
        "audit",
        repository.settings.actor,
        inputs={"version": record.version, "commit": record.info["commit"], "models": record.info["models"]},
        outputs={"audit": record.audit_id, "files": {key: sha256_hex(data) for key, data in contents.items()}},
        parameters=plain(record.info["parameters"]),
    )
    repository.ledger.record(event)


def is_noted(repository: Repository, record: AuditRecord) -> bool:
    """Whether the ledger has the audit; else what stored it was killed in the middle."""
    return repository.ledger.names_file(f"{_folder(record.version, record.audit_id)}/audit.json")


def stored_audit(repository: Repository, version: Version, audit_id: str) -> AuditRecord | None:
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


def plain(value: Any) -> Any:
    """NumPy numbers and non-finite floats as JSON has them."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
