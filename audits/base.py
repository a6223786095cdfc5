"""What every audit check gets and gives.

A check is three small things: pure scoring functions of arrays, a decision, and `run(context) -> CheckResult`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from datasetops.models.predictor import Predictor
from datasetops.progress import Progress, no_progress
from datasetops.records import ANNOTATIONS, Finding
from datasetops.schema import LabelSchema


class ImageAccess(Protocol):
    """Media of the audited samples, by row number of `AuditContext.samples`."""

    def read(self, row: int) -> bytes:
        """Media bytes. Raises DatasetOpsError where they cannot be had."""

    def open(self, row: int) -> Image.Image:
        """Decoded RGB image, EXIF orientation applied. Raises DatasetOpsError where it cannot be decoded."""


@dataclass(frozen=True)
class Baseline:
    """What a version is compared with: another version, or samples from production, whose `annotations` are empty."""

    name: str  # the same name means the same content
    samples: pd.DataFrame  # columns of records.SAMPLES
    annotations: pd.DataFrame  # columns of records.ANNOTATIONS
    embeddings: Callable[[], npt.NDArray[np.float32]]  # as in AuditContext


@dataclass
class AuditContext:
    """The rows under audit and what can be computed from them, shared by all checks of one run."""

    samples: pd.DataFrame  # columns of records.SAMPLES, index 0…N-1, sorted by sample_id
    annotations: pd.DataFrame  # columns of records.ANNOTATIONS, index 0…M-1; without votes
    schema: LabelSchema
    images: ImageAccess
    embeddings: Callable[[], npt.NDArray[np.float32]]  # () → (N, D); a row of NaN where there is no readable image
    probabilities: pd.DataFrame | None = (
        None  # index sample_id, one column a class: out-of-sample, supplied by the user
    )
    votes: pd.DataFrame = field(default_factory=ANNOTATIONS.empty_table().to_pandas)  # answers merged into annotations
    detections: pd.DataFrame | None = None  # columns of audits.detections: a detector's boxes, supplied by the user
    baseline: Baseline | None = None  # what drift is measured from
    ingest_findings: Callable[[], list[dict[str, Any]]] = (
        list  # what ingest found at fault, as dicts of records.Finding
    )
    personal_detector: Callable[[], Predictor] | None = (
        None  # opens what looks for faces and plates; None: nothing does
    )
    seed: int = 0
    jobs: int = 1
    progress: Progress = no_progress
    memo: dict[str, Any] = field(default_factory=dict)  # what one check worked out and others need too

    @property
    def at_hand(self) -> npt.NDArray[np.bool_]:
        """(N,): whose image could be read when it was ingested."""
        return self.samples["sha256"].notna().to_numpy(np.bool_, copy=True)


@dataclass
class CheckResult:
    """`scores` has the columns sample_id, annotation_id (null where the score is of the image) and score in [0, 1], 1 = clean."""

    findings: list[Finding]
    scores: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=["sample_id", "annotation_id", "score"]))
    summary: dict[str, Any] = field(default_factory=dict)  # JSON-able; shown in the report and the audit record


def skipped(reason: str) -> CheckResult:
    """Of a check that the version lacks what it needs for."""
    return CheckResult([], summary={"skipped": reason})


class Check(Protocol):
    """A plugin of the entry-point group `datasetops.checks`."""

    name: str
    title: str  # a few words for people
    needs: str  # "labels", "images", "embeddings", … in words, for `dsops audit --list`
    cost: str  # the same for its time: what it grows with, and how much of it

    def run(self, context: AuditContext) -> CheckResult: ...
