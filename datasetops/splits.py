"""Training, validation and test splits that keep groups together and never move an item once it is placed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from datasetops.ledger import Event
from datasetops.manifest import MAIN, Change, CommitResult, Repository
from datasetops.records import SAMPLES, sha256_hex

Pairs: TypeAlias = npt.NDArray[np.object_]


@dataclass(frozen=True)
class SplitResult(CommitResult):
    """`placed` has the samples placed now, by split; they are `units` groups, copies and single images, the largest of
    `largest` samples. `followed` of them went where others of their unit were placed before. Of `pairs` that were to
    go together `apart` are in two splits: they were placed before."""

    placed: Mapping[str, int] = field(default_factory=dict)
    units: int = 0
    largest: int = 0
    followed: int = 0
    pairs: int = 0
    apart: int = 0


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


def check_ratios(ratios: Mapping[str, float]) -> None:
    """Raises ValueError unless the shares are positive and sum to one."""
    if not ratios or min(ratios.values()) <= 0 or abs(sum(ratios.values()) - 1) > 1e-9:
        raise ValueError(f"ratios: expected positive shares that sum to 1; got {dict(ratios)}")


def propose_splits(
    samples: pd.DataFrame, ratios: Mapping[str, float], seed: int = 0, pairs: Pairs | None = None
) -> list[str]:
    """A split for each row of columns sample_id, split, group, sha256; rows that have one keep it.

    Items of one group go together, and so do copies of one file; a unit of which some items are placed already goes
    where most of them are. `pairs` (P, 2) of sample ids, where given, go together too, with all that either goes with.
    Raises ValueError unless the shares are positive and sum to one.
    """
    check_ratios(ratios)
    unit = _units(samples, pairs)
    placed = samples["split"].notna()
    counted = pd.DataFrame({"unit": unit[placed], "split": samples["split"][placed]}).value_counts().reset_index()
    known = counted.drop_duplicates("unit").set_index("unit")["split"].to_dict()
    return [
        split if isinstance(split, str) else known.get(name) or place(name, ratios, seed)
        for split, name in zip(samples["split"], unit, strict=True)
    ]


def _units(samples: pd.DataFrame, pairs: Pairs | None = None) -> pd.Series:
    """What must stay together, by name: all that hangs together through groups, copies of a file, and pairs.

    The name is the smallest of its parts': that of a group, else of a file, else of a sample.
    """
    units = samples["group"].fillna(samples["sha256"]).fillna(samples["sample_id"]).astype(str)
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    codes, names = pd.factorize(units, sort=True)
    given = np.empty((0, 2), object) if pairs is None else pairs
    places = pd.Index(samples["sample_id"]).get_indexer(pd.Index(given.ravel())).reshape(-1, 2)
    places = places[(places >= 0).all(axis=1)]
    copies = samples["sha256"].notna().to_numpy()
    files, _ = pd.factorize(samples["sha256"])
    first = pd.Series(codes).groupby(files).transform("first").to_numpy()  # of each file, the unit of one sample
    one = np.concatenate([codes[places[:, 0]], codes[copies]])
    other = np.concatenate([codes[places[:, 1]], first[copies]])
    joined = coo_array((np.ones(len(one), np.int8), (one, other)), shape=(len(names), len(names)))
    _, component = connected_components(joined, directed=False)
    _, smallest = np.unique(component, return_index=True)  # names are sorted
    return pd.Series(names[smallest[component[codes]]], samples.index)


def assign_splits(
    repository: Repository,
    ratios: Mapping[str, float],
    *,
    seed: int = 0,
    seal: tuple[str, ...] = (),
    branch: str = MAIN,
    message: str | None = None,
    pairs: Pairs | None = None,
) -> SplitResult:
    """Place every sample without a split, as a new version; `seal` lists splits that may only grow from then on.

    `pairs` as in `propose_splits`.
    """
    head = repository.version(branch)
    table = head.table("samples")
    frame = table.select(["sample_id", "split", "group", "sha256"]).to_pandas()
    proposed = propose_splits(frame, ratios, seed, pairs)
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
        parameters={"ratios": dict(ratios), "seed": seed, "seal": list(seal)}
        | ({} if pairs is None else {"pairs": len(pairs)}),
    )
    shares = ", ".join(f"{name} {share:g}" for name, share in ratios.items())
    result = repository.commit(
        Change(samples=updated, sealed=sealed),
        message=message or f"Place {len(updated)} samples ({shares}; seed {seed})",
        event=event,
        branch=branch,
        parent=head,
    )
    units = _units(frame, pairs)
    split_of = pd.Series(proposed, frame["sample_id"], dtype=object)
    sizes = units[open_rows].value_counts()
    apart = 0
    if pairs is not None:
        one, other = (split_of.reindex(side).to_numpy() for side in pairs.T)
        apart = int((one != other).sum())
    return SplitResult(
        result.version,
        result.changed,
        result.counts,
        placed=split_of[open_rows].value_counts().to_dict(),
        units=len(sizes),
        largest=int(sizes.max()) if len(sizes) else 0,
        followed=int(units[open_rows].isin(units[~open_rows]).sum()),
        pairs=0 if pairs is None else len(pairs),
        apart=apart,
    )
