"""What breaks a policy's rights now and what will expire: in which versions, and which models learned from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from datasetops.errors import NotFoundError
from datasetops.gate.policy import Policy
from datasetops.gate.rights import Judge, VersionRights, asks_of_rights
from datasetops.gate.status import DRAFT, Status, statuses
from datasetops.manifest import Repository, Version
from datasetops.training.record import SAMPLES, TRAIN, VALIDATION, ModelRecord, model_file, model_records, promoted


@dataclass(frozen=True)
class ModelRights:
    """How many samples that break a right, or will expire, a model learned from, by part (train, validation)."""

    model: str
    version: str
    production: bool
    broken: Mapping[str, int]
    expiring: Mapping[str, int]


@dataclass(frozen=True)
class RightsReport:
    """`versions` were looked at; `status` by version; `models` are those that learned from samples of concern."""

    policy: str
    digest: str
    rules: tuple[str, ...]
    time: datetime
    within: int
    versions: tuple[VersionRights, ...]
    status: Mapping[str, str]
    models: tuple[ModelRights, ...]
    models_looked_at: int

    @property
    def broken(self) -> bool:
        return any(version.breaches for version in self.versions)

    def as_dict(self) -> dict[str, Any]:
        return {
            "policy": self.policy,
            "digest": self.digest,
            "rules": list(self.rules),
            "time": self.time.isoformat(timespec="seconds"),
            "within": self.within,
            "broken": self.broken,
            "versions": [
                {
                    "version": one.version,
                    "status": self.status[one.version],
                    "samples": one.samples,
                    "broken": len(one.broken),
                    "rules": {
                        breach.rule: {"samples": breach.samples, "values": breach.values} for breach in one.breaches
                    },
                    "expiring": len(one.expiring),
                    "first_expiry": one.first_expiry and one.first_expiry.isoformat(timespec="seconds"),
                }
                for one in self.versions
            ],
            "models": [
                {
                    "model": m.model,
                    "version": m.version,
                    "production": m.production,
                    "broken": m.broken,
                    "expiring": m.expiring,
                }
                for m in self.models
            ],
            "models_looked_at": self.models_looked_at,
        }


def check_rights(
    repository: Repository,
    policy: Policy,
    version: Version | None = None,
    *,
    within: int = 90,
    now: datetime | None = None,
) -> RightsReport:
    """Hold one version against a policy's rights, or the newest of main and every accepted one; and all models.

    `within` is in days: what expires by then is told apart from what breaks now.
    """
    now = now or datetime.now(UTC)
    known = statuses(repository)
    chosen = [version] if version else _newest_and_accepted(repository, known)
    judge = Judge(policy, now, now + timedelta(days=within))
    found = tuple(judge.version(one) for one in chosen)
    models, looked_at = _models(repository, found)
    return RightsReport(
        policy.name,
        policy.digest,
        asks_of_rights(policy),
        now,
        within,
        found,
        {one.name: known.get(one.digest, Status(DRAFT)).status for one in chosen},
        tuple(models),
        looked_at,
    )


def _newest_and_accepted(repository: Repository, known: Mapping[str, Status]) -> list[Version]:
    newest = repository.version()
    older = [one for one in repository.versions() if one.digest in known and known[one.digest].status == "accepted"]
    return [newest, *(one for one in older if one.digest != newest.digest)]


def _models(repository: Repository, found: Sequence[VersionRights]) -> tuple[list[ModelRights], int]:
    """(models that learned from samples of concern, how many there are)."""
    records = model_records(repository)
    broken = pc.unique(pa.concat_arrays([one.broken for one in found]))
    expiring = pc.unique(pa.concat_arrays([one.expiring for one in found]))
    expiring = expiring.filter(pc.invert(pc.is_in(expiring, broken)))
    if not len(broken) and not len(expiring):
        return [], len(records)
    try:
        production = promoted(repository)
    except NotFoundError:
        production = ""
    concerned = []
    for record in records:
        learned = _samples(repository, record)
        counts = [
            {part: int(pc.sum(pc.is_in(ids, those)).as_py() or 0) for part, ids in learned.items()}
            for those in (broken, expiring)
        ]
        if any(counts[0].values()) or any(counts[1].values()):
            concerned.append(ModelRights(record.name, record.version, record.name == production, *counts))
    return concerned, len(records)


def _samples(repository: Repository, record: ModelRecord) -> dict[str, pa.ChunkedArray]:
    """As `model_samples`, in Arrow."""
    data = model_file(repository, record, SAMPLES)
    rows = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True).read(use_threads=False)
    parts = pc.cast(rows["part"], pa.string())
    return {part: rows["sample_id"].filter(pc.equal(parts, part)) for part in (TRAIN, VALIDATION)}
