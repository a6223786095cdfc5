"""What the samples cover: the schema's slices, their pairs, and the classes within them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from datasetops.audits.base import AuditContext, CheckResult, skipped
from datasetops.audits.charts import bars, grid
from datasetops.records import SAMPLES, Finding, canonical_json
from datasetops.schema import LabelSchema

Ints: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float64]

_MISSING, _UNLISTED = -1, -2  # codes of samples whose value is not told, or is none of the schema's
_FAR_BELOW: Final = 0.2  # of the count that independence predicts; slices are rarely independent, so less is no news
_SURPRISE: Final = 0.01  # chance of so few in any pair at all, if the two were independent
_LISTED: Final = 2_000  # cells in the summary, lacking ones first: as many as 20 keys of 10 values have with 10 classes
_COLUMNS: Final = ("split", "origin", "media_type", "width", "height")  # those that may divide samples into slices
_MOST_VALUES: Final = 50  # a text of more different values is a name or a description
_FEW_NUMBERS: Final = 20  # different numbers up to which each is a value of its own
_MOSTLY: Final = 0.5  # share of whole numbers that are different, above which they are rather numbers of items
_NAMED: Final = 5  # values that a sentence names at most
_GRIDS: Final = 6  # pairs of keys drawn at most


@dataclass(frozen=True)
class Cells:
    """One row a pair of values, (A x B,) row by row: how many samples have both, and how many are wanted.

    `expected`: if the two were independent. `surprise`: the chance of so few then. `enough` (A x B,): both values have
    enough samples on their own, so that what is missing is the pair. `collect`: how many are lacking.
    """

    first: tuple[str, ...]
    second: tuple[str, ...]
    count: Ints
    wanted: Ints
    expected: Floats
    surprise: Floats
    enough: npt.NDArray[np.bool_]

    @property
    def collect(self) -> Ints:
        far_below = self.surprise < _SURPRISE
        least = np.where(far_below, np.ceil(_FAR_BELOW * self.expected), 0).astype(np.int64)
        result: Ints = np.maximum(np.maximum(self.wanted, least) - self.count, 0)
        return result


class Coverage:
    """Counts of slice values and of their pairs, against what the schema asks for.

    Of a value, the schema's `min_count` is wanted. Of two values of different keys, as many as there are where a set
    holds exactly the minimum of each value, spread evenly over the other key's: the smaller of `min_count` over the
    number of the other key's values, rounded down. Of a class within a value, as many as `min_count` samples hold where
    the class has its share of all samples. So a set that meets every minimum evenly lacks no pair.

    A pair is reported where both values have enough, and it has fewer than are wanted, or surprisingly fewer than a
    fifth of what independence of the two predicts. A pair may be impossible in the world, so it is never severity high.

    The coverage index is the mean over all cells (values, pairs, classes within values) that want a sample of
    min(1, count / wanted): 1 where nothing lacks, 0 where all is empty.
    """

    name = "coverage"
    title = "slices that the schema wants covered, and pairs of them, that have too few items"
    needs = "slices in the schema"
    cost = "grows with the samples; seconds for millions"

    def run(self, context: AuditContext) -> CheckResult:
        keys = list(_keys(context.samples, context.schema))
        if not keys:
            return skipped("the schema names no slices")
        findings: list[Finding] = []
        table: list[dict[str, Any]] = []
        charts = []
        for key in keys:
            for value, count, wanted in zip(key.values, key.counts.tolist(), key.wanted.tolist(), strict=True):
                table.append(_cell(f"{key.name} = {value}", None, count, len(context.samples), wanted))
                if count < wanted:
                    text = f"{key.name} = {value}: {count:,} of at least {wanted:,}; collect {wanted - count:,} more"
                    severity = "high" if count == 0 else "medium"
                    given = f"{key.name}={value}"
                    findings.append(Finding(self.name, severity, count / wanted, text, given=given))
            counts = zip(key.values, key.counts.tolist(), strict=True)
            charts.append(bars(f"Samples by {key.name}", {str(value): count for value, count in counts}))
        met = sum(int((key.counts >= key.wanted).sum()) for key in keys)
        summary: dict[str, Any] = {"values covered": f"{met} of {sum(len(key.values) for key in keys)}"}
        pairs = [(a.name, b.name, pair_cells(a, b)) for a, b in combinations(keys, 2)]
        classes = _classes(context)
        if classes is not None:
            pairs += [(key.name, "class", class_cells(key, *classes)) for key in keys]
        for a, b, cells in pairs:
            table += [
                _cell(f"{a} = {x}", f"{b} = {y}", *numbers)
                for (x, y), numbers in zip(_names(cells), _numbers(cells, len(context.samples)), strict=True)
            ]
            findings += self._lacking(a, b, cells)
            if len(charts) < len(keys) + _GRIDS:
                charts.append(_chart(a, b, cells))
        asked = [cell for cell in table if cell["wanted"]]
        index = float(np.mean([min(1.0, cell["count"] / cell["wanted"]) for cell in asked]))
        lacking = sum(cell["collect"] > 0 for cell in table if cell["and"])
        summary |= {"coverage index": round(index, 4)}
        if pairs:
            summary |= {"pairs lacking": f"{lacking} of {sum(cell['and'] is not None for cell in table)}"}
        summary |= {f"{word}": text for word, text in _strays(keys) if text}
        table.sort(key=lambda cell: -cell["collect"])
        if len(table) > _LISTED:
            summary["cells not listed"] = len(table) - _LISTED
        return CheckResult(findings, summary=summary | {"cells": table[:_LISTED], "charts": charts})

    def _lacking(self, a: str, b: str, cells: Cells) -> Iterator[Finding]:
        """One finding for each pair that lacks samples though both of its values have enough."""
        lacks = cells.collect
        for at in np.flatnonzero((lacks > 0) & cells.enough):
            x, y = cells.first[at // len(cells.second)], cells.second[at % len(cells.second)]
            count, wanted, expected = int(cells.count[at]), int(cells.wanted[at]), float(cells.expected[at])
            surprising = cells.surprise[at] < _SURPRISE
            if b == "class" and not surprising:
                continue
            severity = "medium" if surprising and (count == 0 or count < wanted) else "low"
            least = count + int(lacks[at])
            text = (
                f"{a} = {x} and {b} = {y}: {count:,} of at least {least:,}; {expected:,.1f} would be expected if the two "
                f"were independent; collect {least - count:,} more"
            )
            yield Finding(self.name, severity, count / least, text, given=f"{a}={x}, {b}={y}")


@dataclass(frozen=True)
class Key:
    """A slice key of the schema: its listed values, how many samples have and should have each, and the code of each."""

    name: str
    values: tuple[Any, ...]
    wanted: Ints
    codes: Ints  # (N,) into `values`, or _MISSING or _UNLISTED
    unlisted: dict[str, int]

    @property
    def counts(self) -> Ints:
        result: Ints = np.bincount(self.codes[self.codes >= 0], minlength=len(self.values))
        return result


def pair_cells(a: Key, b: Key) -> Cells:
    """How many samples have each pair of two keys' values."""
    told = (a.codes != _MISSING) & (b.codes != _MISSING)
    both = (a.codes >= 0) & (b.codes >= 0)
    rows, columns = len(a.values), len(b.values)
    count = np.bincount(a.codes[both] * columns + b.codes[both], minlength=rows * columns)
    wanted = np.minimum(a.wanted[:, None] // columns, b.wanted[None, :] // rows).ravel()
    enough = ((a.counts >= a.wanted)[:, None] & (b.counts >= b.wanted)[None, :]).ravel()
    alone = [np.bincount(key.codes[told & (key.codes >= 0)], minlength=len(key.values)) for key in (a, b)]
    expected = np.outer(*alone).ravel() / max(1, int(told.sum()))
    return _cells(
        [str(value) for value in a.values], [str(value) for value in b.values], count, wanted, enough, expected
    )


def class_cells(key: Key, names: Sequence[str], samples: Ints, classes: Ints) -> Cells:
    """How many samples with each value have a label of each class; row numbers and classes are of distinct pairs (M,)."""
    width = len(names)
    code = key.codes[samples]
    known = code >= 0
    count = np.bincount(code[known] * width + classes[known], minlength=len(key.values) * width)
    told = code != _MISSING
    share = np.bincount(classes[told], minlength=width) / max(1, int((key.codes != _MISSING).sum()))
    wanted = np.floor(key.wanted[:, None] * share[None, :]).astype(np.int64).ravel()
    enough = np.repeat(key.counts >= key.wanted, width)
    expected = (key.counts[:, None] * share[None, :]).ravel()
    return _cells([str(value) for value in key.values], list(names), count, wanted, enough, expected)


def _cells(
    first: Sequence[str],
    second: Sequence[str],
    count: Ints,
    wanted: Ints,
    enough: npt.NDArray[np.bool_],
    expected: Floats,
) -> Cells:
    from scipy.special import pdtr

    chance = np.minimum(pdtr(count, expected) * len(count), 1.0)
    surprise = np.where(count < _FAR_BELOW * expected, chance, 1.0)
    return Cells(tuple(first), tuple(second), count, wanted, expected, surprise, enough)


def _keys(samples: pd.DataFrame, schema: LabelSchema) -> Iterator[Key]:
    """Keys of the schema's slices, each once however many of them name it."""
    listed: dict[str, list[tuple[Any, int]]] = {}
    for item in schema.slices:
        listed.setdefault(item.key, []).extend((value, item.min_count) for value in item.values)
    found = values_by_key(samples, list(listed))
    for name, wanted in listed.items():
        codes, unlisted = _coded(found[name], [value for value, _ in wanted])
        yield Key(name, tuple(v for v, _ in wanted), np.array([n for _, n in wanted], dtype=np.int64), codes, unlisted)


def _coded(values: pd.Series[Any], listed: Sequence[Any]) -> tuple[Ints, dict[str, int]]:
    """The place of each value among those listed, and how many samples have each that is not."""
    places = {as_key(value): place for place, value in enumerate(listed)}
    codes, distinct = pd.factorize(as_keys(values))
    at = np.array([places.get(key, _UNLISTED) for key in distinct] + [_MISSING], dtype=np.int64)
    counts = np.bincount(codes[codes >= 0], minlength=len(distinct))
    others = {shown(key): int(n) for key, n in zip(distinct, counts, strict=True) if key not in places}
    return at[codes], others


def _classes(context: AuditContext) -> tuple[tuple[str, ...], Ints, Ints] | None:
    """The classes in use, and distinct pairs of a sample's row number and the class of a label of it."""
    names = context.schema.class_names
    labels = context.annotations[["sample_id", "label"]].dropna()
    classes = pd.Categorical(labels["label"], categories=list(names)).codes.astype(np.int64)
    owners = pd.Index(context.samples["sample_id"]).get_indexer(pd.Index(labels["sample_id"]))
    known = (classes >= 0) & (owners >= 0)
    if not known.any():
        return None
    pairs = np.unique(owners[known] * len(names) + classes[known])
    return names, pairs // len(names), pairs % len(names)


def _names(cells: Cells) -> Iterator[tuple[str, str]]:
    return ((x, y) for x in cells.first for y in cells.second)


def _numbers(cells: Cells, total: int) -> Iterator[tuple[int, int, int, int, float]]:
    columns = (cells.count.tolist(), cells.wanted.tolist(), cells.collect.tolist(), cells.expected.tolist())
    return ((count, total, wanted, lacks, expected) for count, wanted, lacks, expected in zip(*columns, strict=True))


def _cell(
    value: str, other: str | None, count: int, total: int, wanted: int, lacks: int | None = None, expected: float = 0.0
) -> dict[str, Any]:
    """A row of the summary's table."""
    cell: dict[str, Any] = {
        "slice": value,
        "and": other,
        "count": count,
        "share": round(count / max(1, total), 6),
        "wanted": wanted,
    }
    if other is not None:
        cell["expected"] = round(expected, 2)
    return cell | {"collect": max(0, wanted - count) if lacks is None else lacks}


def _chart(a: str, b: str, cells: Cells) -> dict[str, Any]:
    values = cells.count.reshape(len(cells.first), len(cells.second)).tolist()
    return grid(f"Samples by {a} and {b}", list(cells.first), list(cells.second), values)


def _strays(keys: Sequence[Key]) -> Iterator[tuple[str, str]]:
    """What is said of samples without a value, and of values that the schema does not list."""
    missing = [(key.name, int((key.codes == _MISSING).sum())) for key in keys]
    yield "samples without a value", "; ".join(f"{name}: {count:,}" for name, count in missing if count)
    texts = []
    for key in keys:
        if key.unlisted:
            told = [f"{value} ({count:,})" for value, count in Counter(key.unlisted).most_common(_NAMED)]
            more = f" and {len(key.unlisted) - _NAMED} more" if len(key.unlisted) > _NAMED else ""
            texts.append(f"{key.name}: {', '.join(told)}{more}")
    yield "values that the schema does not list", "; ".join(texts)


def slice_values(samples: pd.DataFrame, key: str) -> pd.Series[Any]:
    """A slice attribute of each sample: a column of records.SAMPLES, or a key of its metadata. Missing is None."""
    return values_by_key(samples, [key])[key]


def values_by_key(samples: pd.DataFrame, keys: Sequence[str] | None = None) -> dict[str, pd.Series[Any]]:
    """The same for several keys, by default all of the metadata that are no columns; each metadata text is read once."""
    import orjson

    codes, texts = pd.factorize(samples["metadata"])
    parsed: list[dict[str, Any]] = [orjson.loads(text) for text in texts]
    if keys is None:
        keys = sorted({key for values in parsed for key in values} - set(SAMPLES.names))
    found: dict[str, pd.Series[Any]] = {}
    for key in keys:
        if key in SAMPLES.names:
            found[key] = samples[key]
        else:
            values = np.empty(len(parsed) + 1, dtype=object)
            values[:-1] = [item.get(key) for item in parsed] or None
            found[key] = pd.Series(values[codes], index=samples.index, dtype=object)
    return found


@dataclass(frozen=True)
class Coded:
    """A value of each item: its place (N,) in `names`, -1 where there is none. A name says the key too: light = night."""

    codes: Ints
    names: tuple[str, ...]


def attributes(samples: pd.DataFrame, *, bins: int = 5, learned_from: slice = slice(None)) -> dict[str, Coded]:
    """By key, the values that divide the samples into slices: columns such as origin, and the metadata.

    Numbers of many values are put into `bins` ranges, equally filled by the rows `learned_from`. Keys with one value,
    and texts and whole numbers of so many that they rather are names, are left out.
    """
    found = {name: samples[name] for name in _COLUMNS} | values_by_key(samples)
    coded = {key: _divided(key, values, bins, learned_from) for key, values in found.items()}
    return {key: one for key, one in coded.items() if one is not None}


def _divided(key: str, values: pd.Series[Any], bins: int, learned_from: slice) -> Coded | None:
    codes, found = pd.factorize(as_keys(values))
    distinct: list[str | bytes] = list(found)
    numbers = _as_numbers(distinct)
    if numbers is not None and len(distinct) > _FEW_NUMBERS:
        if len(distinct) > _MOSTLY * int((codes >= 0).sum()) and (numbers == np.floor(numbers)).all():
            return None
        return _ranges(key, np.append(numbers, np.nan)[codes], bins, learned_from)
    if not 1 < len(distinct) <= _MOST_VALUES:
        return None
    ranks = numbers if numbers is not None else np.zeros(len(distinct))
    order = sorted(range(len(distinct)), key=lambda at: (ranks[at], shown(distinct[at])))
    place = np.append(np.argsort(order), -1)
    return Coded(place[codes].astype(np.int64), tuple(f"{key} = {shown(distinct[at])}" for at in order))


def _ranges(key: str, values: Floats, bins: int, learned_from: slice) -> Coded | None:
    """Numbers, missing ones NaN, put into ranges that are equally filled."""
    told = values[learned_from]
    told = told[~np.isnan(told)]
    edges = np.unique(np.quantile(told, np.linspace(0, 1, bins + 1)[1:-1])) if len(told) else told
    if not len(edges):
        return None
    between = [f"{low:g} to {high:g}" for low, high in pairwise(edges.tolist())]
    names = [f"up to {edges[0]:g}", *between, f"over {edges[-1]:g}"]
    codes = np.where(np.isnan(values), -1, np.searchsorted(edges, values, side="left"))
    return Coded(codes.astype(np.int64), tuple(f"{key} {name}" for name in names))


def _as_numbers(keys: Sequence[str | bytes]) -> Floats | None:
    """The keys of `as_keys` as numbers, None where one is no number."""
    if not len(keys) or not all(isinstance(key, bytes) and key[:1] in b"-0123456789" for key in keys):
        return None
    return np.array([float(key) for key in keys])


def count_values(values: pd.Series[Any], wanted: Sequence[Any]) -> dict[Any, int]:
    """How many items have each wanted value; equal means equal as JSON, so 1 is 1 and not "1" or true."""
    codes, _ = _coded(values, wanted)
    counts = np.bincount(codes[codes >= 0], minlength=len(wanted))
    return dict(zip(wanted, counts.tolist(), strict=True))


def as_keys(values: pd.Series[Any]) -> npt.NDArray[np.object_]:
    """Texts as they are, other values as their JSON in bytes, missing ones as None: equal where they are the same."""
    if values.dtype == object:
        return np.fromiter(map(as_key, values), dtype=object, count=len(values))
    codes, distinct = pd.factorize(values)
    return np.array([*map(as_key, distinct.tolist()), None], dtype=object)[codes]


def as_key(value: Any) -> str | bytes | None:
    if isinstance(value, str) or value is None:
        return value
    if value != value:
        return None
    # Of plain numbers this is quicker than JSON, and the same.
    return repr(value).encode() if type(value) in (int, float) else canonical_json(value)


def shown(key: str | bytes) -> str:
    return key if isinstance(key, str) else key.decode()
