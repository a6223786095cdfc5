from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, log_loss

from datasetops.evaluation.calibration import (
    brier,
    calibration,
    cross_fitted,
    fit_temperature,
    nll,
    reliability,
    with_temperature,
)


def sampled(n: int = 4_000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of four classes, and classes drawn from them: calibrated by making."""
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.full(4, 0.5), size=n)
    truth = (rng.random((n, 1)) > probabilities.cumsum(axis=1)).sum(axis=1)
    return probabilities, np.minimum(truth, 3)


def test_by_hand() -> None:
    confidence = np.array([0.95, 0.95, 0.55, 0.65])
    right = np.array([True, False, True, True])
    bins = reliability(confidence, right, bins=10)
    assert [(one.count, one.accuracy) for one in bins] == [(1, 1.0), (1, 1.0), (2, 0.5)]
    probabilities = np.stack([confidence, 1 - confidence], axis=1)
    found = calibration(probabilities, np.where(right, 0, 1), bins=10)
    assert found.ece == pytest.approx((0.45 + 0.35 + 2 * 0.45) / 4)
    assert sum(one.count for one in found.bins) == 4


def test_bins_of_equal_mass_hold_as_many_each() -> None:
    confidence = np.linspace(0.3, 0.99, 150)
    bins = reliability(confidence, np.ones(150, bool), bins=15, equal_mass=True)
    assert {one.count for one in bins} == {10}
    assert reliability(np.full(50, 0.7), np.ones(50, bool), equal_mass=True)[0].count == 50


def test_proper_scores_are_those_of_scikit_learn() -> None:
    probabilities, truth = sampled(500)
    assert nll(probabilities, truth) == pytest.approx(log_loss(truth, probabilities, labels=range(4)))
    two = np.stack([probabilities[:, 0], 1 - probabilities[:, 0]], axis=1)
    is_other = (truth != 0).astype(np.int64)
    assert brier(two, is_other) == pytest.approx(2 * brier_score_loss(is_other, two[:, 1]))


def test_a_temperature_that_was_put_in_is_found_again() -> None:
    probabilities, truth = sampled()
    sharpened = with_temperature(probabilities, 1 / 2.5)
    assert fit_temperature(sharpened, truth) == pytest.approx(2.5, rel=0.05)
    assert fit_temperature(probabilities, truth) == pytest.approx(1.0, rel=0.05)
    assert np.allclose(with_temperature(probabilities, 1.0), probabilities)
    assert np.array_equal(sharpened.argmax(axis=1), probabilities.argmax(axis=1))


def test_scaling_by_the_other_half_mends_what_was_too_sure() -> None:
    probabilities, truth = sampled()
    half = np.arange(len(truth)) % 2 == 0
    found = cross_fitted(with_temperature(probabilities, 0.4), truth, half)
    assert found.before.ece > 0.1
    assert found.after.ece < 0.03
    assert found.after.nll < found.before.nll


def test_nothing_to_judge() -> None:
    found = calibration(np.zeros((0, 3)), np.zeros(0, np.int64))
    assert np.isnan([found.ece, found.brier, found.nll]).all()
    assert found.bins == ()
    assert fit_temperature(np.zeros((0, 3)), np.zeros(0, np.int64)) == 1.0
