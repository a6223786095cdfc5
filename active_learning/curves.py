"""What a simulation shows: mean curves with intervals, gains over chance in pairs, labels that a target takes."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from datasetops.active_learning.pool import Floats, Ints
from datasetops.active_learning.replays import Simulation

CONFIDENCE: Final = 0.95
_DRAWS: Final = 1_000  # of the seeds, with replacement
_CHANCE: Final = "random"


def summary(simulation: Simulation, target: float | None = None) -> dict[str, Any]:
    """All figures of a simulation, fit for JSON. `target` is one of what is measured, in (0, 1].

    Of each strategy: `mean`, `low` and `high` at each budget; `area`, the mean over the budgets, and `area_log`, over
    the logarithm of the labels; `gain` of each of these over chance, with the same seed's chance taken from each run;
    `reaches_random`, labels that give what chance has at the last budget, and `reaches_target`. Intervals are Student's
    t over the seeds, of labels percentiles over 1,000 draws of the seeds; null where there is a single seed.
    """
    budgets = np.array(simulation.budgets, dtype=np.float64)
    chance = simulation.measured(_CHANCE) if _CHANCE in simulation.strategies else None
    told = {}
    for name in simulation.strategies:
        found = simulation.measured(name)
        one: dict[str, Any] = _interval(found) | _areas(found, budgets)
        one["reasons"] = list(next(run.reasons for run in simulation.runs if run.strategy == name))
        if chance is not None:
            one["gain"] = _interval(found - chance) | _areas(found - chance, budgets)
            one["reaches_random"] = _needed(found, budgets, chance[:, -1])
        if target is not None:
            one["reaches_target"] = _needed(found, budgets, np.full(len(found), target))
        told[name] = one
    return {
        "learner": simulation.learner,
        "measure": simulation.measure,
        "classes": simulation.classes,
        "pool": simulation.pool,
        "test": simulation.test,
        "seeds": simulation.seeds,
        "budgets": list(simulation.budgets),
        "target": target,
        "confidence": CONFIDENCE,
        "strategies": told,
        "notes": list(simulation.notes),
    }


def labels_needed(curve: Floats, budgets: Floats, target: float) -> float | None:
    """Labels at which a curve (B,) first reaches the target, between budgets by the logarithm of the labels.

    The first budget where the curve begins above; None where it never gets there.
    """
    above = np.flatnonzero(curve >= target)
    if not len(above):
        return None
    last = int(above[0])
    if last == 0:
        return float(budgets[0])
    share = (target - curve[last - 1]) / (curve[last] - curve[last - 1])
    return float(np.exp(np.log(budgets[last - 1]) * (1 - share) + np.log(budgets[last]) * share))


def _interval(values: Floats) -> dict[str, Any]:
    """Mean and interval of the mean of rows (seeds, budgets)."""
    mean = values.mean(axis=0)
    half = _half_width(values)
    return {
        "mean": _rounded(mean),
        "low": None if half is None else _rounded(mean - half),
        "high": None if half is None else _rounded(mean + half),
    }


def _half_width(values: Floats) -> Any:
    from scipy.stats import t

    seeds = len(values)
    if seeds < 2:
        return None
    return t.ppf((1 + CONFIDENCE) / 2, seeds - 1) * values.std(axis=0, ddof=1) / np.sqrt(seeds)


def _areas(values: Floats, budgets: Floats) -> dict[str, Any]:
    """Means over the budgets, and over the logarithm of the labels, each with its interval."""
    told: dict[str, Any] = {}
    logs = np.log(budgets)
    over_logs = np.trapezoid(values, logs, axis=1) / (logs[-1] - logs[0]) if len(budgets) > 1 else values[:, 0]
    for name, area in (("area", values.mean(axis=1)), ("area_log", over_logs)):
        half = _half_width(area)
        mean = float(area.mean())
        told[name] = round(mean, 6)
        told[f"{name}_interval"] = None if half is None else _rounded(np.array([mean - half, mean + half]))
    return told


def _needed(found: Floats, budgets: Floats, targets: Floats) -> dict[str, Any]:
    """Labels at which the mean curve reaches the mean target, with an interval; null for never."""
    rng = np.random.default_rng(0)
    drawn: list[float] = []
    draws: Ints = rng.integers(len(found), size=(_DRAWS, len(found)))
    for rows in draws if len(found) > 1 else ():
        labels = labels_needed(found[rows].mean(axis=0), budgets, float(targets[rows].mean()))
        drawn.append(np.inf if labels is None else labels)
    low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], method="nearest") if drawn else (0, 0)
    labels = labels_needed(found.mean(axis=0), budgets, float(targets.mean()))
    return {
        "labels": None if labels is None else round(labels),
        "interval": [round(one) if np.isfinite(one) else None for one in (low, high)] if drawn else None,
    }


def _rounded(values: Floats) -> list[float]:
    return [round(float(value), 6) for value in values]
