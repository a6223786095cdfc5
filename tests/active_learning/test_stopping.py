"""What the next batch will bring: on curves whose next gain is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm

from datasetops.active_learning.stopping import NextGain, least_gain_of, next_gain, verdict

CURVES: dict[str, Callable[[Any], Any]] = {
    "power": lambda n: 0.9 - 1.2 * n**-0.4,
    "slow": lambda n: 0.95 - 0.9 * n**-0.15,
    "fast": lambda n: 0.85 - 8 * n**-1.0,
    "saturating": lambda n: 0.85 - 0.5 * np.exp(-n / 300),
    "flat": lambda n: 0 * n + 0.8,
    "logarithm": lambda n: 0.3 + 0.08 * np.log(n),
}


def rounds_of(curve: Callable[[Any], Any], count: int, seed: int, items: int = 500) -> tuple[NextGain, float]:
    """The next gain from rounds judged on the same items, whose errors go together; and the true one."""
    rng = np.random.default_rng(seed)
    batch = 900 // count
    labels = 100.0 + batch * np.arange(count)
    hardness, luck = rng.normal(size=(items, 1)), rng.normal(size=(items, count))
    right = (0.8 * hardness + 0.6 * luck < norm.ppf(curve(labels))).astype(float)
    covariance = np.cov(right, rowvar=False) / items
    found = next_gain(labels, right.mean(axis=0), covariance, batch)
    return found, float(curve(labels[-1] + batch) - curve(labels[-1]))


@pytest.mark.slow
@pytest.mark.parametrize("count", [3, 6, 10])
@pytest.mark.parametrize("name", sorted(CURVES))
def test_the_interval_holds_the_true_gain_as_often_as_it_says(name: str, count: int) -> None:
    """Nominally 95 %, measured 94 to 99 % over 200 draws; 0.90 is three standard errors of the simulation below."""
    tried = [rounds_of(CURVES[name], count, seed) for seed in range(200)]
    inside = [found.gain.low - 1e-9 <= truth <= found.gain.high + 1e-9 for found, truth in tried if found.gain]
    assert len(inside) == 200
    assert np.mean(inside) >= 0.90


def test_a_curve_without_noise_is_continued() -> None:
    labels = np.array([100.0, 200, 300, 400, 500])
    found = next_gain(labels, CURVES["power"](labels), np.full(5, 1e-4), 100)
    truth = CURVES["power"](600.0) - CURVES["power"](500.0)
    assert found.how == "curve"
    assert found.gain is not None
    assert found.gain.low <= truth <= found.gain.high
    assert found.gain.value == pytest.approx(truth, abs=0.001)
    wide = next_gain(labels, CURVES["power"](labels), np.full(5, 0.02), 100).gain
    assert wide is not None
    assert wide.high - wide.low > found.gain.high - found.gain.low


def test_two_rounds_give_an_upper_limit_and_one_gives_nothing() -> None:
    two = next_gain([100, 200], [0.5, 0.6], [0.01, 0.01], 50)
    assert two.how == "last slope"
    assert two.gain is not None
    assert (two.gain.value, two.gain.low) == (pytest.approx(0.05), 0)
    assert two.gain.high == pytest.approx((0.1 + 1.96 * 0.01 * 2**0.5) / 2, rel=1e-3)
    assert verdict(two).pays is None
    assert verdict(next_gain([100, 200], [0.5, 0.5], [1e-4, 1e-4], 50)).pays is False
    for few in ([], [100.0]):
        nothing = verdict(next_gain(few, [0.5] * len(few), [0.01] * len(few), 50))
        assert (nothing.pays, nothing.expected.gain) == (None, None)
        assert "Nothing can be said" in nothing.words


def test_it_says_stop_only_where_the_interval_does() -> None:
    labels = np.arange(1, 11) * 100.0
    steep, even = CURVES["logarithm"](labels), np.full(10, 0.8)
    go_on = verdict(next_gain(labels, steep, np.full(10, 0.001), 100))
    assert go_on.pays is True
    assert go_on.ends is not None
    assert 1_000 < go_on.ends.low <= go_on.ends.value <= go_on.ends.high
    assert verdict(next_gain(labels, even, np.full(10, 0.001), 100)).pays is False
    assert verdict(next_gain(labels, even, np.full(10, 0.2), 100)).pays is None


def test_it_does_not_say_stop_where_the_rounds_were_measured_too_coarsely() -> None:
    """The metric fell by chance, and a curve that may only rise is then sure to be flat."""
    labels = np.arange(1, 8) * 40.0 + 100
    metric = 0.8 - 0.02 * (labels > 300)
    coarse = verdict(next_gain(labels, metric, np.full(7, 0.012), 40))
    assert coarse.expected.gain is not None
    assert coarse.expected.gain.high < coarse.least
    assert coarse.pays is None
    assert "it cannot be told yet" in coarse.words
    assert verdict(next_gain(labels, metric, np.full(7, 0.012), 40), 0.05).pays is False


def test_what_a_batch_should_bring_is_told_in_plain_figures() -> None:
    flat = next_gain(np.arange(1, 11) * 100.0, np.full(10, 0.8), np.full(10, 0.001), 100)
    assert "less than the 610 points" in verdict(flat, 6.1).words
    assert "less than the 0.5 points" in verdict(flat).words


def test_minutes_become_a_gain() -> None:
    assert least_gain_of(minutes=60, worth=120) == pytest.approx(0.005)
    with pytest.raises(ValueError, match="more than 0"):
        least_gain_of(0, 1)
    with pytest.raises(ValueError, match="ascending"):
        next_gain([100, 100], [0.5, 0.5], [0.1, 0.1], 10)
    with pytest.raises(ValueError, match="least gain"):
        verdict(next_gain([100], [0.5], [0.1], 10), 0)
