"""Training, validation and test splits that keep groups together and never move an item once it is placed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pandas as pd
import pyarrow as pa

from datasetops.ledger import Event
from datasetops.manifest import MAIN, Change, CommitResult, Repository
from datasetops.records import SAMPLES, sha256_hex


@dataclass(frozen=True)
class SplitResult(CommitResult):
    """`placed` has the samples placed now, by split; they are `units` groups, copies and single images, the largest of
    `largest` samples. `followed` of them went where others of their unit were placed before."""

    placed: Mapping[str, int] = field(default_factory=dict)
    units: int = 0
    largest: int = 0
    followed: int = 0


def place(unit: str, ratios: Mapping[str, float], seed: int) -> str:
    """The split of a unit (a group, or an item without one): a function of its name, the seed and the shares alone.

    The unit's digest is a point in [0, 1); the splits are intervals of it, in the order of `ratios`.
    """
    point = int(sha256_hex(f"{seed}\n{unit}".encode())[:16], 16) / 2**64
    edge = 0.0
    for name, share in ratios.items():
        edge += share
        if point < edge:
            return name
    return list(ratios)[-1]


def propose_splits(samples: pd.DataFrame, ratios: Mapping[str, float], seed: int = 0) -> list[str]:
    """A split for each row of columns sample_id, split, group, sha256; rows that have one keep it.

    Items of one group go together, and so do copies of one file; a unit of which some items are placed already goes
    where most of them are. Raises ValueError unless the shares are positive and sum to one.
    """
    if not ratios or min(ratios.values()) <= 0 or abs(sum(ratios.values()) - 1) > 1e-9:
        raise ValueError(f"ratios: expected positive shares that sum to 1; got {dict(ratios)}")
    unit = _units(samples)
    placed = samples["split"].notna()
    counted = pd.DataFrame({"unit": unit[placed], "split": samples["split"][placed]}).value_counts().reset_index()
    known = counted.drop_duplicates("unit").set_index("unit")["split"].to_dict()
    return [
        split if isinstance(split, str) else known.get(name) or place(name, ratios, seed)
        for split, name in zip(samples["split"], unit, strict=True)
    ]


def _units(samples: pd.DataFrame) -> pd.Series:
    """What must stay together, by name: the group, else the file, else the sample alone."""
    return samples["group"].fillna(samples["sha256"]).fillna(samples["sample_id"]).astype(str)


def assign_splits(
    repository: Repository,
    ratios: Mapping[str, float],
    *,
    seed: int = 0,
    seal: tuple[str, ...] = (),
    branch: str = MAIN,
    message: str | None = None,
) -> SplitResult:
    """Place every sample without a split, as a new version; `seal` lists splits that may only grow from then on."""
    head = repository.version(branch)
    table = head.table("samples")
    frame = table.select(["sample_id", "split", "group", "sha256"]).to_pandas()
    proposed = propose_splits(frame, ratios, seed)
    open_rows = frame["split"].isna().to_numpy()
    updated = table.set_column(
        table.column_names.index("split"), SAMPLES.field("split"), pa.array(proposed, pa.string())
    ).filter(pa.array(open_rows))
    sealed = sorted({*head.commit.sealed, *seal})
    unknown = sorted(set(seal) - set(proposed))
    if unknown:
        raise ValueError(f"seal: no sample is in the split {unknown[0]!r}")
    event = Event(
        "split",
        repository.settings.actor,
        inputs={"version": head.name},
        parameters={"ratios": dict(ratios), "seed": seed, "seal": list(seal)},
    )
    shares = ", ".join(f"{name} {share:g}" for name, share in ratios.items())
    result = repository.commit(
        Change(samples=updated, sealed=sealed),
        message=message or f"Place {len(updated)} samples ({shares}; seed {seed})",
        event=event,
        branch=branch,
        parent=head,
    )
    units = _units(frame)
    sizes = units[open_rows].value_counts()
    return SplitResult(
        result.version,
        result.changed,
        result.counts,
        placed=pd.Series(proposed, dtype=object)[open_rows].value_counts().to_dict(),
        units=len(sizes),
        largest=int(sizes.max()) if len(sizes) else 0,
        followed=int(units[open_rows].isin(units[~open_rows]).sum()),
    )
