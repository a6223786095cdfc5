"""The stop rule on what the rounds bought: does the next batch pay?"""

from __future__ import annotations

import numpy as np

from datasetops.active_learning.bought import Report
from datasetops.active_learning.stopping import LEAST_GAIN, Verdict, least_gain_of, next_gain, verdict


def next_batch(
    report: Report, *, n: int | None = None, least_gain: float | None = None, worth: float | None = None
) -> Verdict:
    """Whether the next `n` labels (as many as the last round brought, unless told) bring at least `least_gain`.

    With `worth`, minutes that a hundredth of the metric is worth, the least gain is what pays for the batch's minutes,
    at the pace of all rounds so far. Raises ValueError where that pace is not known.
    """
    came = [item for item in report.rounds if item.labeled]
    batch = n or (came[-1].labeled if came else max(1, report.rounds[-1].items if report.rounds else 1))
    least = LEAST_GAIN if least_gain is None else least_gain
    if worth is not None:
        timed = [item for item in came if item.minutes]
        if not timed:
            raise ValueError("worth: no answer so far tells how long it took; give a least gain instead")
        pace = sum(item.minutes or 0.0 for item in timed) / sum(item.labeled for item in timed)
        least = least_gain_of(pace * batch, worth)
    return verdict(
        next_gain(report.labels, report.metric, np.reshape(report.covariance, (len(report.labels),) * 2), batch), least
    )
