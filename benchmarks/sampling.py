"""Planning and judging a random sample of a lot of 100 million items: exact bounds, no matter how large the lot is.

    python benchmarks/sampling.py

Each time is the median of five runs in one process, after one that is not counted. `agrees` compares the bound with
Clopper and Pearson's by statsmodels, which a lot of this size must come to.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

from ratios import record
from statsmodels.stats.proportion import proportion_confint

from datasetops.audits.sampling.bounds import Drawn, lower_bound, upper_bound
from datasetops.audits.sampling.plan import allocate, design

LOT = 100_000_000


def milliseconds(work: Callable[[], object]) -> float:
    work()
    taken = []
    for _ in range(5):
        start = time.perf_counter()
        work()
        taken.append(1000 * (time.perf_counter() - start))
    return median(taken)


def main() -> None:
    one, ten = Drawn((LOT,), (300,)), (LOT // 10,) * 10
    strata = Drawn(ten, allocate(ten, 300))
    low, high = proportion_confint(5, 300, alpha=0.1, method="beta")
    agrees = max(abs(upper_bound(5, one, 0.95) / LOT - high), abs(lower_bound(5, one, 0.95) / LOT - low))
    plan = design([LOT])
    rows = [
        ("plan, one stage", milliseconds(lambda: design([LOT], stages=1))),
        ("plan, two stages", milliseconds(lambda: design([LOT]))),
        ("plan, ten strata", milliseconds(lambda: design(ten))),
        ("operating characteristic", milliseconds(plan.operating_characteristic)),
        ("both bounds", milliseconds(lambda: (upper_bound(5, one, 0.95), lower_bound(5, one, 0.95)))),
        ("both bounds, ten strata", milliseconds(lambda: (upper_bound(5, strata, 0.95), lower_bound(5, strata, 0.95)))),
        ("statsmodels, Clopper-Pearson", milliseconds(lambda: proportion_confint(5, 300, alpha=0.1, method="beta"))),
    ]
    took = dict(rows)
    peer = "statsmodels, Clopper-Pearson: a lot without end"
    record(f"both bounds of {LOT:,} items", took["both bounds"], peer, took["statsmodels, Clopper-Pearson"], "ms")
    print(f"A lot of {LOT:,} items\n\n| work | milliseconds |\n|---|---|")
    for name, value in rows:
        print(f"| {name} | {value:.3g} |")
    print(f"\nBounds agree with statsmodels within {agrees:.1e}.")


if __name__ == "__main__":
    main()
