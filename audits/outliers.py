"""Images unlike all others, by their distance to their nearest neighbours in embedding space."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from datasetops.audits.base import AuditContext, CheckResult
from datasetops.audits.charts import histogram
from datasetops.audits.neighbours import nearest
from datasetops.audits.probe import principal_components
from datasetops.records import Finding

_NEIGHBOURS = 10
_FAR = 5.0  # robust deviations of log distance above the median
_FEWEST = 50  # images; among fewer there is no telling what is usual


class Outlier:
    name = "outlier"
    title = "images unlike all others"
    needs = "images"

    def run(self, context: AuditContext) -> CheckResult:
        if int(context.samples["sha256"].notna().sum()) < _FEWEST:
            return CheckResult([], summary={"skipped": f"fewer than {_FEWEST} images at hand"})
        embeddings = context.embeddings()
        usable = np.flatnonzero(np.isfinite(embeddings).all(axis=1))
        if len(usable) < _FEWEST:
            return CheckResult([], summary={"skipped": f"fewer than {_FEWEST} readable images"})
        found = nearest(
            principal_components(embeddings[usable], context.seed),
            _NEIGHBOURS,
            metric="cosine",
            jobs=context.jobs,
            seed=context.seed,
            progress=context.progress,
        )
        distance = found.distances.mean(axis=1).astype(np.float64)
        deviation = robust_deviations(distance)
        scores = 1 / (1 + np.exp(deviation - _FAR))
        rows = context.samples.iloc[usable]
        findings = [
            Finding(
                self.name,
                "low",
                float(scores[i]),
                f"unlike its nearest neighbours: {deviation[i]:.1f} deviations farther than usual",
                sample_id=rows["sample_id"].iloc[i],
                uri=rows["uri"].iloc[i],
                split=rows["split"].iloc[i],
                related=tuple(rows["sample_id"].iloc[found.indices[i, :3]]),
            )
            for i in np.flatnonzero(deviation > _FAR)
        ]
        table = pd.DataFrame({"sample_id": rows["sample_id"], "annotation_id": None, "score": scores})
        top = float(max(distance.max(), 1e-6))
        counts = np.histogram(distance, bins=30, range=(0, top))[0].tolist()
        charts = [histogram(f"Mean distance to the {_NEIGHBOURS} nearest images", counts, 0, round(top, 3))]
        return CheckResult(findings, table, {"images": len(usable), "charts": charts})


def robust_deviations(distance: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """How far the logarithm of each distance lies above the median, in deviations estimated from the upper half.

    Distances (N,) are positive; copies have nearly none, so the lower half says little about what is far.
    """
    log = np.log(np.maximum(distance, 1e-9))
    middle = np.median(log)
    upper = log[log > middle] - middle
    spread = np.median(upper) / 0.6745 if len(upper) else 0.0
    result: npt.NDArray[np.float64] = (log - middle) / max(spread, 1e-6)
    return result
