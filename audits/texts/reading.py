"""Texts as a reader of pictures reads them, and how far they differ from the labels."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterator
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from datasetops.audits.base import AuditContext
from datasetops.audits.images.stored_images import stored_image
from datasetops.audits.rowwise import Doubt

_SURE: Final = 0.9  # confidence from which a reading counts
_VERY_SURE: Final = 0.97
_HOPELESS: Final = 0.5  # error rate from which it is the reader that cannot read these texts
_SMALLEST: Final = 4  # pixels of a side that can be read
_UPRIGHT: Final = 1.5  # height over width from which a line is taken to run upwards
# Characters that differ by little but context, each with the one that stands for its group.
_ALIKE: Final = str.maketrans("0o1il|!5s8b2z6g", "oolllllssbbzzgg")


class Reader(Protocol):
    """What reads one line of text. `name` stands in the audit's summary."""

    name: str

    def read(self, crop: Image.Image) -> tuple[str, float]:
        """The text of an RGB picture, and how sure that is, in [0, 1]; an empty text where there is none."""


def read_texts(rows: pd.DataFrame, context: AuditContext, reader: Reader) -> pd.DataFrame:
    """`read` and `confidence` of every row; None and NaN where it has no box, or its image cannot be read.

    `rows`: columns of records.ANNOTATIONS, numbered from 0.
    """
    answers = pd.DataFrame({"read": pd.Series([None] * len(rows), dtype=object), "confidence": np.nan})
    boxes = rows[["x1", "y1", "x2", "y2"]].to_numpy(dtype=np.float64)
    owner = pd.Index(context.samples["sample_id"]).get_indexer(pd.Index(rows["sample_id"]))
    usable = np.flatnonzero(np.isfinite(boxes).all(axis=1))
    groups = [(int(sample), group) for sample, group in pd.Series(usable).groupby(owner[usable])]
    for sample, group in context.progress(groups, len(groups), "Reading texts"):
        image = stored_image(context, sample)
        for row in group.tolist() if image else ():
            crop = _cropped(image, boxes[row])
            if crop is not None:
                answers.iloc[row] = reader.read(crop)
    return answers


def misread(column: pd.Series[Any], answers: pd.DataFrame, summary: dict[str, Any]) -> Iterator[Doubt]:
    """Texts that the reader reads otherwise and is sure of; figures of all go to `summary`.

    The character error rate is the number of characters to insert, delete or replace over those of the label, both
    without spaces, which readers often lose.
    """
    labels = [letters(text) if isinstance(text, str) else "" for text in column]
    sure = answers["confidence"].fillna(0.0).to_numpy(dtype=np.float64)
    reads = [letters(text) if isinstance(text, str) else "" for text in answers["read"]]
    judged = (sure >= _SURE) & np.array([bool(label) for label in labels], dtype=np.bool_)
    errors = np.zeros(len(labels))
    for row in np.flatnonzero(judged).tolist():
        errors[row] = edit_distance(reads[row], labels[row])
    sizes = np.array([max(len(label), 1) for label in labels], dtype=np.float64)
    rate = np.minimum(errors / sizes, 1.0)
    summary["read"] = {"texts": int(answers["confidence"].notna().sum()), "sure": int(judged.sum())}
    if not judged.any():
        return
    total = float(errors[judged].sum() / sizes[judged].sum())
    summary["character error rate"] = round(total, 4)
    if total > _HOPELESS:
        summary["read"]["left out"] = "the reader cannot read these texts: most of their characters differ"
        return
    alike = np.zeros(len(labels), np.bool_)
    for row in np.flatnonzero(judged & (errors > 0)).tolist():
        alike[row] = _simplified(reads[row]) == _simplified(labels[row])
    yield Doubt(
        "read otherwise",
        judged & (errors > 0),
        np.where(~alike & (sure >= _VERY_SURE), "medium", "low"),
        np.where(alike, np.maximum(1 - rate, 0.6), 0.5 * (1 - rate)),
        lambda row: (
            f"a reader reads {answers['read'].iloc[row]!r}, sure to {sure[row]:.0%}: "
            + ("letters that look alike" if alike[row] else f"character error rate {rate[row]:.2f}")
        ),
        suggested=lambda row: str(answers["read"].iloc[row]),
    )


def letters(text: str) -> str:
    """Composed, and without any space."""
    return "".join(unicodedata.normalize("NFC", text).split())


def edit_distance(one: str, other: str) -> int:
    """How many characters to insert, delete or replace (Levenshtein, Soviet Physics Doklady 10, 1966)."""
    before = list(range(len(other) + 1))
    for number, a in enumerate(one, 1):
        row = [number]
        for place, b in enumerate(other):
            row.append(min(before[place] + (a != b), before[place + 1] + 1, row[place] + 1))
        before = row
    return before[-1]


def _simplified(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold().translate(_ALIKE)


def _cropped(image: Image.Image | None, box: npt.NDArray[np.float64]) -> Image.Image | None:
    """One line of text, from left to right; None where hardly anything of the box lies in the image."""
    if image is None:
        return None
    left, top = (max(0, math.floor(value)) for value in box[:2])
    right, bottom = (min(side, math.ceil(value)) for side, value in zip(image.size, box[2:], strict=True))
    if min(right - left, bottom - top) < _SMALLEST:
        return None
    crop = image.crop((left, top, right, bottom))
    return crop.transpose(Image.Transpose.ROTATE_90) if crop.height > _UPRIGHT * crop.width else crop
