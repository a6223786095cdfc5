"""A detector's second look: what a region that may be an object really is, by kernel ridge regression in closed form.

Random landmarks stand for all regions (Williams and Seeger, "Using the Nyström method to speed up kernel machines", NIPS
2000). What is wanted of a region rises with its overlap with an object, so that well placed ones come first.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from datasetops.audits.detector.cells import Regions
from datasetops.audits.detector.maps import Maps, seen_in_regions
from datasetops.identity import pairwise_iou

Floats: TypeAlias = npt.NDArray[np.float32]
Halves: TypeAlias = npt.NDArray[np.float16]
Corners: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]

_COMPONENTS: Final = 300
_LANDMARKS: Final = 2_000
_RIDGES: Final = (1.0, 3.0, 10.0, 30.0)  # the one of the least squared error on other folds' labels is taken
_NOTHING, _OBJECT = 0.3, 0.7  # overlap with an object up to which nothing is wanted, and from which all


class RegionHead:
    """Learns from the regions of all folds, then judges those of each by what the others taught.

    `ridge` and `loss`, the squared error up to a constant, are those that were chosen.
    """

    def __init__(self, sample: Floats, classes: int, folds: int, rng: np.random.Generator) -> None:
        """`sample` (N, D): what is seen in some regions, to learn without labels what varies there."""
        from scipy.linalg import cholesky, solve_triangular

        self._mean, deviation = sample.mean(axis=0), np.maximum(sample.std(axis=0), 1e-3)
        scaled = (sample - self._mean) / deviation
        axes = np.linalg.eigh(scaled.T @ scaled)[1]
        self._axes = np.ascontiguousarray(axes[:, ::-1][:, :_COMPONENTS]) / deviation[:, None]
        reduced = self.reduce(sample)
        self._landmarks = reduced[np.sort(rng.permutation(len(reduced))[:_LANDMARKS])].astype(np.float32)
        width = np.median(_squared_distances(reduced[:1000].astype(np.float32), self._landmarks))
        self._width = np.float32(width or 1.0)
        between = np.exp(_squared_distances(self._landmarks, self._landmarks) / -self._width).astype(np.float64)
        between[np.diag_indices_from(between)] += 1e-4  # landmarks may be copies of each other
        factor = cholesky(between, lower=True)
        self._inverse = solve_triangular(factor, np.eye(len(factor)), lower=True).T.astype(np.float32)
        count = len(self._landmarks) + 1
        self._products = np.zeros((folds, count, count), dtype=np.float32)
        self._answers = np.zeros((folds, count, classes), dtype=np.float32)

    def reduce(self, seen: Floats) -> Halves:
        """(N, D) → (N, d), what the other methods take."""
        reduced: Floats = (seen - self._mean) @ self._axes
        return reduced.astype(np.float16)

    def learn(self, reduced: Halves, fold: int, wanted: Floats) -> None:
        """Regions of one image and what is wanted of them (N, classes)."""
        features = self._kernel(reduced)
        features[:, :-1] = features[:, :-1] @ self._inverse
        self._products[fold] += features.T @ features
        self._answers[fold] += features.T @ wanted

    def fit(self) -> None:
        """After all regions were learned from."""
        products, answers = self._products.sum(axis=0), self._answers.sum(axis=0)
        self.loss = float("inf")
        for ridge in _RIDGES:
            weights = [
                _solved(products - own, answers - told, ridge)
                for own, told in zip(self._products, self._answers, strict=True)
            ]
            loss = sum(
                float(((own @ one - 2 * told) * one).sum())
                for one, own, told in zip(weights, self._products, self._answers, strict=True)
            )
            if loss < self.loss:
                self.loss, self.ridge, self._weights = loss, ridge, weights
        for one in self._weights:
            one[:-1] = self._inverse @ one[:-1]
        del self._products, self._answers

    def judge(self, reduced: Halves, fold: int) -> Floats:
        """Answers (N, classes), about 1 for a well placed object of the class and 0 for none."""
        result: Floats = self._kernel(reduced) @ self._weights[fold]
        return result

    def _kernel(self, reduced: Halves) -> Floats:
        """(N, landmarks + 1): likeness to the landmarks, and a one."""
        apart = _squared_distances(reduced.astype(np.float32), self._landmarks)
        return np.concatenate([np.exp(apart / -self._width), np.ones((len(reduced), 1), dtype=np.float32)], axis=1)


def region_features(maps: Maps, regions: Regions) -> Floats:
    """What is seen in regions, and how large they are: (N, REGION + 2)."""
    sides = np.log(np.maximum(regions.corners[:, 2:] - regions.corners[:, :2], 1.0))
    return np.concatenate([seen_in_regions(maps, regions.corners), sides.astype(np.float32)], axis=1)


def wanted_of_regions(regions: Regions, corners: Corners, label: Ints, classes: int) -> Floats:
    """(N, classes) in [0, 1], by the overlap with the given boxes (M, 4) of each class."""
    wanted = np.zeros((len(regions.corners), classes), dtype=np.float32)
    overlap = np.clip((pairwise_iou(regions.corners, corners) - _NOTHING) / (_OBJECT - _NOTHING), 0, 1)
    for one in np.unique(label):
        wanted[:, one] = overlap[:, label == one].max(axis=1)
    return wanted


def _solved(left: Floats, right: Floats, ridge: float) -> Floats:
    from scipy.linalg import cho_factor, cho_solve

    left = left.copy()
    left[np.diag_indices(len(left))] += np.float32(ridge)
    result: Floats = cho_solve(cho_factor(left, overwrite_a=True), right)
    return result


def _squared_distances(one: Floats, other: Floats) -> Floats:
    result: Floats = (one**2).sum(axis=1)[:, None] + (other**2).sum(axis=1)[None, :] - 2 * one @ other.T
    return np.maximum(result, 0, out=result)
