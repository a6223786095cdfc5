"""A precision that is promised of a model on samples that people labeled, and what is reached by class and slice."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from datasetops.audits.sets.coverage import as_key, as_keys, shown, values_by_key
from datasetops.errors import ModelError
from datasetops.manifest import Version
from datasetops.preannotate.measure import Judged, Rate, judge, people_said, rates, worth
from datasetops.preannotate.thresholds import CONFIDENCE, Flags, Promises, Share, choose_thresholds, share, split_halves


@dataclass(frozen=True)
class Reached:
    """What the held-out half says of a class's rows above the threshold (None: of all classes with a promise) in a slice
    (None: everywhere). The promise is not about such a part."""

    name: str | None
    slice: str | None
    held_out: Share

    def as_dict(self) -> dict[str, Any]:
        value = self.held_out.value
        return {
            "class": self.name,
            "slice": self.slice,
            "precision": None if math.isnan(value) else value,
            **asdict(self.held_out),
        }


@dataclass(frozen=True)
class Measured:
    """What can be promised, the rates by class, score and slice, and what is reached by class and slice."""

    promises: Promises
    rates: list[Rate]
    reached: tuple[Reached, ...]


def promise(
    version: Version,
    samples: pa.Table,
    predicted: pa.Table,
    kind: str,
    classes: Sequence[str],
    target: float,
    confidence: float = CONFIDENCE,
    *,
    together: bool = False,
    seed: int = 0,
) -> Measured:
    """Thresholds for the classes from what people said in a version, and the rates that they were chosen from.

    `samples` has sample_id, `predicted` rows of ANNOTATIONS for all that the model said of these; `together` as in
    `choose_thresholds`. Raises ModelError where people labeled nothing there.
    """
    said, groups = people_said(version, samples, kind)
    if not len(said):
        raise ModelError(
            f"Nobody labeled a {kind} in the chosen samples of {version.name}, so no precision can be measured.",
            remedy="Label a random sample first: dsops select, then dsops label push. Sealed splits do not count.",
        )
    judged = judge(predicted, said, kind, samples, groups)
    found = choose_thresholds(
        judged.score,
        judged.right,
        judged.label,
        target,
        confidence,
        groups=judged.group,
        seed=seed,
        names=classes,
        together=together,
    )
    slices = slice_flags(version, judged.sample_ids)
    return Measured(found, rates(judged, classes, slices=slices, confidence=confidence), reached(judged, found, slices))


def slice_flags(version: Version, sample_ids: npt.NDArray[Any]) -> dict[str, Flags]:
    """Which of the samples (N,) are in each slice of the schema, by a name such as "light = night"."""
    schema = version.schema
    if not schema.slices:
        return {}
    samples = version.table("samples").to_pandas().set_index("sample_id", drop=False).loc[sample_ids]
    values = values_by_key(samples, sorted({item.key for item in schema.slices}))
    keys = {name: as_keys(column) for name, column in values.items()}
    wanted = ((item.key, as_key(value)) for item in schema.slices for value in item.values)
    return {f"{name} = {shown(value)}": keys[name] == value for name, value in wanted if value is not None}


def reached(judged: Judged, promises: Promises, slices: Mapping[str, Flags]) -> tuple[Reached, ...]:
    """What the held-out half has above the thresholds: by class and by slice (flags of `judged.sample_ids`).

    First all classes of a promise together in each slice, then each class everywhere and in each slice.
    """
    thresholds = {name: least for name, least in promises.thresholds.items() if least is not None}
    codes = pd.Index(list(thresholds), dtype=object).get_indexer(pd.Index(judged.label, dtype=object))
    least = np.array([*thresholds.values(), np.inf])[codes]  # the last one for code -1
    above = np.flatnonzero(~split_halves(judged.group, promises.seed) & (judged.score >= least))
    parts: dict[str | None, Flags] = {None: np.ones(len(judged.sample_ids), np.bool_)}
    parts.update(slices)
    result = []
    for code, name in enumerate([None, *thresholds], start=-1):
        mine = above if name is None else above[codes[above] == code]
        for title, inside in parts.items():
            rows = mine[inside[judged.sample[mine]]]
            told = share(len(rows), int(judged.right[rows].sum()), worth(judged.group[rows]), promises.confidence)
            result.append(Reached(name, title, told))
    return tuple(result[1:])  # all together and everywhere is no part


def below_target(found: Sequence[Reached], promises: Promises) -> list[Reached]:
    """Parts of which fewer than the target are right, the most surely so first: by the upper bound, then as given.

    They are slices of all promised classes together, and single classes where the promise is about all together.
    """
    whole = [one for one in found if (one.name is None) != (one.slice is None)]
    parts = [one for one in whole if one.slice is not None or promises.together]
    return sorted((one for one in parts if one.held_out.value < promises.target), key=lambda one: one.held_out.high)
