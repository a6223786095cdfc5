"""Training: a probe on embeddings beside scikit-learn's logistic regression, each in a process of its own.

    python benchmarks/training.py                  # a Markdown table
    python benchmarks/training.py --json
    python benchmarks/training.py --rows 10000 --columns 320

50,000 x 1,280 rows of 10 classes and 10,000 more to judge by: classes of equal covariance with a spectrum that falls like
that of a network's activations, and 5 % wrong labels among those that are learned from. dsops chooses method and strength
by cross-validation on some of the rows, which is part of its seconds; scikit-learn is given standardised rows and the
better of two strengths, each a contender of its own, and its seconds are those of that one fit.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from contenders import compare, measure, race, report

CLASSES = 10
STRENGTHS = {"scikit-learn, C = 1": 1.0, "scikit-learn, C = 0.001": 0.001}
METHODS = {"dsops, auto": "auto", "dsops, logistic": "logistic"}


def rows(number: int, columns: int, seed: int) -> tuple[Any, Any]:
    """Embeddings (N, D) float32 and classes (N,)."""
    rng = np.random.default_rng(seed)
    fixed = np.random.default_rng(12345)  # the classes themselves are the same for rows to learn from and to judge by
    spread = 1 / np.sqrt(1 + np.arange(columns) / 8)
    turn = np.linalg.qr(fixed.standard_normal((columns, columns)))[0].astype(np.float32)
    middles = fixed.standard_normal((CLASSES, columns)) * spread * 0.12
    y = rng.integers(0, CLASSES, number)
    x = (middles[y] + rng.standard_normal((number, columns)) * spread).astype(np.float32) @ turn
    return x + np.float32(0.5), y


def work(contender: str, number: int, columns: int) -> Mapping[str, Any]:
    x, y = rows(number, columns, 0)
    test_x, test_y = rows(10_000, columns, 1)
    rng = np.random.default_rng(2)
    wrong = rng.random(number) < 0.05
    given = np.where(wrong, rng.integers(0, CLASSES, number), y)
    found: dict[str, Any] = {}

    def fit() -> dict[str, Any]:
        start = time.perf_counter()
        if contender in METHODS:
            from datasetops.training.linear import fit_linear

            method = METHODS[contender]
            fitted = fit_linear(x, given, CLASSES, np.ones(number), np.arange(number), method=method, seed=0)
            found.update(fitted.chosen, predicted=fitted.scores(test_x).argmax(axis=1))
            found.pop("log_loss")
        else:
            from sklearn.linear_model import LogisticRegression
            from sklearn.preprocessing import StandardScaler

            scaler = StandardScaler().fit(x)
            model = LogisticRegression(C=STRENGTHS[contender], max_iter=1000).fit(scaler.transform(x), given)
            found.update(predicted=model.predict(scaler.transform(test_x)), steps=int(model.n_iter_.max()))
        return {"fit_seconds": time.perf_counter() - start}

    told = measure(fit)
    return told | {"accuracy": float((found.pop("predicted") == test_y).mean())} | found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--columns", type=int, default=1280)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--contender")
    chosen = parser.parse_args()
    if chosen.contender:
        import json

        print(json.dumps(work(chosen.contender, chosen.rows, chosen.columns)))
        return
    sizes = ["--rows", str(chosen.rows), "--columns", str(chosen.columns)]
    found = race(__file__, [*METHODS, *STRENGTHS], sizes, rounds=chosen.rounds)
    for method in METHODS:
        what = f"probe of {chosen.rows:,} x {chosen.columns}, {method.partition(', ')[2]}"
        for peer in STRENGTHS:
            compare(found, what, method, peer, peer, figure="fit_seconds")
            compare(found, what, method, peer, peer, figure="accuracy", unit="accuracy", more_is_better=True)
    report({"rows": chosen.rows, "columns": chosen.columns}, found, as_json=chosen.json)


if __name__ == "__main__":
    main()
