"""Texts that a model read against those that people wrote."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from datasetops.evaluation.answers import Answers
from datasetops.evaluation.judged import Judged, failures_table
from datasetops.evaluation.resampling import Metric
from datasetops.evaluation.texts import text_errors


def judge_texts(answers: Answers, samples: pd.DataFrame, annotations: pa.Table) -> Judged:
    """All texts of an image together, from top to bottom and left to right, whoever parted them in which lines."""
    given = annotations.filter(pc.equal(annotations["kind"], "text"))
    truth, read = _joined(given), _joined(answers.rows)
    labeled = samples["sample_id"].isin(truth.index).to_numpy()
    rows = np.flatnonzero(labeled & answers.answered)
    ids = samples["sample_id"].to_numpy(object)[rows]
    wanted, got = (texts.reindex(ids).fillna("").tolist() for texts in (truth, read))
    errors = text_errors(got, wanted)
    metrics: dict[str, Metric] = {"cer": errors.cer, "wer": errors.wer}
    ones = np.ones((1, len(rows)))
    numbers = {name: float(metric.values(ones)[0]) if len(rows) else math.nan for name, metric in metrics.items()}
    right = errors.edits == 0
    numbers["exact"] = float(right.mean()) if len(rows) else math.nan
    wrong = np.flatnonzero(~right)
    wrong = wrong[np.argsort(-errors.edits[wrong], kind="stable")]
    failures = pd.DataFrame(
        {
            "sample_id": ids[wrong],
            "error": "text",
            "truth": [wanted[row] for row in wrong],
            "predicted": [got[row] for row in wrong],
            "note": ["1 edit" if number == 1 else f"{number} edits" for number in errors.edits[wrong].tolist()],
        }
    )
    things = pd.DataFrame({"sample_id": ids, "truth": wanted, "said": got, "right": right})
    left_out = {"without a text by people": int((~labeled & answers.answered).sum())}
    return Judged(
        "text", rows, metrics, numbers, {}, things, failures_table(failures), "cer", left_out, smaller=("cer", "wer")
    )


def _joined(rows: pa.Table) -> pd.Series[Any]:
    """The texts of each sample in reading order, parted by spaces."""
    frame = rows.select(["sample_id", "text", "x1", "y1", "y2"]).to_pandas().dropna(subset=["text"])
    frame = frame.sort_values(["sample_id", "y1", "x1"], kind="stable")
    frame = frame.assign(line=_lines(frame)).sort_values(["line", "x1"], kind="stable")
    texts: pd.Series[Any] = frame.groupby("sample_id")["text"].agg(" ".join)
    return texts


def _lines(frame: pd.DataFrame) -> list[int]:
    """The line of each text, of rows by sample and top: it goes on while their middles are above its first one's foot.

    Boxes of words in one line are rarely as high to the pixel. Texts without a box are lines of their own.
    """
    found, line, sample, foot = [], 0, None, -math.inf
    columns = (frame[name].tolist() for name in ("sample_id", "y1", "y2"))
    for name, top, bottom in zip(*columns, strict=True):
        if not (name == sample and (top + bottom) / 2 < foot):
            line, sample, foot = line + 1, name, bottom
        found.append(line)
    return found
