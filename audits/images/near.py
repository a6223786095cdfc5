"""Pairs of images that show the same shot: recompressed, resized, cropped a little, brightened, mirrored or turned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from datasetops.audits.base import AuditContext
from datasetops.audits.images.neighbours import nearest
from datasetops.audits.images.perceptual import Pictures, pictures, spectra, transform, upright
from datasetops.audits.images.registration import align
from datasetops.audits.images.stored import StoredImages
from datasetops.errors import NotFoundError
from datasetops.manifest import Repository, Version
from datasetops.progress import Progress, no_progress
from datasetops.records import ANNOTATIONS

Floats: TypeAlias = npt.NDArray[np.float32]
Ints: TypeAlias = npt.NDArray[np.int64]

NEIGHBOURS = 16  # candidates for each image; a cluster of more copies hangs together through those
_COARSE = 0.25  # correlation of coarse structure below which no pair is looked at
_SHARED = (0.5, 0.95)  # share of the detail's variance that near-duplicates have in common: at least, and surely
_FEWEST = 64  # pairs of unlike images from which a threshold can be learned
_CERTAIN = 0.9  # correlation of detail asked for where the data cannot say what is usual
_HEAVY = 1.5  # times the deviation seen in the body of a distribution, beyond which its tail is not of the same kind
_BACKGROUND = 2000  # pairs of unlike images that the threshold is learned from
_CHUNK = 8192  # pairs at a time


@dataclass(frozen=True)
class NearPairs:
    """Rows of near-duplicates and how alike they are.

    `indices` (P, 2), the lesser row first, sorted; `similarity` (P,) in (0, 1], correlation of fine detail; `threshold`
    that they reached; `compared` images, `unreadable` rows; `recall` of the search for candidates.
    Of byte-identical images only the first takes part.
    """

    indices: Ints
    similarity: Floats
    threshold: float
    compared: int
    unreadable: Ints
    recall: float


def near_pairs(context: AuditContext) -> NearPairs:
    """Near-duplicates among a context's images, found once and kept with the context."""
    if "near_pairs" not in context.memo:
        context.memo["near_pairs"] = _near_pairs(context)
    found: NearPairs = context.memo["near_pairs"]
    return found


def look_alikes(
    repository: Repository, version: Version, *, progress: Progress = no_progress
) -> tuple[npt.NDArray[np.object_], int]:
    """Near-duplicates of a version as pairs of sample ids (P, 2), and how many images could not be read.

    Raises NotFoundError where none can.
    """
    samples = version.table("samples").to_pandas()
    images = StoredImages(repository, samples["uri"].tolist())
    context = AuditContext(
        samples=samples,
        annotations=ANNOTATIONS.empty_table().to_pandas(),
        schema=version.schema,
        images=images,
        embeddings=lambda: np.empty((len(samples), 0), np.float32),
        jobs=repository.settings.jobs,
        progress=progress,
    )
    found = near_pairs(context) if samples["sha256"].notna().any() else None
    if found is None or not found.compared:
        why = next(iter(images.faults.values()), "there are none.")
        remedy = "Put the images back, ingest them from where they are now, or leave out --look-alikes."
        raise NotFoundError(f"No image of {version.name} can be looked at: {why}", remedy=remedy)
    return samples["sample_id"].to_numpy(object)[found.indices], len(found.unreadable)


def _near_pairs(context: AuditContext) -> NearPairs:
    digests = context.samples["sha256"]
    rows = np.flatnonzero(digests.notna() & ~digests.duplicated())
    shown, readable = pictures(context.images, rows, jobs=context.jobs, progress=context.progress)
    vectors, owner, symmetry = upright(spectra(shown))
    found = nearest(
        vectors, NEIGHBOURS, metric="cosine", jobs=context.jobs, seed=context.seed, progress=context.progress
    )
    first, place = np.nonzero((found.indices >= 0) & (found.distances <= 1 - _COARSE))
    second = found.indices[first, place]
    first, second = _distinct(owner, first, second, found.distances[first, place])
    detail = _details(shown, owner, symmetry, first, second, context.jobs, context.progress)
    background = _background(found.indices, owner, np.random.default_rng(context.seed))
    unlike = _details(shown, owner, symmetry, *background, context.jobs)
    threshold = detail_threshold(unlike, len(first))
    near = detail >= threshold
    pairs = np.sort(np.stack([rows[owner[first[near]]], rows[owner[second[near]]]], axis=1), axis=1)
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))
    return NearPairs(pairs[order], detail[near][order], threshold, int(readable.sum()), rows[~readable], found.recall)


def detail_threshold(unlike: Floats, pairs: int) -> float:
    """The correlation of detail from which a pair is a near-duplicate: its square lies in _SHARED.

    `unlike` (B,): correlations of pairs of the same data that are alike but no duplicates. Were all `pairs` that are
    tested of this kind, one false alarm would be expected at most (Desolneux, Moisan and Morel, "Meaningful
    alignments", IJCV 40, 2000), Fisher's z of correlations being normal. Where images are all much alike, such as
    digits or X-rays, this asks for more than half of the detail's variance, which is the least in any case; of fewer
    than 64 such pairs nothing is learned, and 0.9 is asked for.
    """
    from scipy.stats import norm

    least, most = np.sqrt(_SHARED)
    if len(unlike) < _FEWEST:  # too few images to tell how alike unlike ones are
        return _CERTAIN
    z = np.arctanh(np.clip(unlike, 0, 0.9999))
    middle, high, higher = np.quantile(z, [0.5, 0.9, 0.975])
    body, tail = (high - middle) / norm.ppf(0.9), (higher - middle) / norm.ppf(0.975)
    deviation = min(tail, _HEAVY * body)  # a tail far heavier than the body holds duplicates, of large clusters
    return float(np.clip(np.tanh(middle + deviation * norm.isf(1 / max(pairs, 2))), least, most))


def _distinct(owner: Ints, first: Ints, second: Ints, distance: Floats) -> tuple[Ints, Ints]:
    """Of each pair of images the nearest pair of their vectors."""
    a, b = owner[first], owner[second]
    key = np.minimum(a, b) * (owner.max(initial=0) + 1) + np.maximum(a, b)
    order = np.lexsort((distance, key))
    order = order[a[order] != b[order]]
    order = order[np.diff(key[order], prepend=-1) != 0]
    return first[order], second[order]


def _background(indices: Ints, owner: Ints, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """For sampled vectors the last of their neighbours: still alike, but beyond all but the largest clusters."""
    sampled = rng.permutation(len(indices))[:_BACKGROUND]
    known = indices[sampled] >= 0
    sampled, known = sampled[known.any(axis=1)], known[known.any(axis=1)]
    last = indices[sampled, known.sum(axis=1) - 1]
    other = owner[last] != owner[sampled]
    return sampled[other], last[other]


def _details(
    shown: Pictures,
    owner: Ints,
    symmetry: Ints,
    first: Ints,
    second: Ints,
    jobs: int,
    progress: Progress = no_progress,
) -> Floats:
    """Correlation of detail of the pictures behind pairs of vectors, each turned as its vector is."""
    out = np.empty(len(first), dtype=np.float32)
    starts = range(0, len(first), _CHUNK)
    for start in progress(starts, len(starts), "Comparing images that look alike"):
        span = slice(start, start + _CHUNK)
        a, b = (_turned(shown, owner[side[span]], symmetry[side[span]]) for side in (first, second))
        out[span] = align(a, b, jobs=jobs).detail
    return out


def _turned(shown: Pictures, rows: Ints, symmetry: Ints) -> Pictures:
    out = shown[rows]
    for one in np.unique(symmetry):
        out[symmetry == one] = transform(out[symmetry == one], int(one))
    return out
