"""What the ledger and the records beside it hold about versions and models, read in one pass."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any, Final

from datasetops.audits.record import latest_audit
from datasetops.errors import DatasetOpsError, NotFoundError
from datasetops.evaluation.record import COMPARE
from datasetops.evaluation.record import EVENT as EVALUATE
from datasetops.gate.accept import REFUSE
from datasetops.gate.status import Status, statuses
from datasetops.ledger import Event
from datasetops.manifest import Repository, Version
from datasetops.promotion.export import load_export
from datasetops.promotion.regression import CHECK
from datasetops.training.record import PROMOTE, ROLLBACK, ModelRecord, model_records, promoted
from datasetops.training.train import REPRODUCE

TEST: Final = "test"  # the split whose evaluations come first


@dataclass(frozen=True)
class Judgement:
    """An evaluation: its record, and when the ledger was told of it."""

    info: Mapping[str, Any]
    time: str


class History:
    """Events oldest first, and records as they are asked for."""

    def __init__(self, repository: Repository) -> None:
        self.repository = repository
        self.events: list[Event] = [entry.event for entry in repository.ledger.backwards()][::-1]
        self.models: dict[str, ModelRecord] = {record.name: record for record in model_records(repository)}

    def of(self, *kinds: str) -> Iterator[Event]:
        return (event for event in self.events if event.kind in kinds)

    @cached_property
    def statuses(self) -> Mapping[str, Status]:
        return statuses(self.repository)

    @cached_property
    def production(self) -> str | None:
        try:
            return promoted(self.repository)
        except NotFoundError:
            return None

    @cached_property
    def judgements(self) -> Mapping[str, list[Judgement]]:
        """Evaluations by the name of the model as it was asked, oldest first; what cannot be read is left out."""
        found: dict[str, list[Judgement]] = {}
        for event in self.of(EVALUATE):
            info = self._record(event.outputs.get("files", {}))
            if info is not None:
                found.setdefault(str(info["model"]["name"]), []).append(Judgement(info, event.time))
        return found

    @cached_property
    def comparisons(self) -> list[Mapping[str, Any]]:
        """Records of comparisons, newest first."""
        found = [self._record(event.outputs.get("files", {})) for event in self.of(COMPARE)]
        return [info for info in reversed(found) if info is not None]

    def judged(self, model: ModelRecord) -> list[Judgement]:
        """Evaluations of a model, oldest first."""
        return self.judgements.get(f"model:{model.name}", [])

    def standing(self, model: ModelRecord) -> Judgement | None:
        """The evaluation that stands for a model: the newest of all samples of the split test, else of another part."""
        whole = [one for one in self.judged(model) if one.info["where"] is None]
        tested = [one for one in whole if one.info["split"] == TEST]
        return next(reversed(tested or whole), None)

    def export(self, model: ModelRecord) -> Mapping[str, Any] | None:
        """Its newest export."""
        try:
            return load_export(self.repository, model).info
        except DatasetOpsError:
            return None

    def reproductions(self, models: Iterable[str]) -> list[bool]:
        wanted = set(models)
        return [bool(event.outputs["agrees"]) for event in self.of(REPRODUCE) if event.inputs.get("model") in wanted]

    def qa_result(self, version: Version) -> Event | None:
        """The newest conclusion of a QA plan of a version, unfinished ones left out."""
        mine = [event for event in self.of("qa-result") if event.inputs.get("commit") == version.digest]
        return next((event for event in reversed(mine) if event.outputs.get("checked")), None)

    def coverage_index(self, version: Version) -> float | None:
        """As the newest audit of all its samples found it."""
        try:
            summary = latest_audit(self.repository, version, whole=True).summaries.get("coverage", {})
        except DatasetOpsError:
            return None
        value = summary.get("coverage index")
        return None if value is None else float(value)

    def outcomes(self, version: Version, models: Iterable[str]) -> dict[str, list[bool]]:
        """By step that can fail, whether each time that is recorded it did not: of a version and of its models.

        What a gate refused failed, and a promotion that was taken back.
        """
        names = set(models)
        found: dict[str, list[bool]] = {}
        for event in self.events:
            mine = event.inputs.get("commit") == version.digest
            if event.kind == "qa-result" and mine and event.outputs.get("verdict") in ("accept", "reject"):
                found.setdefault("QA", []).append(event.outputs["verdict"] == "accept")
            elif mine and (event.kind in ("accept", "reject") or event.parameters.get("asked") == "accept"):
                found.setdefault("acceptance", []).append(event.kind == "accept")
        reproduced = self.reproductions(names)
        if reproduced:
            found["reproduction"] = reproduced
        gates = [
            event.kind == PROMOTE
            for event in self.of(PROMOTE, ROLLBACK, REFUSE)  # of versions the last one has no model
            if event.parameters.get("model") in names
        ]
        if gates:
            found["promotion"] = gates
        return found

    def regression(self, model: ModelRecord) -> Mapping[str, Mapping[str, Any]]:
        """By set, how many items the model got right when it was last asked, and of how many."""
        found: dict[str, Mapping[str, Any]] = {}
        for event in self.of(PROMOTE, REFUSE, CHECK):
            if event.kind == CHECK and event.inputs["model"] == f"model:{model.name}":
                found[str(event.parameters["name"])] = event.outputs
            elif event.kind != CHECK and event.inputs.get("digest") == model.digest:
                info = self._record(event.outputs.get("files", {})) or {"rules": ()}
                found |= next((rule["evidence"] for rule in info["rules"] if rule["rule"] == "regression"), {})
        return found

    def _record(self, files: Mapping[str, Any]) -> Mapping[str, Any] | None:
        for key in files:
            if str(key).endswith(".json"):
                try:
                    info: Mapping[str, Any] = json.loads(self.repository.store.get(str(key)))
                except (NotFoundError, ValueError):
                    return None
                return info
        return None


def hours_between(start: str, end: str) -> float:
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds() / 3600
