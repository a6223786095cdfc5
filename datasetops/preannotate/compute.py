"""Asking a model about images, and keeping what it says as it comes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from datasetops.engine import Fault, Item
from datasetops.preannotate.labelers import Labeler
from datasetops.preannotate.predictions import ModelInfo, Outcome, PredictionStore
from datasetops.progress import Progress

_FLUSH_IMAGES: Final = 20_000  # between two writes of predictions, whichever of the two comes first: what a killed run
_FLUSH_SECONDS: Final = 30.0  # loses at most


def compute(
    store: PredictionStore,
    labeler: Labeler,
    model: ModelInfo,
    items: Sequence[Item],
    missing: Sequence[int],
    progress: Progress,
) -> dict[str, str]:
    """Ask about the items that are `missing`, and keep what is said. Returns by key why nothing could be said of some."""
    if not missing:
        return {}
    faults: dict[str, str] = {}
    keys: list[str] = []
    outcomes: list[Outcome] = []

    def flush() -> None:
        store.add(keys, outcomes)
        keys.clear()
        outcomes.clear()

    written = time.monotonic()
    try:
        for index, result in labeler.label(items, missing, progress=progress):
            if isinstance(result, Fault):
                faults[result.key] = result.reason
                continue
            keys.append(items[index].key)
            outcomes.append(result)
            if len(keys) >= _FLUSH_IMAGES or time.monotonic() - written > _FLUSH_SECONDS:
                flush()
                written = time.monotonic()
    finally:
        flush()
    if len(faults) < len(missing):
        store.describe(model)
    return faults
