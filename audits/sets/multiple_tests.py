"""Correction of p-values for their number."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def holm(p_values: npt.ArrayLike, tests: int | None = None) -> npt.NDArray[np.float64]:
    """Adjusted p-values (N,), in the order given; of `tests` tests those that are not given have larger ones.

    Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6 (1979).
    """
    p: npt.NDArray[Any] = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    left = max(len(p), tests or 0) - np.arange(len(p))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * left))
    return adjusted
