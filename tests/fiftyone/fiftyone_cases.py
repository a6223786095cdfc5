"""Helpers of the tests with FiftyOne: five photos with an annotation of every kind each, commits, audits, exports."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np

from datasetops.audits.record import SCORES, AuditRecord, store_audit, worst_first
from datasetops.fiftyone import FiftyOneResult, export_to_fiftyone
from datasetops.labeling.masks import encoded
from datasetops.ledger import Event
from datasetops.manifest import Change, Repository, Version
from datasetops.records import Finding, findings_table

MASK = np.zeros((427, 640), bool)
MASK[100:200, 300:340] = True
MASK[100:120, 300:310] = False


def sample(number: int, **changes: Any) -> dict[str, Any]:
    metadata = {"light": "day", "age": number, "score": number / 2, "filepath": "theirs", "mixed": number % 2 or "no"}
    if number == 0:
        metadata["once"] = True
    return {
        "sample_id": f"s{number}",
        "uri": f"{number}.jpg",
        "width": 640,
        "height": 427,
        "media_type": "image/jpeg",
        "split": "train" if number < 3 else "test",
        "group": "garden",
        "captured_at": datetime(2024, 5, 6, 7, 8, 9, 123456, UTC),
        "metadata": metadata,
    } | changes


def labels(number: int) -> list[dict[str, Any]]:
    owner, base = f"s{number}", {"sample_id": f"s{number}", "source": "human", "actor": "ann", "label": "dog"}
    box = {"x1": 64.0, "y1": 42.7, "x2": 320.0, "y2": 213.5}
    ring = [0.0, 0.0, 64.0, 0.0, 64.0, 42.7]
    return [
        base | {"annotation_id": f"{owner}c", "kind": "classification", "label": "cat"},
        base | {"annotation_id": f"{owner}b", "kind": "box", "attributes": {"occluded": True, "tags": "x"}} | box,
        base | {"annotation_id": f"{owner}p", "kind": "polygon", "geometry": {"polygons": [ring, ring]}, "score": 0.5},
        base | {"annotation_id": f"{owner}m", "kind": "mask", "geometry": {"rle": encoded(MASK)}},
        base | {"annotation_id": f"{owner}k", "kind": "keypoints", "geometry": {"keypoints": [64.0, 42.7, 2, 0, 0, 0]}},
        base | {"annotation_id": f"{owner}t", "kind": "text", "label": None, "text": "a garden"},
    ]


def commit(repository: Repository, samples: Any = None, annotations: Any = None, **change: Any) -> Version:
    result = repository.commit(
        Change(samples=samples, annotations=annotations, **change), message="test", event=Event("commit", "lead")
    )
    return result.version


def found(repository: Repository, *findings: Finding) -> None:
    """An audit of the newest version by the checks that these findings are of."""
    version = repository.version()
    checks = sorted({finding.check for finding in findings})
    info = {"version": version.name, "commit": version.digest, "parameters": {"checks": checks}, "models": {}}
    info["checks"] = {check: {} for check in checks}
    audit_id = f"audit{len(list(repository.ledger.backwards()))}"
    store_audit(repository, AuditRecord(audit_id, info, worst_first(findings_table([*findings])), SCORES.empty_table()))


def noise(number: int, score: float, severity: str = "high") -> Finding:
    text = f"is probably a dog ({score})"
    label = f"s{number}c"
    return Finding(
        "label_noise", severity, score, text, f"s{number}", annotation_id=label, given="cat", suggested="dog"
    )


def export(repository: Repository, name: str, **options: Any) -> FiftyOneResult:
    return export_to_fiftyone(repository, repository.version(), name=name, **options)


def counted(result: FiftyOneResult) -> tuple[int, int, int, int]:
    return result.added, result.updated, result.unchanged, result.removed
