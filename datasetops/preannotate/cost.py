"""What a run will take: images, time as measured on a few of them, money at a price per hour."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from datasetops.engine import Item
from datasetops.preannotate.labelers import Labeler

_FIRST: Final = 4  # images of a first trial: the time to start is in both, so the difference has none of it
_MEASURED: Final = 16  # images more in the second
_HOUR: Final = 3600.0
_CENT: Final = 0.01


@dataclass(frozen=True)
class Cost:
    """`images` are to be computed; times in seconds. `measured` images were tried; None where nothing could be.

    `beside` names work that comes on top and was not measured.
    """

    images: int
    measured: int
    seconds_an_image: float | None
    seconds: float | None
    price_per_hour: float | None = None
    money: float | None = None
    beside: str | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> list[str]:
        more = [] if self.beside is None else [f"On top of that comes {self.beside}, which was not measured."]
        if not self.images and more:
            return [f"No image is left to compute; what is left is {self.beside}, which was not measured."]
        if not self.images:
            return ["Nothing is left to compute: it costs nothing."]
        if self.seconds is None or self.seconds_an_image is None:
            return [
                f"{self.images:,} images to compute; none of the first could be read, so nothing is known of the time."
            ]
        told = f"{self.images:,} images to compute, about {in_words(self.seconds)}"
        told += f" ({self.seconds_an_image:.2g} s an image, measured on {self.measured})"
        if self.money is not None:
            money = f"{self.money:,.2f}" if self.money >= _CENT or not self.money else f"less than {_CENT}"
            told += f", {money} at {self.price_per_hour:g} an hour"
        return [told + ".", *more]


def estimate(
    labeler: Labeler, items: Sequence[Item], *, price_per_hour: float | None = None, beside: str | None = None
) -> Cost:
    """Measured by computing a few of the items, spread over all of them, and keeping nothing of it."""
    if price_per_hour is not None and not (math.isfinite(price_per_hour) and price_per_hour >= 0):
        raise ValueError(f"price per hour: expected a number from 0 on; got {price_per_hour}")
    if not items:
        return Cost(0, 0, 0.0, 0.0, price_per_hour, None if price_per_hour is None else 0.0, beside)
    few = min(len(items), _FIRST + _MEASURED)
    spread = [items[at * len(items) // few] for at in range(few)]
    first = min(_FIRST, few // 2)
    if labeler.engine == "local":  # elsewhere workers start anew for each trial
        labeler.trial(spread[:1])  # a model may be loaded with its first image
    short, _ = _timed(labeler, spread[:first]) if first else (0.0, 0)
    long, worked = _timed(labeler, spread)
    if not worked:
        return Cost(len(items), few, None, None, price_per_hour, None, beside)
    each = max((long - short) / (few - first), long / few / 10)  # a busy machine may make the first one the slower
    seconds = each * len(items)
    money = None if price_per_hour is None else seconds / _HOUR * price_per_hour
    return Cost(len(items), few, each, seconds, price_per_hour, money, beside)


def in_words(seconds: float) -> str:
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 1.5 * _HOUR else f"{seconds / _HOUR:,.1f} h"


def _timed(labeler: Labeler, items: Sequence[Item]) -> tuple[float, int]:
    started = time.perf_counter()
    worked = labeler.trial(items)
    return time.perf_counter() - started, worked
