"""The column `geometry` of many annotations as flat arrays: points of rings, runs of masks, keypoints."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import orjson
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj
from pycocotools import mask as coco_mask

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]

_BATCH: Final = 1 << 22  # characters of JSON that are parsed at once
_NO_MASK: Final = "the mask needs `size` [height, width] and `counts`"
_ODD: Final = r'"counts"\s*:\s*\[|\n|^$'  # run lengths as numbers, and what is not one line
_ROWS: Final = pa.schema(
    [
        ("polygons", pa.list_(pa.list_(pa.float64()))),
        ("rle", pa.struct([("size", pa.list_(pa.int64())), ("counts", pa.string())])),
        ("keypoints", pa.list_(pa.float64())),
    ]
)


@dataclass(frozen=True)
class Rings:
    """Closed outlines. `points` (P, 2) x, y in pixels; ring r has the points `start[r]:start[r + 1]` and belongs to row
    `owner[r]` (R,), ascending."""

    points: Floats
    start: Ints
    owner: Ints

    @property
    def sizes(self) -> Ints:
        return np.diff(self.start)


@dataclass(frozen=True)
class Runs:
    """RLE masks, `counts` (M,) compressed and `size` (M, 2) as height, width. Mask m belongs to row `owner[m]`."""

    counts: pa.StringArray
    size: Ints
    owner: Ints


@dataclass(frozen=True)
class Shapes:
    """Geometry of `count` rows. `keypoints` (Q, 3) x, y, visibility; row r has `keypoint_start[r]:keypoint_start[r + 1]`.

    `faults`: rows whose geometry cannot be read, and why; nothing else is told of them. Rows without one have nothing.
    """

    count: int
    rings: Rings
    runs: Runs
    keypoints: Floats
    keypoint_start: Ints
    faults: dict[int, str]


def batches(column: pd.Series[Any]) -> Iterator[tuple[slice, Shapes]]:
    """The whole column in parts of about 4 MB, each with the rows that it is about."""
    texts = pa.array(column, pa.large_string(), from_pandas=True)
    texts = texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts
    ends = np.cumsum(pc.fill_null(pc.binary_length(texts), 0).to_numpy().astype(np.int64))
    first = 0
    while first < len(texts):
        before = int(ends[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(ends, before + _BATCH, side="right")))
        yield slice(first, last), parse(texts[first:last])
        first = last


def parse(texts: pa.StringArray) -> Shapes:
    """Shapes of geometry in JSON; null for none."""
    faults: dict[int, str] = {}
    given: list[str] = pc.fill_null(texts, "{}").to_pylist()
    odd = pc.fill_null(pc.match_substring_regex(texts, _ODD), False)
    _rewrite(given, np.flatnonzero(odd.to_numpy(zero_copy_only=False)).tolist(), faults)
    table = _table(given)
    if table is None:
        _rewrite(given, range(len(given)), faults)
        table = _table(given)
    if table is None:
        raise ValueError("geometry: JSON that was made readable is not")
    rings = _rings(table["polygons"].combine_chunks(), faults)
    keypoints, keypoint_start = _keypoints(table["keypoints"].combine_chunks(), faults)
    runs = _runs(table["rle"].combine_chunks(), faults)
    return Shapes(len(given), rings, runs, keypoints, keypoint_start, faults)


def _rewrite(texts: list[str], rows: Iterable[int], faults: dict[int, str]) -> None:
    for row in rows:
        texts[row], why = _readable(texts[row])
        if why:
            faults[row] = why


def _table(texts: list[str]) -> pa.Table | None:
    data = "\n".join(texts).encode()
    try:
        table = pj.read_json(
            io.BytesIO(data),
            read_options=pj.ReadOptions(use_threads=False, block_size=len(data) + 1),
            parse_options=pj.ParseOptions(explicit_schema=_ROWS, unexpected_field_behavior="ignore"),
        )
    except pa.ArrowInvalid:
        return None
    return table if len(table) == len(texts) else None


def _readable(text: str) -> tuple[str, str]:
    """The geometry in a form that the parser takes, and what is wrong with it; `{}` for one at fault."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return "{}", "the geometry is not JSON"
    if not isinstance(value, dict):
        return "{}", "the geometry is not a JSON object"
    kept: dict[str, Any] = {}
    rings, points, rle = (value.get(name) for name in ("polygons", "keypoints", "rle"))
    if rings is not None:
        if not isinstance(rings, list) or not all(isinstance(ring, list) and _numbers(ring) for ring in rings):
            return "{}", "the polygons are not lists of numbers"
        kept["polygons"] = rings
    if points is not None:
        if not isinstance(points, list) or not _numbers(points):
            return "{}", "the keypoints are not a list of numbers"
        kept["keypoints"] = points
    if rle is not None:
        try:
            kept["rle"] = {"size": [int(side) for side in rle["size"]], "counts": _compressed(rle)}
        except (KeyError, TypeError, ValueError, OverflowError):
            return "{}", _NO_MASK
    return orjson.dumps(kept).decode(), ""


def _numbers(values: list[Any]) -> bool:
    return all(type(value) in (int, float) or value is None for value in values)


def _compressed(rle: dict[str, Any]) -> str:
    counts = rle["counts"]
    if isinstance(counts, str):
        return counts
    height, width = rle["size"]
    if any(type(run) is not int or run < 0 for run in counts) or sum(counts) != height * width:
        raise ValueError("run lengths that do not fill the mask")
    text: bytes = coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)["counts"]
    return text.decode("ascii")


def _rings(column: pa.ListArray, faults: dict[int, str]) -> Rings:
    lists = column.flatten()
    per_row = pc.fill_null(pc.list_value_length(column), 0).to_numpy().astype(np.int64)
    per_ring = pc.fill_null(pc.list_value_length(lists), 0).to_numpy().astype(np.int64)
    values = lists.flatten().to_numpy(zero_copy_only=False)
    owner = np.repeat(np.arange(len(column)), per_row)
    bad = per_ring % 2 == 1
    finite = np.isfinite(values)
    if not finite.all():
        bad |= np.bincount(np.repeat(np.arange(len(per_ring)), per_ring)[~finite], minlength=len(per_ring)) > 0
    if bad.any():
        faults |= dict.fromkeys(owner[bad].tolist(), "a polygon is not a list of x, y pairs")
        keep = ~np.isin(owner, owner[bad])
        values, owner, per_ring = values[np.repeat(keep, per_ring)], owner[keep], per_ring[keep]
    return Rings(values.reshape(-1, 2), _starts(per_ring // 2), owner)


def _keypoints(column: pa.ListArray, faults: dict[int, str]) -> tuple[Floats, Ints]:
    per_row = pc.fill_null(pc.list_value_length(column), 0).to_numpy().astype(np.int64)
    values = column.flatten().to_numpy(zero_copy_only=False)
    bad = per_row % 3 != 0
    finite = np.isfinite(values)
    if not finite.all():
        bad |= np.bincount(np.repeat(np.arange(len(per_row)), per_row)[~finite], minlength=len(per_row)) > 0
    if bad.any():
        faults |= dict.fromkeys(np.flatnonzero(bad).tolist(), "the keypoints are not x, y, visibility triples")
        values, per_row = values[np.repeat(~bad, per_row)], np.where(bad, 0, per_row)
    return values.reshape(-1, 3), _starts(per_row // 3)


def _runs(column: pa.StructArray, faults: dict[int, str]) -> Runs:
    sizes, counts = pc.struct_field(column, "size"), pc.struct_field(column, "counts")
    present = pc.is_valid(column).to_numpy(zero_copy_only=False)
    two = pc.fill_null(pc.equal(pc.list_value_length(sizes), 2), False).to_numpy(zero_copy_only=False)
    usable = present & two & pc.is_valid(counts).to_numpy(zero_copy_only=False)
    faults |= dict.fromkeys(np.flatnonzero(present & ~usable).tolist(), _NO_MASK)
    keep = pa.array(usable)
    size = pc.fill_null(sizes.filter(keep).flatten(), 0).to_numpy().reshape(-1, 2)
    return Runs(counts.filter(keep), size.astype(np.int64), np.flatnonzero(usable))


def _starts(sizes: Ints) -> Ints:
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
