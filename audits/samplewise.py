"""Findings and scores that are about whole samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from datasetops.records import Finding


class SampleFindings:
    """Makes the findings of one check from row numbers of `AuditContext.samples`."""

    def __init__(self, check: str, samples: pd.DataFrame) -> None:
        self._check = check
        self.ids, self.uris, self.splits = (texts(samples[name]) for name in ("sample_id", "uri", "split"))

    def at(self, row: int, severity: str, score: float, message: str, **more: Any) -> Finding:
        """`more`: further fields of Finding; `score` is clipped to [0, 1]."""
        return Finding(
            self._check,
            severity,
            min(1.0, max(0.0, float(score))),
            message,
            sample_id=self.ids[row],
            uri=self.uris[row],
            split=self.splits[row],
            **more,
        )


def texts(column: pd.Series[Any]) -> npt.NDArray[np.object_]:
    """A column of strings as an array in which missing ones are None."""
    values = column.astype(object).to_numpy(copy=True)
    values[column.isna().to_numpy()] = None
    return values


def sample_scores(
    samples: pd.DataFrame, known: npt.NDArray[np.bool_], score: npt.NDArray[np.floating[Any]]
) -> pd.DataFrame:
    """`CheckResult.scores` of the samples that are `known` (N,) to have one; `score` (N,) is clipped to [0, 1]."""
    ids = samples["sample_id"].to_numpy()[known]
    return pd.DataFrame({"sample_id": ids, "annotation_id": None, "score": np.clip(score[known], 0, 1)})
