"""Class probabilities that the user brings along, from any model, checked against a version."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from datasetops.audits.labels.confident import ROW_SUM_TOLERANCE
from datasetops.errors import FormatError, did_you_mean
from datasetops.schema import LabelSchema
from datasetops.sheets import as_numbers, read_frame

_KEYS = ("sample_id", "uri")


def read_probabilities(path: Path) -> pd.DataFrame:
    """A CSV or Parquet table: a column `sample_id` or `uri`, and one column a class. Index: that key.

    Raises FormatError that names file and field.
    """
    frame = read_frame(path)
    key = next((name for name in _KEYS if name in frame.columns), None)
    if key is None:
        raise FormatError(
            f"{path}: there is no column sample_id or uri (columns: {', '.join(map(str, frame.columns[:10]))}).",
            remedy="Add one that says which sample each row is about.",
        )
    return frame.set_index(key).rename_axis(key)


def for_version(frame: pd.DataFrame, samples: pd.DataFrame, schema: LabelSchema) -> pd.DataFrame:
    """Rows in the order of `samples`, columns in the order of the schema's classes; NaN where a sample has none.

    A class that is left out has probability 0. Raises FormatError for unknown classes, repeated samples, values
    outside [0, 1], rows that do not sum to one unless several classes may hold at once, and where no row belongs to the
    version.
    """
    remedy = "Give out-of-sample probabilities: each row predicted by a model that did not see that sample's label."
    if frame.index.name == "uri":
        ids = dict(zip(samples["uri"], samples["sample_id"], strict=True))
        frame = frame.set_axis([ids.get(uri) for uri in frame.index], axis=0)
        frame = frame[frame.index.notna()]
    unknown = [name for name in frame.columns if schema.find(str(name)) is None]
    if unknown:
        raise FormatError(
            f"probabilities: column {unknown[0]!r} is no class of the schema {schema.name!r}.",
            remedy=did_you_mean(str(unknown[0]), schema.class_names, noun="classes"),
        )
    if frame.index.has_duplicates:
        twice = frame.index[frame.index.duplicated()][0]
        raise FormatError(f"probabilities: sample {twice!r} stands in more than one row.", remedy="Keep one.")
    if frame.isna().any(axis=None):
        place, column = (int(found[0]) for found in np.nonzero(frame.isna().to_numpy()))
        raise FormatError(
            f"probabilities: sample {frame.index[place]!r} has none for {frame.columns[column]!r}.",
            remedy="Fill the gap, or leave the row out.",
        )
    names = set(frame.columns.map(str))
    words = [name for name in frame.columns if not pd.api.types.is_numeric_dtype(frame[name])]
    if words and len(frame):
        numbers = as_numbers(frame[words[0]]).isna().to_numpy()
        place = int(np.argmax(numbers))
        value, who = str(frame[words[0]].iloc[place])[:50], frame.index[place]
        raise FormatError(f"probabilities: sample {who!r}, {words[0]}: {value!r} is not a number.", remedy=remedy)
    frame = frame.rename(columns=str).reindex(columns=list(schema.class_names)).fillna(0.0).astype(np.float64)
    sums = frame.sum(axis=1)
    wrong = (frame.min(axis=1) < 0) | (frame.max(axis=1) > 1)
    if not schema.multi_label:
        wrong |= (sums - 1).abs() > ROW_SUM_TOLERANCE
    if wrong.any():
        first = frame.index[wrong.to_numpy()][0]
        left = [name for name in schema.class_names if name not in names]
        told = f" Classes without a column count as 0: {', '.join(left)}." if left else ""
        raise FormatError(
            f"probabilities: {int(wrong.sum())} rows are not probabilities; sample {first!r} sums to {sums[first]:.3f}.{told}",
            remedy=remedy,
        )
    aligned = frame.reindex(samples["sample_id"])
    if aligned.isna().all(axis=None):
        raise FormatError("probabilities: no row belongs to a sample of this version.", remedy="Check the ids.")
    return aligned
