"""What later commands read from the ledger about earlier runs."""

from __future__ import annotations

import json
from collections.abc import Collection
from contextlib import suppress
from typing import Final

from datasetops.errors import NotFoundError
from datasetops.manifest import Repository

EVENT: Final = "preannotate"


def newest_run(repository: Repository, digests: Collection[str]) -> str | None:
    """Which of some models ran last; None where no event tells."""
    runs = (
        entry.event.parameters.get("digest") for entry in repository.ledger.backwards() if entry.event.kind == EVENT
    )
    return next((digest for digest in runs if digest in digests), None)


def recorded_names(repository: Repository, digest: str) -> dict[str, str | None]:
    """Which class each name of a model meant in its newest run; empty where none left a record."""
    for entry in repository.ledger.backwards():
        if entry.event.kind == EVENT and entry.event.parameters.get("digest") == digest:
            for key in entry.event.outputs.get("files", ()):
                with suppress(NotFoundError, ValueError, KeyError, TypeError):
                    return dict(json.loads(repository.store.get(key))["mapping"])
    return {}
