"""What the demo works on: scans that come with scikit-learn, and people who know the truth about them."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from datasetops.audits.record import AuditRecord
    from datasetops.manifest import Repository, Version

ORIGIN: Final = "UCI: Optical Recognition of Handwritten Digits"
LICENSE: Final = "CC-BY-4.0"
REVIEWER, CHECKER, OFFICER = "demo reviewer", "demo checker", "demo officer"
ROUNDS: Final = 4  # of review and audit; what the last one leaves open is left to the gate


def write_digits(folder: Path, count: int) -> int:
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    lines = [("path", "label", "origin", "license")]
    for number, (pixels, label) in enumerate(zip(digits.images[:count], digits.target[:count], strict=True)):
        file = folder / str(label) / f"{number:04}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels * 15).astype(np.uint8)).save(file)
        lines.append((file.relative_to(folder).as_posix(), str(label), ORIGIN, LICENSE))
    with (folder / "scans.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows(lines)
    return len(lines) - 1


def flip_labels(repository: Repository, share: float, seed: int) -> tuple[Version, set[str]]:
    """Give a random share of the images another class, as a new version; returns it and the samples concerned."""
    import numpy as np
    import pyarrow as pa

    from datasetops.ledger import Event
    from datasetops.manifest import Change

    rng = np.random.default_rng(seed)
    head = repository.version()
    rows = head.table("annotations")
    names = list(head.schema.class_names)
    chosen = np.sort(rng.choice(len(rows), round(share * len(rows)), replace=False))
    flipped = rows.take(pa.array(chosen))
    labels = [
        names[(names.index(label) + int(rng.integers(1, len(names)))) % len(names)]
        for label in flipped["label"].to_pylist()
    ]
    flipped = flipped.set_column(flipped.column_names.index("label"), "label", pa.array(labels))
    event = Event("demo", repository.settings.actor, parameters={"share": share, "seed": seed})
    change = Change(annotations=flipped.drop(["event_id", "created_at"]))
    result = repository.commit(change, message=f"Make {len(labels)} labels wrong (seed {seed})", event=event)
    return result.version, set(flipped["sample_id"].to_pylist())


def review(repository: Repository, record: AuditRecord, version: Version, truth: Mapping[str, str]) -> Version:
    """What a reviewer who knows the truth does with the findings on labels: corrects the wrong ones, calls the rest fine."""
    from datasetops.audits.decisions import decide
    from datasetops.manifest import Change

    rows = version.labels().to_pylist()
    wrong = {
        row["sample_id"]: row | {"label": truth[row["sample_id"]]}
        for row in rows
        if row["label"] != truth[row["sample_id"]]
    }
    people = as_actor(repository, REVIEWER)
    said: list[dict[str, Any]] = []
    for finding in record.findings.to_pylist():
        about = [finding["sample_id"], *(finding["related"] or ())]
        verdict = "error" if any(name in wrong for name in about) else "fine"
        said.append({"finding_id": finding["finding_id"], "verdict": verdict, "note": "the demo knows the truth"})
    decide(people, version, record.findings, said)
    found = {name for item in record.findings.to_pylist() for name in (item["sample_id"], *(item["related"] or ()))}
    mended = [row | {"source": "human", "actor": REVIEWER} for name, row in wrong.items() if name in found]
    if not mended:
        return version
    rows = [{name: row[name] for name in row if name not in ("event_id", "created_at")} for row in mended]
    return people.commit(Change(annotations=rows), message=f"Correct labels that the audit found ({len(rows)})").version


def check_sample(repository: Repository, version: Version, truth: Mapping[str, str]) -> Any:
    """A sampling plan of the version, its items checked by somebody who knows the truth; the result."""
    from datasetops.qa.plan import make_plan
    from datasetops.qa.review import current_result, record_result
    from datasetops.qa.verdicts import Verdict, take

    labels = {row["sample_id"]: row["label"] for row in version.labels().to_pylist()}
    plan = make_plan(repository, version, stages=1, second=0.0, seed="demo")
    people = as_actor(repository, CHECKER)
    verdicts = [
        Verdict(name, CHECKER, "right" if labels[name] == truth[name] else "wrong") for name in plan.to_review(0)
    ]
    take(people, plan, verdicts, origin="demo")
    result = current_result(repository, plan)
    record_result(people, plan, result)
    return result


def as_actor(repository: Repository, actor: str) -> Repository:
    from datasetops.manifest import Repository as Opened

    return Opened(repository.store, repository.settings.model_copy(update={"actor": actor}), repository.root)
