"""Images unlike all others, by their distance to the tenth nearest of them in embedding space.

Ramaswamy, Rastogi and Shim, "Efficient algorithms for mining outliers from large data sets", SIGMOD 2000.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from datasetops.audits.base import AuditContext, CheckResult, skipped
from datasetops.audits.charts import histogram
from datasetops.audits.images.neighbours import nearest
from datasetops.audits.samplewise import SampleFindings, sample_scores

Floats: TypeAlias = npt.NDArray[np.float32]

_NEIGHBOURS = 10  # that many images of one odd kind are still odd: each has fewer of its own around it
_FEWEST = 50  # images; among fewer there is no telling what is usual
_DIMENSIONS = 1024
_BLOCK = 4096


class Outlier:
    name = "outlier"
    title = "images unlike all others"
    needs = "images"
    cost = "the embeddings; neighbours grow a little faster than the samples"

    def run(self, context: AuditContext) -> CheckResult:
        samples = context.samples
        if context.at_hand.sum() < _FEWEST:
            return skipped(f"fewer than {_FEWEST} images at hand")
        vectors = projected(context.embeddings(), context.seed)
        usable = np.asarray(np.isfinite(vectors).all(axis=1))
        rows = np.flatnonzero(usable)
        if len(rows) < _FEWEST:
            return skipped(f"fewer than {_FEWEST} readable images")
        found = nearest(
            vectors[rows],
            _NEIGHBOURS,
            metric="cosine",
            jobs=context.jobs,
            seed=context.seed,
            progress=context.progress,
        )
        distance = found.distances[:, -1].astype(np.float64)
        deviation = robust_deviations(distance)
        far = far_from(len(rows))
        about = SampleFindings(self.name, samples)
        score = np.zeros(len(samples))
        score[rows] = 1 / (1 + np.exp(np.clip(deviation - far, -50, 50)))
        findings = [
            about.at(
                int(rows[i]),
                "low",
                score[rows[i]],
                f"unlike its nearest neighbours: {deviation[i]:.1f} deviations farther than usual",
                related=tuple(about.ids[rows[found.indices[i, :3]]]),
            )
            for i in np.flatnonzero(deviation > far)
        ]
        finite = distance[np.isfinite(distance)]
        top = float(max(finite.max(initial=0), 1e-6))
        counts = np.histogram(finite, bins=30, range=(0, top))[0].tolist()
        charts = [histogram(f"Distance to the {_NEIGHBOURS}th nearest image", counts, 0, round(top, 3))]
        summary = {"images": len(rows), "deviations asked for": round(far, 2), "charts": charts}
        return CheckResult(findings, sample_scores(samples, usable, score), summary)


def projected(embeddings: Floats, seed: int) -> Floats:
    """Embeddings (N, D) on at most 1,024 random directions, which keep cosines to a few hundredths.

    Not on principal ones: what is odd often lies outside them. Johnson and Lindenstrauss (1984).
    """
    width = embeddings.shape[1]
    if width <= _DIMENSIONS:
        return embeddings
    directions = np.random.default_rng(seed).standard_normal((width, _DIMENSIONS), dtype=np.float32)
    out = np.empty((len(embeddings), _DIMENSIONS), dtype=np.float32)
    for start in range(0, len(embeddings), _BLOCK):
        out[start : start + _BLOCK] = embeddings[start : start + _BLOCK] @ directions
    return out


def far_from(images: int) -> float:
    """Deviations that, log distances being normal, one of so many usual images is expected to reach by chance."""
    from scipy.stats import norm

    return float(norm.isf(1 / images))


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
