"""Who or what is behind the annotations of a version, and which of them no person has touched."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from datasetops.errors import NotFoundError, did_you_mean
from datasetops.manifest import Repository
from datasetops.manifest.segment import Positions
from datasetops.provenance.past import Past, unknown
from datasetops.provenance.rows import Flags

NO_CLASS: Final = "(none)"
_PERSON: Final = pa.array(["human", "consensus"], pa.string())  # sources that are people's word
_WHO: Final = ["label", "source", "actor", "model"]
_MOST_CODES: Final = 10_000_000  # combinations of values that are counted in an array: 80 MB
_RULE: Final = (
    "A person touched an annotation if its row, or an earlier row of the same id in a version that this one stands on, "
    "has the source human or consensus. One that an import brought with a name is counted apart: this repository did "
    "not see that person at work. Several answers that were merged into one count once, as the merged one."
)


@dataclass(frozen=True)
class Blame:
    """`makers`: source, actor, model and annotations, most first. `classes`: by class the number of annotations, those
    that a person touched, those that an import brought under a person's name, those that nobody touched, and their
    share. `annotations`: one by one, where a sample or annotation was asked for.
    """

    version: str
    label: str | None
    item: str | None
    makers: tuple[Mapping[str, Any], ...]
    classes: Mapping[str, Mapping[str, Any]]
    annotations: tuple[Mapping[str, Any], ...]
    notes: tuple[str, ...]
    basis: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def blame(repository: Repository, version: str, *, label: str | None = None, item: str | None = None) -> Blame:
    """Of all annotations that count, of those of a class, or of a sample's or a single one.

    Raises NotFoundError for a version, a class, or an item that there is not.
    """
    past = Past(repository)
    chosen = past.version(version)
    if label is not None and label not in (known := [*chosen.schema.class_names, NO_CLASS]):
        remedy = did_you_mean(label, known, noun="classes")
        raise NotFoundError(f"{chosen.name} has no class {label!r}.", remedy=remedy)
    place = past.number[chosen.name]
    keys = None if item is None else _keys_of(past, place, item)
    rows = counted(past, place, label, keys)
    return Blame(
        chosen.name,
        label,
        item,
        tuple(_makers(rows)),
        _classes(rows),
        tuple(_one_by_one(past, place, keys)) if keys is not None else (),
        tuple(past.notes),
        past.basis(f"the annotations of {chosen.name}", _RULE),
    )


def _keys_of(past: Past, place: int, item: str) -> pa.Array:
    """Annotations of a version that an id means: one, or those of a sample."""
    table = past.table("annotations")
    wanted = pa.array([item], pa.string())
    if table.live(wanted)[place, 0] >= 0:
        return wanted
    samples = past.table("samples")
    if samples.live(wanted)[place, 0] < 0:
        raise unknown("sample or annotation", item, [*samples.near(item), *table.near(item)])
    flags = table.flags(lambda rows: pc.equal(rows["sample_id"], item), ["sample_id"])
    own = table.keys(flags)
    return own.filter(pa.array(table.live(own)[place] >= 0))


def counted(past: Past, place: int, label: str | None = None, keys: pa.Array | None = None) -> pd.DataFrame:
    """The annotations that stand and count: label, source, actor, model, number, and how many of these a person touched.

    Columns that have few values are counted by their codes, so that no row of the root is copied.
    """
    table = past.table("annotations")
    touched = _Touched(past, place)
    alive = table.alive(place)
    whole = [number for number in alive if number == table.root]
    names = [*_WHO, "role", table.key]
    frames = [pd.DataFrame(columns=[*_WHO, "annotations", "touched"])]
    for numbers in (whole, [number for number in alive if number not in whole]):
        if not numbers:
            continue
        rows = pa.concat_tables([table.segments[number].table(names) for number in numbers])
        kept = np.concatenate([alive[number] for number in numbers]) & pc.is_null(rows["role"]).to_numpy()
        if label is not None:
            meant = pc.is_null(rows["label"]) if label == NO_CLASS else pc.equal(rows["label"], label)
            kept &= pc.fill_null(meant, False).to_numpy()
        if keys is not None:
            kept &= pc.is_in(rows[table.key], value_set=keys).to_numpy()
        person = pc.is_in(rows["source"], value_set=_PERSON).to_numpy()
        before = np.concatenate([touched.before(number) for number in numbers])
        frames.append(_grouped(rows, np.flatnonzero(kept), np.flatnonzero(kept & (person | before))))
    return pd.concat(frames[1:], ignore_index=True) if len(frames) > 1 else frames[0]


def _grouped(rows: pa.Table, *chosen: Positions) -> pd.DataFrame:
    """A line for each combination of values, with how many of each choice of rows have it."""
    code: Positions = np.zeros(len(rows), dtype=np.int64)
    known: Positions
    values: list[list[str | None]] = []
    size = 1
    with ThreadPoolExecutor() as pool:  # Arrow works outside Python's lock
        coded = list(pool.map(lambda name: _coded(rows[name]), _WHO))
    for codes, names in coded:
        code = code * len(names) + codes
        size *= len(names)
        values.append(names)
    if size > _MOST_CODES:
        known, code = np.unique(code, return_inverse=True)
    else:
        known = np.arange(size)
    counts = [np.bincount(code[one], minlength=len(known)) for one in chosen]
    held = np.flatnonzero(counts[0])
    left = known[held]
    columns: dict[str, Any] = {}
    for name, names in list(zip(_WHO, values, strict=True))[::-1]:
        left, which = np.divmod(left, len(names))
        columns[name] = pd.Series([names[one] for one in which], dtype=object)
    numbers = dict(zip(("annotations", "touched"), (count[held] for count in counts), strict=True))
    return pd.DataFrame({name: columns[name] for name in _WHO} | numbers)


def _coded(column: pa.ChunkedArray) -> tuple[npt.NDArray[np.int64], list[str | None]]:
    """(a number for each value, the values with None first)."""
    coded = column.dictionary_encode().unify_dictionaries()
    names = coded.chunk(0).dictionary.to_pylist() if coded.num_chunks else []
    parts = [pc.fill_null(chunk.indices, -1).to_numpy(zero_copy_only=False) for chunk in coded.chunks]
    codes = np.concatenate(parts).astype(np.int64) if parts else np.empty(0, dtype=np.int64)
    return codes + 1, [None, *names]


class _Touched:
    """Which rows of a version have an earlier row, in a version that it stands on, that was a person's word.

    The rows of the root have one only if another segment names their key.
    """

    def __init__(self, past: Past, place: int) -> None:
        table = self._table = past.table("annotations")
        lists = [table.layers[one] for one in past.ancestors(place)]
        used = {number for layers in lists for number in layers}
        person = []
        for number, segment in enumerate(table.segments):
            sources = segment.table(["source"])["source"] if number in used else None
            none = np.zeros(len(segment), dtype=bool)
            person.append(none if sources is None else pc.is_in(sources, value_set=_PERSON).to_numpy())
        self._coded = table.coded(person)
        self._any = self._coded | table.in_root(person)

    def before(self, number: int) -> Flags:
        """Of each row of a segment."""
        codes = self._table.codes[0]
        return self._any[codes[number]] if number in codes else self._table.of_root(self._coded)


def _makers(rows: pd.DataFrame) -> list[dict[str, Any]]:
    sums = rows.groupby(["source", "actor", "model"], dropna=False)["annotations"].sum()
    makers = [
        {name: _text(row[name]) for name in _WHO[1:]} | {"annotations": int(row["annotations"])}
        for row in sums.reset_index().to_dict("records")
    ]
    return sorted(makers, key=lambda row: (-row["annotations"], str(row["source"]), str(row["actor"])))


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _classes(rows: pd.DataFrame) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for row in rows.to_dict("records"):
        own = found.setdefault(
            _text(row["label"]) or NO_CLASS, {"annotations": 0, "touched": 0, "named_by_import": 0, "nobody": 0}
        )
        count = int(row["annotations"])
        touched = int(row["touched"])
        named = row["source"] == "import" and _text(row["actor"]) is not None
        own["annotations"] += count
        own["touched"] += touched
        own["named_by_import" if named else "nobody"] += count - touched
    for own in found.values():
        own["share_nobody"] = own["nobody"] / own["annotations"]
    return dict(sorted(found.items()))


def _one_by_one(past: Past, place: int, keys: pa.Array) -> list[dict[str, Any]]:
    """Each annotation with the event that made its row and the version that event made."""
    table = past.table("annotations")
    live = table.live(keys)[place]
    names = ["annotation_id", "sample_id", "kind", *_WHO, "score", "derived_from", "event_id", "created_at", "role"]
    found = []
    for row in table.rows(live[live >= 0], names).to_pylist():
        if row["role"] is None:
            entry = past.by_event.get(row["event_id"] or "")
            made = entry and {"entry": entry.number, "event": entry.event.kind, "version": entry.version}
            found.append(row | {"made": made})
    return found
