"""Samples of production against what a model was trained on: the verb."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from datasetops.audits.record import plain
from datasetops.audits.sets.baseline import baseline_of
from datasetops.errors import ConflictError, NotFoundError
from datasetops.evaluation.answers import Answers, ask, kind_of, open_source
from datasetops.evaluation.judged import Judged
from datasetops.evaluation.judging import judge
from datasetops.evaluation.resampling import Estimate, Ratio, estimate
from datasetops.ledger import Event
from datasetops.manifest import Repository, Version
from datasetops.models.embed import embed_stored
from datasetops.monitor.policy import MonitorPolicy
from datasetops.monitor.production import Production, production_of
from datasetops.monitor.shifts import (
    FEWEST,
    ClassShift,
    ConfidenceShift,
    ImageShift,
    Ints,
    SliceShift,
    class_shifts,
    confidence_shift,
    groups_of,
    image_shift,
    plain_rows,
    slice_shifts,
    some_images,
)
from datasetops.preannotate.rows import DEFAULT_THRESHOLDS
from datasetops.progress import Progress, no_progress
from datasetops.training.record import TRAIN, VALIDATION, ModelRecord, model_samples

EVENT: Final = "monitor"
ALPHA: Final = 0.01  # chance of a false alarm of each kind
_NAMED: Final = 3  # values that a sentence names
Interval: TypeAlias = tuple[float, float, float]  # value, low, high


@dataclass(frozen=True)
class Alarm:
    """A limit that is passed: `value` against `limit`."""

    name: str
    message: str
    value: float
    limit: float


@dataclass(frozen=True)
class Labeled:
    """How right the model is on what was labeled since: a metric with its interval, and `before` on its validation samples.

    `drop`: what it lost since, with its interval (MOVER: Zou and Donner, Statistics in Medicine 27, 2008). `gap` is mean
    confidence less the share that is right, with its interval. None where it cannot be told; intervals of few are NaN.
    """

    samples: int
    truth_from: str
    metric: str
    value: float
    low: float
    high: float
    before: float | None
    drop: Interval | None
    ece: float | None
    gap: Interval | None


@dataclass(frozen=True)
class Monitoring:
    """What was seen. Parts that could not be compared are None or empty, and `notes` say why."""

    model: str
    version: str
    against: str
    samples_of: str
    time: str
    samples: int
    shared: int
    unreadable: Mapping[str, str]
    images: ImageShift | None
    slices: tuple[SliceShift, ...]
    classes: tuple[ClassShift, ...]
    confidence: ConfidenceShift | None
    labeled: Labeled | None
    alarms: tuple[Alarm, ...]
    notes: tuple[str, ...]
    policy: str

    @property
    def passed(self) -> bool:
        return not self.alarms

    def as_dict(self) -> dict[str, Any]:
        told = dict(vars(self)) | {"passed": self.passed}
        for name in ("slices", "classes", "alarms"):
            told[name] = plain_rows(told[name])
        for name in ("images", "confidence", "labeled"):
            told[name] = None if told[name] is None else vars(told[name])
        return dict(plain(told))


def monitor(
    repository: Repository,
    record: ModelRecord,
    samples: str,
    policy: MonitorPolicy,
    *,
    against: str | None = None,
    device: str = "auto",
    seed: int = 0,
    progress: Progress = no_progress,
) -> Monitoring:
    """Compare samples of production (a folder, table or version) with those that a model learned from.

    `against` names a version, folder or table to compare with instead. Compared are how images look, the keys of their
    metadata, and the classes of the model's answers, which are set against its answers on the samples that it was
    validated on. Where samples have labels by people, metric and calibration are told as well. The ledger keeps what came
    out. Raises NotFoundError where no sample is left, ConflictError where the model's version is not what it was, and
    what `baseline_of` and `open_labeler` raise.
    """
    version = repository.version(record.version)
    if version.digest != record.commit:
        raise ConflictError(
            f"{version.name} is not the version that {record.name} was trained on.",
            remedy="Put the repository back from a backup.",
        )
    notes: list[str] = []
    ids = model_samples(repository, record)
    every = version.table("samples").to_pandas()
    learned = every[every["sample_id"].isin([*ids[TRAIN], *ids[VALIDATION]])].reset_index(drop=True)
    before, name = learned, version.name
    if against is not None:
        base = baseline_of(repository, against, progress=progress)
        before, name = base.samples, base.name
    taught = {*learned["sha256"].dropna(), *before["sha256"].dropna()}
    found = production_of(repository, samples, version, taught=taught, progress=progress)
    if found.shared:
        notes.append(f"{found.shared:,} samples that training had too are left out.")
    if not len(found.samples):
        raise NotFoundError(f"{samples} has no sample that is new to {record.name}.", remedy="Name newer samples.")
    if len(found.samples) < FEWEST:
        notes.append(f"Fewer than {FEWEST} samples: too few to tell a change from chance.")
    source = open_source(repository, version, f"model:{record.name}", device=device)
    kind = kind_of(source, version, record.task)
    now = ask(repository, version, source, found.samples, kind, progress=progress)
    known, unseen = _reference(learned, ids[VALIDATION], notes)
    then = ask(repository, version, source, known, kind, progress=progress)
    images = _images(repository, before, found.samples, seed, progress)
    if images is None:
        notes.append("Images were not compared: too few of them are at hand.")
    enough = min(len(found.samples), len(before)) >= FEWEST
    slices = slice_shifts(before, found.samples, alpha=ALPHA, seed=seed) if enough else []
    if enough and not slices:
        notes.append("Slices were not compared: the two share no key of metadata.")
    classes, confidence = _answers(version, (known, then), (found.samples, now), notes)
    labeled = _labeled(version, record, found, now, (known, then) if unseen else None, seed)
    unreadable = {str(fault.uri): fault.message for fault in now.faults} | found.unreadable
    if labeled is None:
        notes.append("Nothing of it was labeled since, so that nothing is known of how right the model is.")
    parts = (images, slices, classes, confidence, labeled)
    total = len(found.samples) + len(set(found.unreadable) - set(found.samples["uri"]))
    alarms = _alarms(policy, total, unreadable, *parts)
    result = Monitoring(
        record.name, record.version, name, found.name, datetime.now(UTC).isoformat(timespec="seconds"),
        len(found.samples), found.shared, unreadable, images, tuple(slices), tuple(classes), confidence, labeled,
        tuple(alarms), tuple(notes), policy.name,
    )  # fmt: skip
    _record(repository, record, policy, result)
    return result


def _images(
    repository: Repository, before: pd.DataFrame, now: pd.DataFrame, seed: int, progress: Progress
) -> ImageShift | None:
    sides = []
    for samples in (before, now):
        some = some_images(samples, seed)
        if len(some) < FEWEST:
            return None
        reference = repository.settings.model
        vectors, _ = embed_stored(
            repository, reference, some["sha256"].tolist(), some["uri"].tolist(), progress=progress
        )
        sides.append((some, vectors))
    return image_shift(*sides, seed=seed)


def _reference(learned: pd.DataFrame, validated: list[str], notes: list[str]) -> tuple[pd.DataFrame, bool]:
    """Samples whose answers stand for how it was, and whether the model did not learn from them: those that it was
    validated on, for want of them all."""
    if len(validated) < FEWEST:
        notes.append("Answers are compared with those on the training samples: too few were set apart to validate on.")
        return learned, False
    return learned[learned["sample_id"].isin(validated)].reset_index(drop=True), True


def _answers(
    version: Version, then: tuple[pd.DataFrame, Answers], now: tuple[pd.DataFrame, Answers], notes: list[str]
) -> tuple[list[ClassShift], ConfidenceShift | None]:
    """Shifts of the classes of the answers, and mean confidence before and now."""
    names = version.schema.class_names
    sides = [_said(samples, answers, names) for samples, answers in (then, now)]
    if min(len(codes) for codes, _, _ in sides) < FEWEST:
        notes.append(f"The model's answers were not compared: fewer than {FEWEST} on one side.")
        return [], None
    (codes, groups, sure), (codes_now, groups_now, sure_now) = sides
    shifts = class_shifts((codes, groups), (codes_now, groups_now), names)
    return shifts, confidence_shift((sure, groups), (sure_now, groups_now))


def _said(samples: pd.DataFrame, answers: Answers, names: tuple[str, ...]) -> tuple[Ints, Ints, Any]:
    """Class, group of the sample, and score of each answer: the best class of an image, or a region from its threshold on."""
    groups = groups_of(samples)
    if answers.probabilities is not None:
        rows = np.flatnonzero(answers.answered)
        table = answers.probabilities[rows]
        return table.argmax(axis=1).astype(np.int64), groups[rows], table.max(axis=1)
    least = DEFAULT_THRESHOLDS.get(answers.kind, 0.0)
    rows_ = answers.rows.filter(pc.greater_equal(answers.rows["score"], least))
    codes = pd.Categorical(rows_["label"].to_pylist(), categories=list(names)).codes.astype(np.int64)
    owner = pd.Index(samples["sample_id"]).get_indexer(pd.Index(rows_["sample_id"].to_pylist(), dtype=object))
    there = (codes >= 0) & (owner >= 0)
    return codes[there], groups[owner[there]], rows_["score"].to_numpy()[there]


def _labeled(
    version: Version,
    record: ModelRecord,
    found: Production,
    answers: Answers,
    then: tuple[pd.DataFrame, Answers] | None,
    seed: int,
) -> Labeled | None:
    """Metric and calibration where people said what is right; `then`: what it is compared with, and the answers there."""
    if not len(found.truth):
        return None
    judged, groups = _judged(version, found.samples, answers, found.truth)
    if not len(judged.judged):
        return None
    name = record.metric if record.metric in judged.metrics else next(iter(judged.metrics))
    now = estimate(judged.metrics[name], groups, seed=seed)
    before = drop = gap = ece = None
    if then is not None:
        judged_then, groups_then = _judged(version, *then, version.labels())
        if len(judged_then.judged):
            past = estimate(judged_then.metrics[name], groups_then, seed=seed)
            before, drop = past.value, _difference(past, now)
    elif isinstance(record.metrics.get(name), int | float):
        before = float(record.metrics[name])
        drop = _difference(Estimate(before, before, before), now)
    if answers.probabilities is not None and not version.schema.multi_label:
        ece = judged.details["calibration"]["ece"]
        sure = answers.probabilities[judged.judged].max(axis=1)
        right = judged.things["right"].to_numpy(dtype=np.float64)
        told = estimate(Ratio(sure - right, np.ones(len(sure))), groups, seed=seed)
        gap = (told.value, told.low, told.high)
    samples = len(judged.judged)
    return Labeled(samples, found.truth_from, name, now.value, now.low, now.high, before, drop, ece, gap)


def _judged(version: Version, samples: pd.DataFrame, answers: Answers, truth: pa.Table) -> tuple[Judged, Ints]:
    """Answers against what people said of those samples that they said something of, and the groups of these."""
    labeled = samples["sample_id"].isin(set(truth["sample_id"].to_pylist())).to_numpy()
    part = replace(answers, answered=answers.answered & labeled)
    groups = groups_of(samples)
    judged = judge(part, samples, truth, version.schema, groups, score=DEFAULT_THRESHOLDS.get(answers.kind, 0.0))
    return judged, groups[judged.judged]


def _difference(before: Estimate, now: Estimate) -> Interval:
    """What was lost, with its interval, of two numbers that are independent."""
    value = before.value - now.value
    low = math.hypot(before.value - before.low, now.high - now.value)
    high = math.hypot(before.high - before.value, now.value - now.low)
    return value, value - low, value + high


def _alarms(
    policy: MonitorPolicy,
    total: int,
    unreadable: Mapping[str, str],
    images: ImageShift | None,
    slices: list[SliceShift],
    classes: list[ClassShift],
    confidence: ConfidenceShift | None,
    labeled: Labeled | None,
) -> list[Alarm]:
    """What is beyond a limit, and, where chance plays a part, surely so."""
    found: list[Alarm] = []
    share, limit = len(unreadable) / total, policy.unreadable
    if limit is not None and share > limit:
        some = ", ".join(list(unreadable)[:_NAMED]) + (", …" if len(unreadable) > _NAMED else "")
        found.append(Alarm("unreadable", f"{len(unreadable):,} of {total:,} cannot be read: {some}", share, limit))
    limit = policy.told_apart
    if limit is not None and images is not None and images.p <= ALPHA and images.told_apart >= limit:
        text = f"images look otherwise: of one of each side the new one is told in {images.told_apart:.0%} of cases"
        found.append(Alarm("told_apart", f"{text} (p = {images.p:.2g})", images.told_apart, limit))
    for one in slices:
        limit = policy.stability
        if limit is not None and one.index >= limit and one.p <= ALPHA:
            text = f"{one.key}: population stability index {one.index:.2f}, {one.expected:.2f} by chance; {_moved(one)}"
            found.append(Alarm("stability", text, one.index, limit))
        if policy.missing_slices and one.gone:
            text = f"no sample any more with {', '.join(one.gone)}"
            found.append(Alarm("missing_slices", text, float(len(one.gone)), 0.0))
    for shift in classes:
        limit = policy.class_shift
        if limit is not None and abs(shift.effect) >= limit and shift.p <= ALPHA:
            text = f"{shift.name} is {shift.now:.1%} of the answers, {shift.before:.1%} before (p = {shift.p:.1g})"
            found.append(Alarm("class_shift", text, abs(shift.effect), limit))
    limit = policy.confidence_shift
    if limit is not None and confidence is not None and confidence.p <= ALPHA:
        fall = confidence.before - confidence.now
        if fall >= limit:
            text = f"mean confidence is {confidence.now:.2f}, {confidence.before:.2f} before (p = {confidence.p:.1g})"
            found.append(Alarm("confidence_shift", text, fall, limit))
    return found if labeled is None else found + _labeled_alarms(policy, labeled)


def _labeled_alarms(policy: MonitorPolicy, labeled: Labeled) -> list[Alarm]:
    found = []
    limit = policy.accuracy_drop
    if limit is not None and labeled.drop is not None and labeled.drop[1] > limit:
        text = (
            f"{labeled.metric} is {labeled.value:.3f} ({labeled.low:.3f} to {labeled.high:.3f}) on {labeled.samples:,} "
            f"labeled samples, {labeled.before:.3f} before: lower by {labeled.drop[1]:.3f} to {labeled.drop[2]:.3f}"
        )
        found.append(Alarm("accuracy_drop", text, labeled.drop[0], limit))
    limit = policy.calibration_gap
    if limit is not None and labeled.gap is not None:
        value, low, high = labeled.gap
        if low > limit or high < -limit:
            word = "surer" if value > 0 else "less sure"
            text = f"the model is {word} than right by {abs(value):.2f} ({low:+.2f} to {high:+.2f})"
            found.append(Alarm("calibration_gap", text, abs(value), limit))
    return found


def _moved(one: SliceShift) -> str:
    rows = sorted(one.shares.items(), key=lambda item: (-abs(item[1][1] - item[1][0]), item[0]))[:_NAMED]
    return "; ".join(f"{name}: {old:.1%} → {new:.1%}" for name, (old, new) in rows)


def _record(repository: Repository, record: ModelRecord, policy: MonitorPolicy, found: Monitoring) -> None:
    """The numbers in short; what was compared can be compared again."""
    outputs = {
        "passed": found.passed,
        "alarms": [alarm.name for alarm in found.alarms],
        "samples": found.samples,
        "unreadable": len(found.unreadable),
        "told_apart": None if found.images is None else found.images.told_apart,
        "metric": None if found.labeled is None else found.labeled.value,
    }
    event = Event(
        EVENT,
        repository.settings.actor,
        inputs={"model": record.name, "digest": record.digest, "version": record.version, "commit": record.commit},
        outputs=plain(outputs),
        parameters={"samples": found.samples_of, "against": found.against, "policy": policy.digest},
    )
    repository.ledger.record(event)
