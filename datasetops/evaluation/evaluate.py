"""How good a model is on a part of a version: the verb."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from datasetops.audits.labels.label_probabilities import grouped_with_copies
from datasetops.audits.record import plain
from datasetops.errors import NotFoundError, RejectedError, did_you_mean
from datasetops.evaluation.answers import Answers, Source, ask, kind_of, open_source
from datasetops.evaluation.judged import Judged
from datasetops.evaluation.judging import judge
from datasetops.evaluation.record import Evaluation, is_noted, looks_at, store_evaluation, stored_evaluation
from datasetops.evaluation.regions import Ints
from datasetops.evaluation.resampling import RESAMPLES, estimate
from datasetops.evaluation.slices import by_slice, slice_values
from datasetops.manifest import Repository, Version
from datasetops.manifest.diff import changed_in_splits
from datasetops.preannotate.labelers import Labeler
from datasetops.preannotate.rows import DEFAULT_THRESHOLDS
from datasetops.progress import Progress, no_progress
from datasetops.records import canonical_json, sha256_hex

FORMAT: Final = 2  # of a record; part of its identity, so that a changed metric is never taken for an old one
_NAMED: Final = 5  # ids that a message names


@dataclass(frozen=True)
class Part:
    """Samples to judge a model on, with their groups; `sealed` splits among theirs, looked at so often before."""

    samples: pd.DataFrame
    groups: Ints
    sealed: tuple[str, ...]
    looks: int


def evaluate(
    repository: Repository,
    version: Version,
    model: str | Labeler,
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
) -> Evaluation:
    """Judge a model on a split (None: all samples) of a version, and keep what came out.

    `model` is a reference (see `open_labeler`, which takes the `options`), or the name or digest of a model whose
    predictions are kept. `where` is a SQL condition, `task` the kind to judge, `mapping` as in `preannotate`. `score`:
    from which on a region counts in rates and in the list of errors. A sealed split is looked at only where `sealed`
    says so; the ledger counts the looks.

    The same model, samples and truth give the kept result of an earlier run. Raises RejectedError for a sealed split
    without the flag and for samples that the model was trained on, NotFoundError for a split or condition without
    samples and where nothing is labeled or answered, and what `open_labeler` and `read_mapping` raise.
    """
    part = choose(repository, version, split=split, where=where, sealed=sealed)
    source = open_source(repository, version, model, task=task, **options)
    kind = kind_of(source, version, task)
    refuse_trained_on(source, version, part.samples)
    answers = ask(repository, version, source, part.samples, kind, mapping=mapping, progress=progress)
    return evaluation_of(
        repository, version, part, answers, split=split, where=where, score=score, resamples=resamples, seed=seed,
        recipe=source.recipe, warnings=_changed_since(repository, version, source, split),
    )  # fmt: skip


def evaluation_of(
    repository: Repository,
    version: Version,
    part: Part,
    answers: Answers,
    *,
    split: str | None = None,
    where: str | None = None,
    score: float | None = None,
    resamples: int | None = None,
    seed: int = 0,
    recipe: str | None = None,
    warnings: Sequence[str] = (),
) -> Evaluation:
    """Judge answers that are there, from whatever model, and keep what came out; see `evaluate`."""
    least = DEFAULT_THRESHOLDS.get(answers.kind, 0.0) if score is None else score
    parameters = {
        "split": split,
        "where": where,
        "task": answers.kind,
        "score": least,
        "resamples": resamples,
        "seed": seed,
    }
    identity = parameters | {
        "format": FORMAT,
        "commit": version.digest,
        "model": answers.model.digest,
        "mapping": answers.mapping.digest,
        "samples": sha256_hex(canonical_json(part.samples["sample_id"][answers.answered].tolist())),
    }
    evaluation_id = sha256_hex(canonical_json(identity))[:16]
    kept = stored_evaluation(repository, evaluation_id)
    if kept is not None and is_noted(repository, kept):
        return kept
    judged = judge(answers, part.samples, version.labels(), version.schema, part.groups, score=least)
    refuse_nothing(judged, answers, version)
    info = _info(version, part, answers, judged, parameters | {"mapping": answers.mapping.digest})
    info["warnings"] = [*warnings, *info["warnings"]]
    info["model"]["recipe"] = recipe
    evaluation = Evaluation(evaluation_id, plain({"evaluation": evaluation_id} | info), judged.failures)
    store_evaluation(repository, evaluation)
    return evaluation


def choose(repository: Repository, version: Version, *, split: str | None, where: str | None, sealed: bool) -> Part:
    """The samples to judge on. Raises as `evaluate` does."""
    samples = version.table("samples").to_pandas()
    everything = samples
    if split is not None:
        known = sorted(set(samples["split"].dropna()))
        if split not in known:
            remedy = (
                did_you_mean(split, known, noun="splits") if known else "Name one with `dsops split`, or judge all."
            )
            raise NotFoundError(f"{version.name} has no split {split!r}.", remedy=remedy)
        samples = samples[samples["split"] == split]
    if where is not None:
        samples = samples[samples["sample_id"].isin(version.where(where))]
    if not len(samples):
        raise NotFoundError(
            f"No sample of {version.name} is chosen: the part to evaluate on is empty.", remedy="Widen the condition."
        )
    locked = tuple(sorted(set(samples["split"].dropna()) & set(version.commit.sealed)))
    looks = max((looks_at(repository, name) for name in locked), default=0)
    if locked and not sealed:
        raise RejectedError(
            f"The split {locked[0]!r} is sealed; it was looked at {looks} times before.",
            remedy="Say so with --sealed. Each look is recorded: a split that decides often is no longer unseen.",
        )
    groups = grouped_with_copies(everything).to_numpy().astype(np.int64)[samples.index]
    return Part(samples.reset_index(drop=True), groups, locked, looks)


def refuse_trained_on(source: Source, version: Version, samples: pd.DataFrame) -> None:
    """Raise RejectedError where the model learned from these samples, or from others with the same image."""
    if not len(source.trained_on):
        return
    taught = set(source.trained_on)
    every = version.table("samples", ["sample_id", "sha256"]).to_pandas()
    images = set(every["sha256"][every["sample_id"].isin(taught)].dropna())
    seen = samples["sample_id"].isin(taught) | samples["sha256"].isin(images)
    if seen.any():
        shown = ", ".join(samples["sample_id"][seen].head(_NAMED))
        raise RejectedError(
            f"The model was trained on {int(seen.sum()):,} of these {len(samples):,} samples, or on copies of them: {shown}"
            + (", …" if seen.sum() > _NAMED else "."),
            remedy="Evaluate it on a split that it was not trained on.",
        )


def _changed_since(repository: Repository, version: Version, source: Source, split: str | None) -> list[str]:
    """Whether the split is what it was when the model was trained, in a sentence if not."""
    if source.version is None or split is None:
        return []
    before = repository.version(source.version)
    changed = len(changed_in_splits(before, version, [split])) if before.digest != version.digest else 0
    told = f"{changed:,} samples of the split {split!r} were added, removed or changed since {before.name}"
    return [f"{told}, which the model was trained on."] if changed else []


def measure(
    judged: Judged, samples: pd.DataFrame, groups: Ints, version: Version, resamples: int | None, seed: int
) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
    """The headline numbers with their intervals, and each by slice, worst first."""
    own, mine = groups[judged.judged], samples.iloc[judged.judged].reset_index(drop=True)
    parts = slice_values(mine, version.schema)
    number = resamples or judged.resamples or RESAMPLES
    overall, slices = {}, {}
    for name, metric in judged.metrics.items():
        overall[name] = asdict(estimate(metric, own, resamples=number, seed=seed))
    for name, metric in list(judged.metrics.items())[:1]:
        found = by_slice(metric, parts, own, larger_is_better=name not in judged.smaller, resamples=number, seed=seed)
        slices[name] = [item.as_dict() for item in found]
    return overall, slices


def _info(version: Version, part: Part, answers: Answers, judged: Judged, parameters: dict[str, Any]) -> dict[str, Any]:
    resamples = parameters["resamples"]
    intervals, slices = measure(judged, part.samples, part.groups, version, resamples, parameters["seed"])
    headline = judged.headline
    return {
        "version": version.name,
        "commit": version.digest,
        "schema": version.commit.schema,
        "message": version.commit.message,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": {
            "label": answers.model.label,
            "name": answers.model.name,
            "revision": answers.model.revision,
            "digest": answers.model.digest,
        },
        "split": parameters["split"],
        "where": parameters["where"],
        "kind": judged.kind,
        "items": {"chosen": len(part.samples), "judged": len(judged.judged), "errors": len(judged.failures)},
        "metric": {
            "name": headline,
            "value": judged.numbers[headline],
            "larger_is_better": headline not in judged.smaller,
        },
        "intervals": intervals,
        "metrics": dict(judged.numbers),
        "details": dict(judged.details),
        "slices": slices,
        "left_out": {name: count for name, count in judged.left_out.items() if count},
        "faults": [
            {"sample_id": fault.sample_id, "uri": fault.uri, "reason": fault.message} for fault in answers.faults
        ],
        "mapping": answers.mapping.report(version.schema.class_names),
        "sealed": list(part.sealed),
        "looks": part.looks,
        "warnings": _warnings(version, part, answers, judged),
        "parameters": parameters | {"resamples": resamples or judged.resamples or RESAMPLES},
    }


def _warnings(version: Version, part: Part, answers: Answers, judged: Judged) -> list[str]:
    """What a reader has to know before believing a number."""
    told = []
    if answers.faults:
        told.append(
            f"{len(answers.faults):,} of {len(part.samples):,} samples have no answer and count on neither side: "
            f"{_listed([str(fault.uri or fault.sample_id) for fault in answers.faults])}."
        )
    told += [f"{count:,} samples {name}." for name, count in judged.left_out.items() if count]
    entries = judged.details.get("classes", ())
    there = {item["name"] for item in entries if item["examples"]}
    if entries:
        absent = [name for name in version.schema.class_names if name not in there]
        if absent:
            told.append(f"Classes without an example, of which nothing can be said: {_listed(absent)}.")
        if len(there) == 1:
            told.append(f"All examples are of one class, {next(iter(there))!r}: being right says little.")
        unreached = [name for name in answers.mapping.unreached(version.schema.class_names) if name in there]
        if unreached:
            told.append(f"Classes that the model cannot name, and always gets wrong: {_listed(unreached)}.")
    if part.looks:
        told.append(f"The sealed split {part.sealed[0]!r} was looked at {part.looks} times before.")
    return told


def refuse_nothing(judged: Judged, answers: Answers, version: Version) -> None:
    if len(judged.judged) and len(judged.things):
        return
    if answers.faults and not answers.answered.any():
        first = answers.faults[0]
        raise NotFoundError(
            f"The model {answers.model.label} says nothing of any of these samples; {first.uri}: {first.message}.",
            remedy="Let it predict them first, or check that the images are there.",
        )
    raise NotFoundError(
        f"No sample chosen of {version.name} has a {answers.kind} by people to judge the model by.",
        remedy="Label some, or choose another split.",
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else "")
