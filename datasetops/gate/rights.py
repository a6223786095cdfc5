"""Which samples a policy's rights no longer allow: licence, consent, expiry, residency. And what may be exported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from datasetops.errors import RejectedError
from datasetops.gate.live import Hidden, Mask, live_rows
from datasetops.gate.policy import EVENT, Policy, kept_policy
from datasetops.ledger import Event
from datasetops.manifest import Repository, Version
from datasetops.manifest.segment import Positions
from datasetops.records import KEYS, SAMPLES, TIMESTAMP

RIGHTS: Final = ("license", "consent", "expiry", "residency")  # rules of a policy that are about rights
EXPORT_REFUSED: Final = "export-refused"
NONE: Final = "(none)"  # a sample that names no licence, consent or residency
_SHOWN: Final = 5  # values that a sentence names at most


@dataclass(frozen=True)
class Breach:
    """A rule that samples break: how many, and by the value that is not allowed."""

    rule: str
    samples: int
    values: Mapping[str, int]

    def words(self) -> str:
        told = [f"{value} {count:,}" for value, count in list(self.values.items())[:_SHOWN]]
        more = [f"{len(self.values) - _SHOWN:,} more"] if len(self.values) > _SHOWN else []
        return ", ".join(told + more)


@dataclass(frozen=True)
class VersionRights:
    """What breaks in a version now, and what will expire. `broken` and `expiring` are sample ids; one that breaks now is
    not among those that will expire."""

    version: str
    samples: int
    breaches: tuple[Breach, ...]
    broken: pa.Array
    expiring: pa.Array
    first_expiry: datetime | None = None


@dataclass(frozen=True)
class _Rows:
    """Some rows of a segment by number, and what they say, one for one."""

    at: Positions
    says: pa.Array


@dataclass(frozen=True)
class _Judged:
    """Rows of a segment: those that break a rule, with the value; ids of those that break any; of those that expire soon
    ids and times."""

    breaks: Mapping[str, _Rows]
    broken: _Rows
    soon: _Rows
    times: pa.Array


@dataclass
class Judge:
    """Holds versions against a policy at one time; what segments hold is judged once, however many versions share them."""

    policy: Policy
    now: datetime
    until: datetime
    _known: dict[str, _Judged] = field(default_factory=dict)
    _hidden: Hidden = field(default_factory=dict)

    def version(self, version: Version, only: pa.Array | None = None) -> VersionRights:
        """Of the samples with ids in `only`, or of all."""
        state = version.state("samples")
        values: dict[str, list[pa.Array]] = {rule: [] for rule in RIGHTS}
        broken, expiring, times = [], [], []
        number = 0
        for segment, live in zip(state.segments, live_rows(state, self._hidden), strict=True):
            if segment.info.id not in self._known:
                self._known[segment.info.id] = self._judge(segment.table([state.key, *rights_columns(self.policy)]))
            judged = self._known[segment.info.id]
            if only is not None:
                live &= pc.is_in(segment.table([state.key])[state.key], only).to_numpy()
            number += int(live.sum())
            for rule, rows in judged.breaks.items():
                values[rule].append(rows.says.filter(pa.array(live[rows.at])))
            broken.append(judged.broken.says.filter(pa.array(live[judged.broken.at])))
            soon = pa.array(live[judged.soon.at])
            expiring.append(judged.soon.says.filter(soon))
            times.append(judged.times.filter(soon))
        breaches = [_breach(rule, _joined(parts, pa.string())) for rule, parts in values.items()]
        return VersionRights(
            version.name,
            number,
            tuple(breach for breach in breaches if breach.samples),
            _joined(broken, pa.string()),
            _joined(expiring, pa.string()),
            pc.min(_joined(times, TIMESTAMP)).as_py(),
        )

    def _judge(self, rows: pa.Table) -> _Judged:
        ids, expires_at = _column(rows, KEYS["samples"]), _column(rows, "expires_at")
        breaks: dict[str, _Rows] = {}
        for rule in ("license", "consent"):
            if (asked := getattr(self.policy, rule)) is not None:
                named = pc.fill_null(pc.not_equal(rows[rule], ""), False)
                fine = pc.and_(named, pc.is_in(rows[rule], pa.array(asked.allowed))) if asked.allowed else named
                breaks[rule] = _rows(_mask(pc.invert(fine)), _column(rows, rule))
        soon: Mask = np.zeros(len(rows), dtype=bool)
        if self.policy.expiry is not None:
            over = _mask(pc.less_equal(expires_at, pa.scalar(self.now, TIMESTAMP)))
            soon = _mask(pc.less_equal(expires_at, pa.scalar(self.until, TIMESTAMP))) & ~over
            breaks["expiry"] = _rows(over, pc.cast(pc.cast(expires_at, pa.date32()), pa.string()))
        if (residency := self.policy.residency) is not None:
            where = residencies(rows, residency.key)
            breaks["residency"] = _rows(_mask(pc.invert(pc.is_in(where, pa.array(residency.allowed)))), where)
        broken: Mask = np.zeros(len(rows), dtype=bool)
        for found in breaks.values():
            broken[found.at] = True
        soon &= ~broken
        return _Judged(breaks, _rows(broken, ids), _rows(soon, ids), expires_at.filter(pa.array(soon)))


def rights_columns(policy: Policy) -> list[str]:
    """Columns of samples that a policy's rights are read from."""
    key = policy.residency.key if policy.residency else None
    own = [] if key is None else [key if key in SAMPLES.names else "metadata"]
    return list(dict.fromkeys(["license", "consent", "expires_at", *own]))


def asks_of_rights(policy: Policy) -> tuple[str, ...]:
    return tuple(rule for rule in policy.rules if rule in RIGHTS)


def residencies(rows: pa.Table, key: str) -> pa.Array:
    """Where each sample may be kept, as text: a column, or a key of the metadata; null where it does not say."""
    if key in SAMPLES.names:
        texts = pc.cast(_column(rows, key), pa.string())
        return pc.if_else(pc.equal(texts, ""), None, texts)
    coded = _column(rows, "metadata").dictionary_encode()
    said = [orjson.loads(text).get(key) for text in coded.dictionary.to_pylist()]  # once for each different metadata
    values = pa.array([None if value in (None, "") else str(value) for value in said], pa.string())
    return values.take(coded.indices)


def clear_for_export(
    repository: Repository, version: Version, *, where: str | None = None, reason: str | None = None
) -> dict[str, Any]:
    """What the event of an export keeps of rights: nothing, or which were passed over, why, and by which policy.

    Only a policy that was set (`dsops policy set`) is held against it. Raises RejectedError for samples that break its
    rights without a reason, which the ledger keeps, and for a reason where none do; ValueError for one of no words.
    """
    if reason is not None and not reason.strip():
        raise ValueError("--override-rights: give the reason why they may be passed over")
    policy = kept_policy(repository, Policy, EVENT)
    breaches: tuple[Breach, ...] = ()
    if policy is not None and asks_of_rights(policy):
        now = datetime.now(UTC)
        only = pa.array(version.where(where), pa.string()) if where else None
        found = Judge(policy, now, now).version(version, only)
        breaches = found.breaches
    if policy is None or not breaches:
        if reason is not None:
            raise RejectedError("No sample breaks a right.", remedy="Leave out --override-rights.")
        return {}
    if reason is None:
        parameters = {"where": where, "policy": policy.digest, "breaches": [asdict(breach) for breach in breaches]}
        inputs = {"version": version.name}
        repository.ledger.record(Event(EXPORT_REFUSED, repository.settings.actor, inputs, parameters=parameters))
        told = "; ".join(f"{breach.rule}: {breach.samples:,} ({breach.words()})" for breach in breaches)
        raise RejectedError(
            f"{len(found.broken):,} samples of {version.name} may not be exported by the policy {policy.name}: {told}.",
            remedy=f"See dsops policy check {version.name}. Leave them out with --where or dsops remove, or export them "
            "for a reason that is recorded: --override-rights REASON.",
        )
    return {"override_rights": reason, "policy": policy.digest, "breaches": [asdict(breach) for breach in breaches]}


def _breach(rule: str, values: pa.Array) -> Breach:
    named = pc.if_else(pc.equal(pc.fill_null(values, ""), ""), NONE, values)
    pairs = [(str(item["values"]), item["counts"]) for item in pc.value_counts(named).to_pylist()]
    return Breach(rule, len(values), dict(sorted(pairs, key=lambda pair: (-pair[1], pair[0]))))


def _joined(parts: list[Any], kind: pa.DataType) -> pa.Array:
    chunks = [chunk for part in parts for chunk in (part.chunks if isinstance(part, pa.ChunkedArray) else [part])]
    return pa.concat_arrays(chunks) if chunks else pa.array([], kind)


def _column(rows: pa.Table, name: str) -> pa.Array:
    return rows[name].combine_chunks()


def _rows(mask: Mask, says: pa.Array) -> _Rows:
    return _Rows(np.flatnonzero(mask), says.filter(pa.array(mask)))


def _mask(values: Any) -> Mask:
    mask: Mask = pc.fill_null(values, False).to_numpy(zero_copy_only=False)
    return mask
