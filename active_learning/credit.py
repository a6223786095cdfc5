"""Where labels come from: which round brought which, who gave it, and what models had said before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from datasetops.active_learning.rounds import Round
from datasetops.audits.people.crowd import answer_field
from datasetops.labeling import batches
from datasetops.manifest import Repository, Version
from datasetops.preannotate.human import BY_PEOPLE
from datasetops.records import ERASED_TEXT

_CLASS: Final = "classification"


def pushed_rounds(repository: Repository, all_rounds: Sequence[Round]) -> dict[str, int]:
    """The number of the round, by the name of each batch that asks for its samples (and gold ones); the first such."""
    found: dict[str, int] = {}
    numbers: dict[frozenset[str], int] = {}
    for number, item in enumerate(all_rounds):
        numbers.setdefault(frozenset(item.samples) - {ERASED_TEXT}, number)
    for batch in batches(repository):
        asked, gold = frozenset(batch.samples), frozenset(batch.gold)
        for samples in (asked - gold, asked):
            if samples in numbers:
                found[batch.name] = numbers[samples]
    return found


def fresh_labels(repository: Repository, head: Version, all_rounds: Sequence[Round]) -> dict[str, int]:
    """For each sample that people labeled after a round that holds it, the number of that round.

    Of several the one whose batch brought the label; where none did, the last.
    """
    by_batch = pushed_rounds(repository, all_rounds)
    owner: dict[str, int] = {}
    for number, item in enumerate(all_rounds):
        before = _given(repository.version(item.version), item.samples)
        now = _given(head, item.samples)
        known = set(zip(before["annotation_id"], before["event_id"], strict=True))
        batch = answer_field(now["answer"], "batch")
        brought = now[batch.map(by_batch).fillna(number) == number]
        for sample, *row in brought[["sample_id", "annotation_id", "event_id"]].itertuples(index=False):
            if tuple(row) not in known:
                owner[sample] = number
    return owner


def said_before(version: Version, samples: Sequence[str], item: Round) -> pd.Series[Any]:
    """The class that a model gave each of some samples, in its row in a version, else when the round was made; NaN where
    none did."""
    rows = version.labels(["sample_id", "kind", "label", "source"])
    wanted = pc.and_(pc.equal(rows["source"], "model"), pc.equal(rows["kind"], _CLASS))
    rows = rows.filter(pc.and_(wanted, pc.is_in(rows["sample_id"], pa.array(samples, pa.string()))))
    frame = rows.to_pandas().drop_duplicates("sample_id").set_index("sample_id")
    predicted = pd.Series(dict(zip(item.samples, item.predicted, strict=False)), dtype=object)
    wanted_ids = pd.Index(samples)
    said: pd.Series[Any] = frame["label"].reindex(wanted_ids).fillna(predicted.reindex(wanted_ids))
    return said


def model_before(version: Version, samples: Sequence[str], item: Round) -> str | None:
    """Whose answers `said_before` and `corrections` take: the models of the rows, else the one asked for the round."""
    rows = version.labels(["sample_id", "source", "model"])
    mine = pc.and_(pc.equal(rows["source"], "model"), pc.is_in(rows["sample_id"], pa.array(samples, pa.string())))
    names = pc.unique(rows["model"].filter(mine)).drop_null().to_pylist()
    return " + ".join(sorted(names)) or item.model


def corrections(version: Version, head: Version, samples: Sequence[str], item: Round) -> int | None:
    """Samples whose labels by people are not what a model said in a version, or of their class when the round was made;
    None where it said nothing of any.

    Of other kinds than classes: those whose regions were changed, added to or removed.
    """
    columns = ["sample_id", "kind", "label", "source", "answer"]
    wanted = pa.array(samples, pa.string())
    before, now = (
        rows.filter(pc.is_in(rows["sample_id"], wanted)).to_pandas()
        for rows in (version.labels(columns), head.labels(columns))
    )
    before, now = before[before["source"] == "model"], now[now["source"].isin(BY_PEOPLE)]
    if before.empty:
        said = said_before(version, list(dict.fromkeys(samples)), item).dropna()
        given = now[now["kind"] == _CLASS].drop_duplicates("sample_id").set_index("sample_id")["label"]
        both = said.index.intersection(given.index)
        return int((said[both] != given[both]).sum()) if len(both) else None
    keys = ["sample_id", "kind", "label"]
    counts = pd.concat([rows.groupby(keys, dropna=False).size() for rows in (before, now)], axis=1).fillna(0)
    differs = counts[counts[0] != counts[1]].index.get_level_values("sample_id")
    moved = now["sample_id"][(now["kind"] != _CLASS) & now["answer"].fillna("").str.contains('"changed": ?true')]
    return len({*differs, *moved} & set(before["sample_id"]))


def single_answers(version: Version, samples: Sequence[str]) -> int:
    """How many of these samples have their class from one answer in a labeling tool, that nobody else confirmed."""
    rows = version.labels(["sample_id", "kind", "source", "answer"])
    wanted = pc.and_(pc.equal(rows["source"], "human"), pc.equal(rows["kind"], _CLASS))
    rows = rows.filter(pc.and_(wanted, pc.is_valid(rows["answer"])))
    return len(set(samples) & set(rows["sample_id"].to_pylist()))


def _given(version: Version, samples: Sequence[str]) -> pd.DataFrame:
    """Rows by people about some samples."""
    rows = version.labels(["annotation_id", "sample_id", "event_id", "source", "answer"])
    mine = pc.is_in(rows["sample_id"], pa.array(samples, pa.string()))
    frame: pd.DataFrame = rows.filter(pc.and_(mine, pc.is_in(rows["source"], pa.array(BY_PEOPLE)))).to_pandas()
    return frame
