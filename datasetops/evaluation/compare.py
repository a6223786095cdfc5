"""Two models on the same items: what the second does better and worse, where, and on which items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from datasetops.audits.boxes.pairs import Boxes, overlaps
from datasetops.audits.record import plain
from datasetops.errors import ModelError
from datasetops.evaluation.answers import Answers, ask, kind_of, open_source
from datasetops.evaluation.evaluate import choose, refuse_nothing, refuse_trained_on
from datasetops.evaluation.judged import REGION
from datasetops.evaluation.judging import judge
from datasetops.evaluation.record import COMPARE
from datasetops.evaluation.regions import CORNERS
from datasetops.evaluation.resampling import RESAMPLES
from datasetops.evaluation.slices import difference, differences_by_slice, slice_values
from datasetops.ledger import Event
from datasetops.manifest import Repository, Version
from datasetops.preannotate.labelers import Labeler
from datasetops.preannotate.rows import DEFAULT_THRESHOLDS
from datasetops.progress import Progress, no_progress
from datasetops.records import canonical_json, sha256_hex

FLIPS: Final = ("right to wrong", "wrong to right")
_FOLDER: Final = "comparisons/"


@dataclass(frozen=True)
class Comparison:
    """What `compare` finds. `info` has plain values: models, items, metrics (each with `first`, `second`, `difference`
    and its interval), classes (share of what people labeled so that each got right), slices (where the second loses
    most first), `worse` (names of slices where it loses a point or more), flips (counts). `flips` has a row for each
    thing that people labeled and that one of them alone got right. `found`: regions of either `model` (first, second)
    that touch one that flipped."""

    info: Mapping[str, Any]
    flips: pd.DataFrame
    found: pd.DataFrame = field(default_factory=pd.DataFrame)

    def as_dict(self) -> dict[str, Any]:
        return dict(self.info)


def compare(
    repository: Repository,
    version: Version,
    first: str | Labeler,
    second: str | Labeler,
    *,
    split: str | None = "test",
    where: str | None = None,
    task: str | None = None,
    mapping: Path | None = None,
    score: float | None = None,
    sealed: bool = False,
    resamples: int | None = None,
    seed: int = 0,
    progress: Progress = no_progress,
    **options: Any,
) -> Comparison:
    """Judge two models on the samples that both answer, with paired intervals. Arguments and errors as in `evaluate`.

    Raises ModelError where they give no kind in common.
    """
    part = choose(repository, version, split=split, where=where, sealed=sealed)
    sources = [open_source(repository, version, model, task=task, **options) for model in (first, second)]
    kind = kind_of(sources[0], version, task)
    if kind not in sources[1].kinds:
        raise ModelError(
            f"The first model gives {kind}, the second {' and '.join(sources[1].kinds)}.",
            remedy="Compare models of one task, or name one with --task.",
        )
    for source in sources:
        refuse_trained_on(source, version, part.samples)
    answers = [
        ask(repository, version, source, part.samples, kind, mapping=mapping, progress=progress) for source in sources
    ]
    both = answers[0].answered & answers[1].answered
    least = DEFAULT_THRESHOLDS.get(kind, 0.0) if score is None else score
    labels = version.labels()
    one, other = (
        judge(replace(own, answered=both), part.samples, labels, version.schema, part.groups, score=least)
        for own in answers
    )
    for judged, own in ((one, answers[0]), (other, answers[1])):
        refuse_nothing(judged, own, version)
    groups = part.groups[one.judged]
    number = resamples or one.resamples or RESAMPLES
    overall = {
        name: difference(
            metric,
            other.metrics[name],
            groups,
            larger_is_better=name not in one.smaller,
            resamples=number,
            seed=seed,
        ).as_dict()
        for name, metric in one.metrics.items()
    }
    main, metric = next(iter(one.metrics.items()))
    parts = slice_values(part.samples.iloc[one.judged].reset_index(drop=True), version.schema)
    by_slice = differences_by_slice(
        metric,
        other.metrics[main],
        parts,
        groups,
        larger_is_better=main not in one.smaller,
        resamples=number,
        seed=seed,
    )
    flips = _flips(one.things, other.things)
    info = {
        "version": version.name,
        "commit": version.digest,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "first": answers[0].model.label,
        "second": answers[1].model.label,
        "recipes": [source.recipe for source in sources],
        "split": split,
        "where": where,
        "kind": kind,
        "items": {"chosen": len(part.samples), "judged": len(one.judged), "answered_by_one_only": _one_only(answers)},
        "numbers": {name: [value, other.numbers[name]] for name, value in one.numbers.items()},
        "metrics": overall,
        "classes": _by_class(one.things, other.things),
        "sliced_by": main,
        "slices": [item.as_dict() for item in by_slice],
        "worse": [item.name for item in by_slice if item.worse],
        "flips": {str(name): int(count) for name, count in flips["flip"].value_counts().items()},
        "sealed": list(part.sealed),
        "looks": part.looks,
    }
    _keep(repository, info, {"score": least, "resamples": number, "seed": seed})
    return Comparison(plain(info), flips, _found_there(answers, flips, least))


def _flips(one: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """Things that one model alone got right, the lost ones first; both tables have the same things in one order."""
    before, after = one["right"].to_numpy(bool), other["right"].to_numpy(bool)
    frame = one.drop(columns=["right", "said"], errors="ignore")
    if "said" in one:
        frame = frame.assign(first=one["said"], second=other["said"])
    frame = frame.assign(flip=np.select([before & ~after, ~before & after], list(FLIPS), ""))
    changed = frame[frame["flip"] != ""]
    return changed.sort_values("flip", kind="stable", ignore_index=True)


def _found_there(answers: Sequence[Answers], flips: pd.DataFrame, score: float) -> pd.DataFrame:
    """Regions, from the score on, that touch one that flipped."""
    if "x1" not in flips:
        return pd.DataFrame()
    names = pd.Index(sorted(flips["sample_id"].unique()))

    def placed(frame: pd.DataFrame) -> Boxes:
        image = names.get_indexer(frame["sample_id"]).astype(np.int64)
        return Boxes(image, np.zeros(len(frame), np.int64), frame[[*CORNERS]].to_numpy(np.float64))

    parts = []
    for name, own in zip(("first", "second"), answers, strict=True):
        rows = own.rows.filter(pc.is_in(own.rows["sample_id"], pa.array(names.tolist(), pa.string())))
        rows = rows.filter(pc.greater_equal(rows["score"], score))
        frame = rows.select(["sample_id", "label", "score", *REGION]).to_pandas().sort_values("sample_id")
        touching = np.unique(overlaps(placed(frame), placed(flips.sort_values("sample_id"))).first)
        parts.append(frame.iloc[touching].assign(model=name))
    found: pd.DataFrame = pd.concat(parts, ignore_index=True)
    return found


def _by_class(one: pd.DataFrame, other: pd.DataFrame) -> list[dict[str, Any]]:
    """Of the things of each class the share that each model got right, where the second loses most first."""
    if "truth" not in one:
        return []
    rights = pd.DataFrame({"class": one["truth"], "first": one["right"], "second": other["right"]})
    found = rights.groupby("class", sort=True).agg(
        items=("first", "size"), first=("first", "mean"), second=("second", "mean")
    )
    found["difference"] = found["second"] - found["first"]
    rows = found.sort_values("difference", kind="stable").reset_index().to_dict("records")
    return [{str(name): value for name, value in row.items()} for row in rows]


def _one_only(answers: list[Any]) -> int:
    return int((answers[0].answered ^ answers[1].answered).sum())


def _keep(repository: Repository, info: Mapping[str, Any], parameters: Mapping[str, Any]) -> None:
    record = canonical_json(plain(info))
    key = f"{_FOLDER}{sha256_hex(record)[:16]}.json"
    repository.store.put(key, record)
    event = Event(
        COMPARE,
        repository.settings.actor,
        inputs={"version": info["version"], "commit": info["commit"], "models": [info["first"], info["second"]]},
        outputs={"files": {key: sha256_hex(record)}},
        parameters={
            **parameters,
            **{name: info[name] for name in ("split", "where", "kind", "sealed")},
            "looks_before": info["looks"],
        },
    )
    repository.ledger.record(event)
