"""How far a review is, and how many errors it has not met yet."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import numpy as np

from datasetops.audits.decisions import VERDICTS, Decision, DecisionLog
from datasetops.audits.people.agreement import agreement
from datasetops.audits.worklist import error_chance, review_seconds
from datasetops.review.items import ERROR, FINE, UNSEEN, UNSURE
from datasetops.review.queue import Queue
from datasetops.review.remaining import CONFIDENCE, remaining

_PAUSE: Final = 300.0  # seconds between two decisions after which a reviewer was away meanwhile


def progress(queue: Queue, log: DecisionLog | None = None) -> dict[str, Any]:
    """What was decided of a queue's findings, by whom, how fast, how alike, what is left and how many errors in it.

    JSON-able; as of the queue's last refresh, which a `log` asks for. `errors_left` is about the undecided findings of
    the queue, see review.remaining. `agreement` is of findings on which two or more said error or fine, None where there
    are none; alpha is Krippendorff's with its 95 % interval, None where it is undefined.
    """
    if log is not None:
        queue.refresh()
    made, state = queue.made(), queue.state
    decided = int((state >= FINE).sum())
    counts = np.bincount(queue.items.cells.codes[state < FINE], minlength=len(queue.items.cells.names))
    seconds = review_seconds(made)
    needed = sum(int(count) * seconds(check) for count, (check, _) in zip(counts, queue.items.cells.names, strict=True))
    verdicts = Counter(item.verdict for item in made)
    return {
        "total": queue.total,
        "decided": decided,
        "left": queue.total - decided,
        "by_verdict": {name: verdicts[name] for name in VERDICTS},
        "reviewers": reviewers(made),
        "agreement": agreed(made),
        "errors_left": errors_left(queue, made),
        "minutes_left": round(needed / 60, 1),
    }


def reviewers(made: Sequence[Decision]) -> list[dict[str, Any]]:
    """By reviewer, most decisions first: how many stand, how many a minute of work, and when the last was made.

    The pace counts the time between decisions, without pauses of five minutes or more; None where nothing tells.
    """
    times: dict[str, list[str]] = defaultdict(list)
    for item in made:
        times[item.actor].append(item.time)
    found = []
    for name, told in times.items():
        moments = sorted(datetime.fromisoformat(time).timestamp() for time in told if time)
        steps = np.diff(moments)
        worked = steps[steps < _PAUSE]
        pace = round(60 * len(worked) / float(worked.sum()), 1) if worked.sum() > 0 else None
        found.append({"name": name, "decided": len(told), "per_minute": pace, "last": max(told) or None})
    return sorted(found, key=lambda entry: (-entry["decided"], entry["name"]))


def agreed(made: Sequence[Decision]) -> dict[str, Any] | None:
    """How alike people decide: findings with two answers or more, the share of pairs of answers that are alike."""
    settled = [item for item in made if item.verdict != "unsure"]
    answers = Counter(item.finding_id for item in settled)
    several = [item for item in settled if answers[item.finding_id] > 1]
    if not several:
        return None
    codes = {name: code for code, name in enumerate(dict.fromkeys(item.finding_id for item in several))}
    items = np.array([codes[item.finding_id] for item in several], dtype=np.int64)
    labels = np.array([item.verdict == "error" for item in several], dtype=np.int64)
    found = agreement(items, labels)
    return {
        "items": found.items,
        "agree": _number(found.raw.value),
        "alpha": _number(found.alpha.value),
        "low": _number(found.alpha.low),
        "high": _number(found.alpha.high),
    }


def errors_left(queue: Queue, made: Sequence[Decision]) -> dict[str, Any]:
    """Errors to be expected among the undecided findings, and between which numbers they lie."""
    items, state = queue.items, queue.state
    seen = np.flatnonzero(state != UNSEEN)
    chance = error_chance(made)
    found = remaining(
        items.in_lot,
        seen,
        state[seen] == ERROR,
        state[seen] == UNSURE,
        queue.drawn[seen],
        np.array([chance(*cell) for cell in items.cells.names]),
    )
    return {
        "estimate": round(found.estimate, 1),
        "low": found.low,
        "high": found.high,
        "confidence": CONFIDENCE,
        "basis": found.basis,
        "bound": found.bound,
        "sampled": found.sampled,
    }


def _number(value: float) -> float | None:
    return round(value, 4) if math.isfinite(value) else None
