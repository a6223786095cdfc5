"""What all predictors of trained models have."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Final

from datasetops.manifest import Repository
from datasetops.records import canonical_json, sha256_hex
from datasetops.training.record import TRAIN, ModelRecord, model_samples

_READING: Final = 1  # raised whenever the same files would give other predictions


class Kept:
    """`trained_on`: ids of the samples that it learned from; `version`: the one that they are of; `recipe`: its name."""

    revision = None

    def __init__(self, repository: Repository, record: ModelRecord, options: dict[str, Any]) -> None:
        self._repository, self._record = repository, record
        self.name = f"model:{record.name}"
        self.kinds: tuple[str, ...] = (record.task,)
        self.vocabulary: tuple[str, ...] = record.classes
        self.version = record.version
        self.record_digest = record.digest
        self.recipe = str(record.recipe["name"])
        self.digest = sha256_hex(canonical_json(["model", _READING, record.digest, options]))

    @cached_property
    def trained_on(self) -> frozenset[str]:
        return frozenset(model_samples(self._repository, self._record)[TRAIN])
