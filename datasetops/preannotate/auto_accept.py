"""Rows of a model that count without a person having looked at them, and the sampled QA that this takes.

Such a row says so in its attributes: {"auto_accepted": 0.95}, the precision that was promised of it. It is one for as
long as its source is `model`; whoever answers the sample makes the row a person's.
"""

from __future__ import annotations

import json
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from datasetops.manifest import Repository, Version
from datasetops.preannotate.plan import changed_rows
from datasetops.preannotate.thresholds import CONFIDENCE
from datasetops.qa.plan import QaPlan, lot, make_plan, plans
from datasetops.records import canonical_json
from datasetops.schema import AUTO_ACCEPTED

LEAST_CONFIDENCE: Final = CONFIDENCE  # of the QA: what is lower is little to let labels go unseen for


def mark(target: float) -> str:
    """The attributes of a row that is accepted by its score."""
    return canonical_json({AUTO_ACCEPTED: target}).decode()


def condition(target: float) -> str:
    """SQL, as in `Version.where`: the samples with rows that were accepted at this precision and are as they were."""
    return f"source = 'model' AND attributes->>'{AUTO_ACCEPTED}' = '{canonical_json(target).decode()}'"


def auto_accepted(version: Version) -> dict[float, pa.Table]:
    """By promised precision the rows of ANNOTATIONS that were accepted by their score and that no person touched."""
    rows = version.labels()
    ours = pc.and_(pc.equal(rows["source"], "model"), pc.match_substring(rows["attributes"], f'"{AUTO_ACCEPTED}":'))
    rows = rows.filter(pc.fill_null(ours, False))
    texts = pc.unique(rows["attributes"])
    values = [json.loads(text).get(AUTO_ACCEPTED) for text in texts.to_pylist()]
    promised = pa.array([value if isinstance(value, float) else None for value in values], pa.float64())
    of_row = promised.take(pc.index_in(rows["attributes"], texts).combine_chunks())
    return {target: rows.filter(pc.equal(of_row, target)) for target in sorted(set(promised.drop_null().to_pylist()))}


def covered(repository: Repository, plan: QaPlan, version: Version, rows: pa.Table) -> tuple[pa.Array, pa.Array]:
    """(the samples of some rows of a version that are in a plan's lot, with these very rows and the same image;
    all samples of the lot).

    The plan may be of an earlier version.
    """
    then = repository.version(plan.version)
    drawn_from = pa.array(lot(then, plan.per, plan.where)[0]["sample_id"], pa.string())
    samples = pc.unique(rows["sample_id"])
    if then.digest != version.digest:
        other = changed_rows(then, rows)["sample_id"]
        samples = samples.filter(pc.invert(pc.is_in(samples, pc.unique(other))))
        before, now = (item.state("samples").rows(samples, ["sample_id", "sha256"]) for item in (then, version))
        images = [table["sha256"].take(pc.index_in(samples, pc.unique(table["sample_id"]))) for table in (before, now)]
        samples = samples.filter(pc.fill_null(pc.equal(*images), False))
    return samples.filter(pc.is_in(samples, drawn_from)), drawn_from


def ensure_plan(repository: Repository, version: Version, target: float, confidence: float) -> QaPlan | None:
    """The QA plan over the samples that were accepted by their score at a precision; a new one where none covers them.

    None where there are no such samples, or none that a sample can be drawn from: where the schema asks for a class,
    those without one.
    """
    rows = auto_accepted(version).get(target)
    if rows is None:
        return None
    try:
        wanted = pa.array(lot(version, (), condition(target))[0]["sample_id"], pa.string())
    except ValueError:
        return None
    confidence = max(confidence, LEAST_CONFIDENCE)
    for plan in reversed(list(plans(repository))):
        fits = plan.where == condition(target) and plan.confidence >= confidence and plan.limit <= 1 - target + 1e-9
        if fits and pc.all(pc.is_in(wanted, covered(repository, plan, version, rows)[0])).as_py():
            return plan
    return make_plan(repository, version, pass_rate=target, confidence=confidence, where=condition(target))
