"""What an evaluation leaves behind: its numbers and its list of errors, kept under the digest of all it was made from."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from datasetops.audits.record import plain
from datasetops.errors import NotFoundError, did_you_mean
from datasetops.ledger import Event
from datasetops.manifest import Repository
from datasetops.models.predictor import with_scheme
from datasetops.records import canonical_json, sha256_hex

EVENT: Final = "evaluate"
COMPARE: Final = "compare"
_FOLDER: Final = "evaluations/"


@dataclass(frozen=True)
class Evaluation:
    """How good a model is on a part of a version. `info` has plain values; `failures` the columns of judging.FAILURES.

    Of `info`: evaluation, version, commit, model, split, where, kind, items, metrics (numbers by name), metric (the
    headline number with its interval), details, slices, left_out, faults, looks, warnings, parameters.
    """

    evaluation_id: str
    info: Mapping[str, Any]
    failures: pd.DataFrame
    reused: bool = False  # it was made by an earlier run

    @property
    def metrics(self) -> Mapping[str, float | None]:
        found: Mapping[str, float | None] = self.info["metrics"]
        return found

    def as_dict(self) -> dict[str, Any]:
        return dict(self.info) | {"reused": self.reused, "failures": len(self.failures)}


def store_evaluation(repository: Repository, evaluation: Evaluation) -> None:
    """Keep it, and note in the ledger who looked at what."""
    info = evaluation.info
    sink = io.BytesIO()
    table = pa.Table.from_pandas(evaluation.failures, preserve_index=False)
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    folder = f"{_FOLDER}{evaluation.evaluation_id}"
    contents = {f"{folder}/failures.parquet": sink.getvalue(), f"{folder}.json": canonical_json(plain(info))}
    for key, data in contents.items():
        repository.store.put(key, data)
    event = Event(
        EVENT,
        repository.settings.actor,
        inputs={"version": info["version"], "commit": info["commit"], "model": info["model"]["digest"]},
        outputs={
            "evaluation": evaluation.evaluation_id,
            "files": {key: sha256_hex(data) for key, data in contents.items()},
            "metric": plain(info["metric"]),
        },
        parameters=plain(info["parameters"] | {"sealed": info["sealed"], "looks_before": info["looks"]}),
    )
    repository.ledger.record(event)


def stored_evaluation(repository: Repository, evaluation_id: str) -> Evaluation | None:
    """None where nothing can be read."""
    folder = f"{_FOLDER}{evaluation_id}"
    try:
        info = json.loads(repository.store.get(f"{folder}.json"))
        data = repository.store.get(f"{folder}/failures.parquet")
        table = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True).read(use_threads=False)
    except (NotFoundError, ValueError, pa.ArrowInvalid, OSError):
        return None
    return Evaluation(evaluation_id, info, table.to_pandas(), reused=True)


def is_noted(repository: Repository, evaluation: Evaluation) -> bool:
    """Whether the ledger has the evaluation; else what stored it was killed in the middle."""
    return repository.ledger.names_file(f"{_FOLDER}{evaluation.evaluation_id}.json")


def load_evaluation(repository: Repository, name: str) -> Evaluation:
    """The evaluation whose id this is, or begins with, or the newest one of the model so named.

    Raises NotFoundError that lists the ids.
    """
    known = [key.removeprefix(_FOLDER).removesuffix(".json") for key in repository.store.list(_FOLDER)]
    known = [key for key in known if "/" not in key]
    found = [key for key in known if key.startswith(name)]
    evaluation = stored_evaluation(repository, found[0]) if len(found) == 1 else _newest_of(repository, name)
    if evaluation is None:
        remedy = (
            did_you_mean(name, known, noun="evaluations") if known else "Make one with: dsops evaluate MODEL VERSION"
        )
        raise NotFoundError(f"There is no evaluation {name!r}, and none of a model of that name.", remedy=remedy)
    return evaluation


def _newest_of(repository: Repository, model: str) -> Evaluation | None:
    reference = with_scheme(model)
    for entry in repository.ledger.backwards():
        if entry.event.kind == EVENT:
            evaluation = stored_evaluation(repository, str(entry.event.outputs["evaluation"]))
            if evaluation and reference in (evaluation.info["model"]["name"], evaluation.info["model"]["label"]):
                return evaluation
    return None


def looks_at(repository: Repository, split: str) -> int:
    """How often models were evaluated on a split while it was sealed."""
    return sum(
        entry.event.kind in (EVENT, COMPARE) and split in entry.event.parameters.get("sealed", ())
        for entry in repository.ledger.backwards()
    )
