"""Ids of ingested samples and annotations: the same thing keeps its id when it is ingested again, moved or corrected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from datasetops.manifest import Version
from datasetops.records import canonical_json, one_array, sha256_hex
from datasetops.store.media import Media

_ID_DIGITS = 24  # hex digits of the SHA-256: no collision to be expected among 10^12 images
_SAME_BOX_IOU = 0.5


def sample_ids(rows: pd.DataFrame, existing: pd.DataFrame) -> list[str]:
    """An id for each row (columns sample_id, uri, sha256; the first and last may be null).

    In this order: the source's own id; the id of the existing sample with the same uri; the media's digest, with a
    digest of the uri appended where another file has the same bytes. `existing` has the same columns.
    """
    by_uri = dict(zip(existing["uri"], existing["sample_id"], strict=True))
    owner = dict(zip(existing["sample_id"], existing["uri"], strict=True))
    ids: list[str] = []
    for given, uri, sha256 in zip(rows["sample_id"], rows["uri"], rows["sha256"], strict=True):
        if isinstance(given, str):
            chosen = given
        elif uri in by_uri:
            chosen = by_uri[uri]
        else:
            chosen = (sha256 if isinstance(sha256, str) else sha256_hex(uri.encode()))[:_ID_DIGITS]
            if owner.get(chosen, uri) != uri:
                chosen = f"{chosen}-{sha256_hex(uri.encode())[:8]}"
        owner.setdefault(chosen, uri)
        ids.append(chosen)
    return ids


@dataclass(frozen=True)
class Known:
    """Samples and annotations that a version has, looked up by what a source calls them."""

    version: Version
    media: Media

    @cached_property
    def has_images(self) -> bool:
        """Whether the version has images, rather than names of images alone."""
        return bool(pc.any(self.version.table("samples", ["sha256"])["sha256"].is_valid()).as_py())

    def samples(self, ids: Sequence[str | None]) -> set[str]:
        """Those of `ids` that are samples of the version."""
        keys = pa.array(sorted({item for item in ids if item is not None}), pa.string())
        found: set[str] = set(self.version.state("samples").rows(keys, ["sample_id"])["sample_id"].to_pylist())
        return found

    def at(self, uris: Sequence[str | None]) -> list[str | None]:
        """For each uri the sample that has it, None where there is none; an absolute path may stand for a relative one."""
        wanted = [None if uri is None else self.media.relative(uri) for uri in uris]
        if not any(wanted):
            return [None] * len(wanted)
        table = self.version.table("samples", ["sample_id", "uri"]).combine_chunks()
        rows = pc.index_in(pa.array(wanted, pa.string()), one_array(table["uri"]), skip_nulls=True)
        found: list[str | None] = one_array(table["sample_id"]).take(rows).to_pylist()
        return found

    def annotations(self, ids: Sequence[str | None]) -> dict[str, tuple[str, str]]:
        """Annotation → (sample, kind), for those of `ids` that are annotations of the version."""
        keys = pa.array(sorted({item for item in ids if item is not None}), pa.string())
        rows = self.version.state("annotations").rows(keys, ["annotation_id", "sample_id", "kind"])
        return {row["annotation_id"]: (row["sample_id"], row["kind"]) for row in rows.to_pylist()}


def match_regions(new: pd.DataFrame, old: pd.DataFrame) -> list[int]:
    """For each new region of one image the row of the old region that it revises, -1 for none.

    Columns: kind, label, x1, y1, x2, y2. Equal ones are matched first, then greedily by intersection over union of at
    least 0.5, the same label preferred. Each old region is used once.
    """
    if not len(new) or not len(old):
        return [-1] * len(new)
    overlap = pairwise_iou(_boxes(new), _boxes(old))
    same_kind = new["kind"].to_numpy()[:, None] == old["kind"].to_numpy()[None, :]
    same_label = new["label"].to_numpy()[:, None] == old["label"].to_numpy()[None, :]
    score = np.where(same_kind & (overlap >= _SAME_BOX_IOU), overlap + 1.0 * same_label, -1.0)
    matched = [-1] * len(new)
    used: set[int] = set()
    for flat in np.argsort(-score, axis=None, kind="stable"):
        row, column = divmod(int(flat), len(old))
        if score[row, column] < 0:
            break
        if matched[row] < 0 and column not in used:
            matched[row] = column
            used.add(column)
    return matched


def pairwise_iou(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Intersection over union of boxes (N, 4) and (M, 4), xyxy → (N, M); 1 for equal boxes even without area."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    inter = np.prod(np.clip(high - low, 0, None), axis=2)
    area_a, area_b = (np.prod(np.clip(x[:, 2:] - x[:, :2], 0, None), axis=1) for x in (a, b))
    union = area_a[:, None] + area_b[None, :] - inter
    with np.errstate(invalid="ignore", divide="ignore"):
        iou = np.where(union > 0, inter / union, 0.0)
    equal = (a[:, None, :] == b[None, :, :]).all(axis=2)
    result: npt.NDArray[np.float64] = np.where(equal, 1.0, iou)
    return result


def region_name(values: Sequence[Any]) -> str:
    """Part of the id of a region that no earlier one corresponds to: a digest of its content."""
    plain = [None if value != value else float(value) if isinstance(value, float) else value for value in values]
    return sha256_hex(canonical_json(plain))[:12]


def _boxes(frame: pd.DataFrame) -> npt.NDArray[np.float64]:
    corners: npt.NDArray[np.float64] = frame[["x1", "y1", "x2", "y2"]].to_numpy(dtype=np.float64)
    return np.nan_to_num(corners, nan=-1.0)
