"""Freeze a sampling plan for a version: the lot, its strata, the seed, and with them every item that will be drawn.

`qa/plans/<name>.json` is written once, before anybody looks at an item, and named in the ledger. An item's place in the
draw is the SHA-256 of seed and sample id, so that anyone can draw again and see that nothing was picked.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import numpy as np
import pandas as pd

from datasetops.audits.sampling.plan import Plan, Stage, design
from datasetops.audits.sets.coverage import slice_values
from datasetops.errors import NotFoundError, did_you_mean
from datasetops.ledger import Event
from datasetops.manifest import Repository, Version
from datasetops.manifest.diff import same_to_reviewers
from datasetops.records import SAMPLES, canonical_json, sha256_hex
from datasetops.store.numbered import Numbered

_PLANS: Final = Numbered("qa/plans", "q", "QA plan", "dsops qa plan VERSION")
_MOST_STRATA: Final = 500
_NONE: Final = "(none)"


@dataclass(frozen=True)
class Stratum:
    """`order` are the items that may be drawn, first to last; a stage takes as many from the front as it says."""

    name: str
    size: int
    floor: int
    order: tuple[str, ...]


@dataclass(frozen=True)
class QaPlan:
    """`limit` is the share of items that may be wrong. An item, always a whole image, is wrong if its labels differ from
    the reviewer's; regions are the same from an intersection over union of `iou` on.

    `attempt` counts the plans that were reviewed for this lot and the versions before it, since the last acceptance.
    `second` items are reviewed twice; `planted` maps items outside the sample to a wrong class that reviewers must find.
    """

    name: str
    version: str
    commit: str
    where: str | None
    per: tuple[str, ...]
    seed: str
    created: str
    actor: str
    confidence: float
    limit: float
    expected: float
    producer_risk: float
    stages: tuple[Stage, ...]
    strata: tuple[Stratum, ...]
    iou: float
    attempt: int
    left_out: int  # samples without the label that is asked about
    second: tuple[str, ...] = ()
    planted: Mapping[str, str] | None = None

    @property
    def key(self) -> str:
        return _PLANS.key(self.name)

    @property
    def design(self) -> Plan:
        return Plan(
            sizes=tuple(stratum.size for stratum in self.strata),
            limit=self.limit,
            confidence=self.confidence,
            expected=self.expected,
            producer_risk=self.producer_risk,
            stages=self.stages,
            floor=tuple(stratum.floor for stratum in self.strata),
            planted=len(self.planted or {}),
            second=len(self.second) / max(1, sum(len(stratum.order) for stratum in self.strata)),
        )

    def main(self, stage: int) -> list[str]:
        """Items that the claim about the lot rests on when a stage ends (0, 1, …), earlier ones included."""
        drawn = self.stages[stage].drawn
        return [item for stratum, n in zip(self.strata, drawn, strict=True) for item in stratum.order[:n]]

    def to_review(self, stage: int) -> list[str]:
        """All items to be reviewed by the end of a stage, in an order that tells nothing about them."""
        drawn = self.stages[stage].drawn
        items = [
            item
            for stratum, n in zip(self.strata, drawn, strict=True)
            for item in stratum.order[: max(n, stratum.floor)]
        ]
        return _hashed_order([*items, *(self.planted or {})], f"{self.seed}:shown")

    def to_bytes(self) -> bytes:
        return canonical_json(asdict(self))

    @classmethod
    def from_bytes(cls, data: bytes) -> QaPlan:
        raw = json.loads(data)
        raw["stages"] = tuple(Stage(**stage | {"drawn": tuple(stage["drawn"])}) for stage in raw["stages"])
        raw["strata"] = tuple(Stratum(**item | {"order": tuple(item["order"])}) for item in raw["strata"])
        return cls(**raw | {name: tuple(raw[name]) for name in ("per", "second")})


def make_plan(
    repository: Repository,
    version: Version,
    *,
    pass_rate: float = 0.95,
    confidence: float = 0.95,
    producer_risk: float = 0.1,
    expected: float | None = None,
    stages: int = 2,
    size: int | None = None,
    per: Sequence[str] = (),
    floor: int = 30,
    where: str | None = None,
    iou: float = 0.5,
    second: float = 0.1,
    planted: int = 0,
    seed: str | None = None,
) -> QaPlan:
    """Design a plan, write down its seed, draw its items, and store it under the next free name (q1, q2, …).

    `per`: strata by annotator, label, source, or a slice attribute; each then gets `floor` checks at least, all of its
    items where it has fewer. `where` (SQL, as in Version.where) makes a part of the version the lot. `second`: share of
    the items that two people review. `planted`: items beside the sample that get a wrong class on purpose.
    Raises ValueError for a plan that cannot exist, NotFoundError for an unknown attribute.
    """
    if not 0 <= second <= 1:
        raise ValueError(f"second: expected a share between 0 and 1; got {second:g}")
    if not 0 < iou <= 1:
        raise ValueError(f"iou: expected a number in (0, 1]; got {iou:g}")
    frame, left_out = lot(version, per, where)
    counts = frame.groupby("stratum", sort=True).size()
    if len(counts) > _MOST_STRATA:
        raise ValueError(
            f"per: {' and '.join(per)} make {len(counts):,} strata, more than {_MOST_STRATA}; take a coarser attribute"
        )
    chosen = design(
        counts.tolist(),
        pass_rate=pass_rate,
        confidence=confidence,
        producer_risk=producer_risk,
        expected=expected,
        stages=stages,
        floor=floor if per else 0,
        size=size,
        planted=planted,
        second=second,
    )
    _note_left_behind(repository)
    seed = seed or secrets.token_hex(16)
    commit_seed = Event(
        "qa-seed", repository.settings.actor, inputs={"version": version.name, "commit": version.digest},
        parameters={"seed": seed, "where": where, "per": list(per)},
    )  # fmt: skip
    repository.ledger.record(commit_seed)
    drawn = np.array(chosen.stages[-1].drawn)
    order = _drawn(frame, counts, np.maximum(drawn, chosen.floor), seed)
    strata = tuple(
        Stratum(str(name), int(counts[name]), chosen.floor[h], tuple(order[name]))
        for h, name in enumerate(counts.index)
    )
    items = [item for stratum in strata for item in stratum.order]
    twice = _hashed_order(items, f"{seed}:second")[: round(second * len(items))]
    plan = QaPlan(
        name="",
        version=version.name,
        commit=version.digest,
        where=where,
        per=tuple(per),
        seed=seed,
        created=commit_seed.time,
        actor=repository.settings.actor,
        confidence=confidence,
        limit=chosen.limit,
        expected=chosen.expected,
        producer_risk=producer_risk,
        stages=chosen.stages,
        strata=strata,
        iou=iou,
        attempt=1 + len(reviewed_before(repository, version, where)),
        left_out=left_out,
        second=tuple(twice),
        planted=_plant(version, frame, set(items), planted, seed) if planted else None,
    )
    plan = replace(plan, name=_PLANS.add(repository.store, lambda name: replace(plan, name=name).to_bytes()))
    _note(repository, plan, commit_seed.event_id)
    return plan


def _note(repository: Repository, plan: QaPlan, seed_event: str) -> None:
    event = Event(
        "qa-plan", repository.settings.actor, inputs={"version": plan.version, "commit": plan.commit},
        outputs={"plan": plan.name, "files": {plan.key: sha256_hex(plan.to_bytes())}},
        parameters={"seed": plan.seed, "seed_event": seed_event, "limit": plan.limit, "confidence": plan.confidence},
    )  # fmt: skip
    repository.ledger.record(event)


def _note_left_behind(repository: Repository) -> None:
    """Plans whose command was killed before the ledger had them: they are drawn, and are told as such."""
    events = [entry.event for entry in repository.ledger.backwards() if entry.event.kind in ("qa-seed", "qa-plan")]
    noted = {event.outputs["plan"] for event in events if event.kind == "qa-plan"}
    seeds = {event.parameters["seed"]: event.event_id for event in reversed(events) if event.kind == "qa-seed"}
    for plan in [load_plan(repository, name) for name in plan_names(repository) if name not in noted]:
        if plan.seed in seeds:
            _note(repository, plan, seeds[plan.seed])


def plans_about(repository: Repository, version: Version) -> list[QaPlan]:
    """Plans of a version, oldest first, and of others that have the same images and labels, under the same schema and guide."""
    same = {version.digest: True}
    found = []
    for plan in plans(repository):
        if plan.commit not in same:
            same[plan.commit] = same_to_reviewers(repository.version(plan.version), version)
        if same[plan.commit]:
            found.append(plan)
    return found


def load_plan(repository: Repository, name: str) -> QaPlan:
    """A plan by its name, or the newest plan about a version. Raises NotFoundError that lists what there is."""
    if name not in plan_names(repository):
        with suppress(NotFoundError):
            if of_version := plans_about(repository, repository.version(name)):
                return of_version[-1]
    return QaPlan.from_bytes(_PLANS.read(repository.store, name))


def plans(repository: Repository) -> Iterator[QaPlan]:
    """All plans, oldest first."""
    for name in plan_names(repository):
        yield QaPlan.from_bytes(repository.store.get(_PLANS.key(name)))


def plan_names(repository: Repository) -> list[str]:
    return _PLANS.names(repository.store)


def redraw(repository: Repository, plan: QaPlan) -> bool:
    """Whether the plan's items are what its seed draws from the version."""
    version = repository.version(plan.version)
    frame, _ = lot(version, plan.per, plan.where)
    counts = frame.groupby("stratum", sort=True).size()
    if version.digest != plan.commit or [str(name) for name in counts.index] != [s.name for s in plan.strata]:
        return False
    order = _drawn(frame, counts, np.array([len(stratum.order) for stratum in plan.strata]), plan.seed)
    return all(tuple(order[name]) == stratum.order for name, stratum in zip(counts.index, plan.strata, strict=True))


def lot(version: Version, per: Sequence[str] = (), where: str | None = None) -> tuple[pd.DataFrame, int]:
    """(sample_id and stratum of every item of the lot, by id; how many samples are left out).

    Where the schema asks for one class an image, samples without one are not labeled yet and left out. Raises
    ValueError where nothing is left, NotFoundError for an attribute that no sample has.
    """
    samples = version.table("samples").to_pandas()
    rows = version.labels(["sample_id", "kind", "label", "actor", "source"]).to_pandas()
    if where is not None:
        samples = samples[samples["sample_id"].isin(version.where(where))]
    every = len(samples)
    if "classification" in version.schema.kinds:
        samples = samples[samples["sample_id"].isin(rows["sample_id"][rows["kind"] == "classification"])]
    if not len(samples) or not len(rows):
        raise ValueError(f"{version.name} has no labeled sample to draw from" + (" that fulfils --where" * bool(where)))
    samples = samples.reset_index(drop=True)
    names = [_attribute(version, samples, rows, key) for key in per]
    stratum = names[0] if names else pd.Series("all", index=samples.index)
    for more in names[1:]:
        stratum = stratum + " × " + more
    return pd.DataFrame({"sample_id": samples["sample_id"], "stratum": stratum}), every - len(samples)


def reviewed_before(repository: Repository, version: Version, where: str | None = None) -> list[str]:
    """Plans about the same part that somebody reviewed items of, for a version or one it stands on, back to the last
    accepted one."""
    line = {version.digest}
    queue = [version]
    by_digest = {item.digest: item for item in repository.versions()}
    accepted = {
        entry.event.inputs.get("commit") for entry in repository.ledger.backwards() if entry.event.kind == "accept"
    }
    while queue:
        for parent in queue.pop().commit.parents:
            if parent not in line and parent not in accepted and parent in by_digest:
                line.add(parent)
                queue.append(by_digest[parent])
    reviewed = {key.split("/")[2] for key in repository.store.list("qa/verdicts/")}
    mine = [plan for plan in plans(repository) if plan.commit in line and plan.where == where]
    return [plan.name for plan in mine if plan.name in reviewed]


def _attribute(version: Version, samples: pd.DataFrame, rows: pd.DataFrame, key: str) -> pd.Series[Any]:
    columns = {"annotator": "actor", "label": "label", "source": "source"}
    if key not in columns:
        keys = {name for text in samples["metadata"].dropna().unique() for name in json.loads(text)}
        if key not in SAMPLES.names and key not in keys:
            known = [*columns, *sorted(keys), "split", "group", "origin", "license"]
            raise NotFoundError(
                f"No sample of {version.name} has an attribute {key!r}.",
                remedy=did_you_mean(key, known, noun="attributes"),
            )
        values = slice_values(samples, key)
        return values.map(str, na_action="ignore").astype(object).where(values.notna(), _NONE)
    pairs = rows[["sample_id", columns[key]]].dropna().drop_duplicates()
    if key == "label":  # an image of several classes stands with the rarest
        frequency = rows["label"].value_counts()
        pairs = pairs.assign(rank=pairs["label"].map(frequency)).sort_values(["rank", "label"], kind="stable")
        joined = pairs.drop_duplicates("sample_id").set_index("sample_id")["label"]
    else:
        pairs = pairs.sort_values(list(pairs.columns), kind="stable")
        alone = ~pairs["sample_id"].duplicated(keep=False)
        several = pairs[~alone].groupby("sample_id")[columns[key]].agg(" + ".join)
        joined = pd.concat([pairs[alone].set_index("sample_id")[columns[key]], several])
    named: pd.Series[Any] = samples["sample_id"].map(joined).astype(object).fillna(_NONE)
    return named


def _drawn(
    frame: pd.DataFrame, counts: pd.Series[Any], wanted: np.ndarray[Any, Any], seed: str
) -> dict[str, list[str]]:
    """The first items of each stratum, in the order of their hashes."""
    rank = _hashes(frame["sample_id"].tolist(), seed)
    ordered = frame.assign(rank=rank).sort_values(["stratum", "rank", "sample_id"], kind="stable")
    place = ordered.groupby("stratum", sort=True).cumcount().to_numpy()
    most = ordered["stratum"].map(dict(zip(counts.index, wanted.tolist(), strict=True))).to_numpy()
    taken = ordered[place < most].groupby("stratum", sort=True)["sample_id"].agg(list)
    return {name: taken.get(name, []) for name in counts.index}


def _hashes(ids: Sequence[str], seed: str) -> np.ndarray[Any, Any]:
    prefix = hashlib.sha256(f"{seed}:".encode())

    def digest(item: str) -> bytes:
        one = prefix.copy()
        one.update(item.encode())
        return one.digest()[:8]

    return np.frombuffer(b"".join(map(digest, ids)), dtype=">u8").astype(np.uint64)


def _hashed_order(ids: Sequence[str], seed: str) -> list[str]:
    return [ids[i] for i in np.argsort(_hashes(ids, seed), kind="stable")] if ids else []


def _plant(version: Version, frame: pd.DataFrame, drawn: set[str], count: int, seed: str) -> dict[str, str]:
    """Wrong classes for `count` items outside the sample."""
    classes = list(version.schema.class_names)
    if len(classes) < 2 or "classification" not in version.schema.kinds or version.schema.multi_label:
        raise ValueError("planted: only items with one class each, of two or more classes, can be given a wrong one")
    rows = version.labels(["sample_id", "kind", "label"]).to_pandas()
    rows = rows[(rows["kind"] == "classification") & rows["sample_id"].isin(frame["sample_id"])]
    given = rows.drop_duplicates("sample_id").set_index("sample_id")["label"]
    chosen = _hashed_order(sorted(set(given.index) - drawn), f"{seed}:planted")[:count]
    if len(chosen) < count:
        raise ValueError(
            f"planted: {count:,} are wanted, and only {len(chosen):,} items are outside the sample. Few planted errors say "
            "little about reviewers, which many checks must make up for: plant 60 or more, or none"
        )
    picks = _hashes(chosen, f"{seed}:class")
    wrong = {}
    for item, pick in zip(chosen, picks.tolist(), strict=True):
        others = [name for name in classes if name != given[item]]
        wrong[item] = others[pick % len(others)]
    return wrong
