"""What of a version may be chosen, and what people have said of it so far."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from datasetops.active_learning.pool import UNLABELED, Ints, Pool, Votes
from datasetops.errors import DatasetOpsError
from datasetops.labeling import sent_samples
from datasetops.manifest import Repository, Version
from datasetops.preannotate.human import BY_PEOPLE
from datasetops.records import VOTE, one_array

EVALUATION_SPLITS: Final = ("validation", "val")
JUDGING_SPLITS: Final = (*EVALUATION_SPLITS, "test")  # what is labeled there teaches no model
_CLASS: Final = "classification"


@dataclass(frozen=True)
class Candidates:
    """`samples` are all of a version (columns of records.SAMPLES), the rows of `pool`; `notes` say what was left out."""

    samples: pd.DataFrame
    classes: tuple[str, ...]
    pool: Pool
    notes: tuple[str, ...]

    @property
    def groups(self) -> Ints | None:
        """A number for each sample's group, -1 for none; None where no sample has one."""
        codes = pd.factorize(self.samples["group"])[0].astype(np.int64)
        return codes if (codes >= 0).any() else None


def find_candidates(
    repository: Repository, version: Version, where: str | None, *, labeled_too: bool = False
) -> Candidates:
    """What nobody labeled yet, or what fulfils the condition, without items that are out for labeling or sealed.

    What came back without a label may be chosen again.
    Without a condition what models are judged on is left out as well: chosen items there would judge wrongly. Labels of
    those splits, and of sealed ones, are not among the pool's. With `labeled_too` what is labeled may be chosen again.
    Raises DatasetOpsError where nothing fulfils the condition, or nothing is left.
    """
    table = version.table("samples")
    ids = one_array(table["sample_id"])
    by_people = _mask(ids, pa.array(sorted(labeled_by_people(version)), pa.string()))
    sent = sent_samples(repository)
    out = _mask(ids, pa.array(sorted(sent.out), pa.string())) & ~by_people
    returned = _mask(ids, pa.array(sorted(sent.returned), pa.string())) & ~by_people
    sealed = _mask(one_array(table["split"]), pa.array(list(version.commit.sealed), pa.string()))
    asked = np.full(len(ids), labeled_too) | ~by_people
    if where is not None:
        asked = _mask(ids, pa.array(version.where(where), pa.string()))
        if not asked.any():
            raise DatasetOpsError(f"No sample of {version.name} fulfils --where {where!r}.", remedy="Correct it.")
    judging = _mask(one_array(table["split"]), pa.array(JUDGING_SPLITS)) & ~sealed
    untaught = sealed | judging
    judging &= where is None
    chosen = asked & ~out & ~sealed & ~judging
    notes = [
        f"Left out: {number:,} samples {why}."
        for number, why in (
            (int((asked & out & ~sealed & ~judging).sum()), "that are out for labeling"),
            (int((asked & sealed).sum()), "of sealed splits"),
            (int((asked & judging).sum()), f"of splits that models are judged on ({', '.join(JUDGING_SPLITS)})"),
        )
        if number
    ]
    again = int((chosen & returned).sum())
    if again:
        notes.append(f"{again:,} in the pool came back from labeling without a label.")
    if not chosen.any():
        raise DatasetOpsError(
            f"{version.name} has nothing left to choose from.",
            remedy=" ".join([*notes, "Choose another pool with --where, or ingest more."]),
        )
    pool = Pool(
        classes=len(version.schema.class_names),
        candidates=np.flatnonzero(chosen).astype(np.int64),
        covered=np.flatnonzero((by_people | out) & ~chosen).astype(np.int64),
        labels=np.where(untaught, UNLABELED, labels_by_people(version, ids)),
    )
    return Candidates(table.to_pandas(), tuple(version.schema.class_names), pool, tuple(notes))


def labeled_by_people(version: Version) -> set[str]:
    """Samples with an annotation that counts and that a person gave or an importer brought."""
    rows = version.labels(["sample_id", "source"])
    known = pc.is_in(rows["source"], pa.array(BY_PEOPLE))
    return set(rows.filter(known)["sample_id"].to_pylist())


def labels_by_people(version: Version, ids: pa.Array) -> Ints:
    """The class (N,) that people gave each of these samples, -1 where they gave none or several."""
    rows = version.labels(["sample_id", "kind", "label", "source"])
    rows = rows.filter(pc.and_(pc.equal(rows["kind"], _CLASS), pc.is_in(rows["source"], pa.array(BY_PEOPLE))))
    names = pa.array(version.schema.class_names, pa.string())
    frame = pd.DataFrame(
        {
            "row": pc.index_in(one_array(rows["sample_id"]), ids).to_numpy(zero_copy_only=False),
            "label": pc.fill_null(pc.index_in(one_array(rows["label"]), names), UNLABELED).to_numpy(
                zero_copy_only=False
            ),
        }
    ).drop_duplicates()
    single = frame[~frame["row"].duplicated(keep=False)]
    labels = np.full(len(ids), UNLABELED, np.int64)
    labels[single["row"].to_numpy(np.int64)] = single["label"]
    return labels


def votes(version: Version, sample_ids: pd.Series[str]) -> Votes:
    """The single answers to which class a sample has, where a version keeps them; rows are places in `sample_ids`."""
    rows = version.table("annotations", ["sample_id", "kind", "label", "actor", "role"])
    rows = rows.filter(pc.and_(pc.equal(rows["kind"], _CLASS), pc.fill_null(pc.equal(rows["role"], VOTE), False)))
    names = pa.array(version.schema.class_names, pa.string())
    frame = pd.DataFrame(
        {
            "item": pd.Index(sample_ids).get_indexer(rows["sample_id"].to_pylist()),
            "annotator": pd.factorize(rows["actor"].to_pandas(), use_na_sentinel=False)[0],
            "label": pc.fill_null(pc.index_in(one_array(rows["label"]), names), UNLABELED).to_numpy(
                zero_copy_only=False
            ),
        }
    ).astype(np.int64)
    frame = frame[(frame["item"] >= 0) & (frame["label"] >= 0)].drop_duplicates(["item", "annotator"], keep="last")
    return Votes(*(frame[name].to_numpy() for name in ("item", "annotator", "label")))


def _mask(values: pa.Array, wanted: pa.Array) -> npt.NDArray[np.bool_]:
    found: npt.NDArray[np.bool_] = pc.is_in(values, wanted).to_numpy(zero_copy_only=False)
    return found
