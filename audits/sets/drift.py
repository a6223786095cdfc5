"""What differs from another version, or from samples of production: images, slices, classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from datasetops.audits.base import AuditContext, CheckResult, skipped
from datasetops.audits.charts import bars, scatter
from datasetops.audits.images.outliers import projected
from datasetops.audits.labels.label_probabilities import grouped_with_copies
from datasetops.audits.samplewise import SampleFindings, sample_scores
from datasetops.audits.sets.coverage import attributes
from datasetops.audits.sets.multiple_tests import holm
from datasetops.audits.sets.slices import Principal, unit_rows
from datasetops.audits.sets.two_sample import (
    KernelTest,
    block_inflation,
    kernel_test,
    nearest_distance,
    population_stability,
    share_shift,
    stability_by_chance,
)
from datasetops.records import Finding

Vectors: TypeAlias = npt.NDArray[np.float32]
Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]
Bools: TypeAlias = npt.NDArray[np.bool_]

ALPHA: Final = 0.01  # chance of a false alarm about the images, about any of the keys, and about any of the classes
_NEXT_TO_CERTAIN: Final = 0.001
_FEWEST: Final = 30  # samples on each side; among fewer nothing but the coarsest drift could be told from chance
_AT_MOST: Final = 2_000  # images a side that are compared with each other: 64 MB of similarities
_NEAREST_AT_MOST: Final = 5_000  # images a side among which nearest ones are looked for: seconds
# Cohen's small and large difference, 0.2 and 0.8 deviations (1988), as the chance to tell one item of each set apart
_SMALL: Final = 0.556
_LARGE: Final = 0.714
_STABLE: Final = 0.1  # population stability index up to which a key is usually taken for stable …
_CHANGED: Final = 0.25  # … and from which on for changed
_SHIFT: Final = (0.1, 0.2)  # Cohen's h of a class's share: half of a small difference, and a small one
_BINS: Final = 10  # of numbers, as is usual for that index
_UNUSUAL: Final = 0.99  # of the baseline's own images have a nearer neighbour in it than one that is called far
_FAR: Final = 20  # most drifted samples that are reported
_POINTS: Final = 1_000  # a side in the plot
_MOVED: Final = 3  # values that a sentence names
_CHARTS: Final = 10


@dataclass(frozen=True)
class Side:
    """Samples to compare and their annotations; `blocks` (N,) numbers what belongs together, None where nothing does.

    `embeddings` are of more samples: those of these stand in `rows` (N,).
    """

    name: str
    samples: pd.DataFrame
    annotations: pd.DataFrame
    blocks: Ints | None
    embeddings: Callable[[], Vectors]
    rows: Ints


class Drift:
    """Compares with the baseline what is only in the audited version, where the two share samples."""

    name = "drift"
    title = "images, slices and classes that differ from another version or from production"
    needs = "--against VERSION, FOLDER or TABLE"
    cost = "the embeddings of both; then seconds"

    def run(self, context: AuditContext) -> CheckResult:
        if context.baseline is None:
            return skipped("nothing to compare with is named (--against)")
        before, now, compared = sides(context)
        if min(len(before.samples), len(now.samples)) < _FEWEST:
            return skipped(_too_few(context, compared))
        summary: dict[str, Any] = {"compared": compared, "charts": []}
        scores = CheckResult([]).scores
        findings: list[Finding] = []
        if min(_with_images(before), _with_images(now)) < _FEWEST:
            summary["images"] = f"not compared: fewer than {_FEWEST} on one side are at hand"
        else:
            findings, scores, told = _images(before, now, context)
            summary["charts"] += told.pop("charts", [])
            summary |= told
        for part in (_slices, _classes):
            found, told = part(before, now, context)
            findings += found
            summary["charts"] += told.pop("charts", [])
            summary |= told
        return CheckResult(findings, scores, summary)


def sides(context: AuditContext) -> tuple[Side, Side, str]:
    """The baseline's samples and the audited ones, and a sentence about which they are.

    Samples in both say nothing about what has changed, and are no independent draws. So where there are any, those that
    were added are compared with all of the baseline, or, if too few were, all of the audited with those that are gone.
    """
    if context.baseline is None:
        raise ValueError("baseline: expected one")
    base = context.baseline
    gone, added = _alone(base.samples, context.samples)
    rows: list[Ints] = [np.arange(len(gone)), np.arange(len(added))]
    shared = int((~added).sum())
    text = f"{len(added):,} samples with {len(gone):,} of {base.name}"
    if shared and (added.sum() >= _FEWEST or gone.sum() < _FEWEST):
        rows[1] = np.flatnonzero(added)
        text = (
            f"{len(rows[1]):,} samples that {base.name} does not have with its {len(gone):,} ({shared:,} are in both)"
        )
    elif shared:
        rows[0] = np.flatnonzero(gone)
        text = f"{len(added):,} samples with {len(rows[0]):,} of {base.name} that are gone ({shared:,} are in both)"
    before = _side(base.name, base.samples, base.annotations, base.embeddings, rows[0])
    return before, _side("now", context.samples, context.annotations, context.embeddings, rows[1]), text


def _alone(before: pd.DataFrame, now: pd.DataFrame) -> tuple[Bools, Bools]:
    """Which samples of each side the other does not have."""
    keys = [samples["sha256"].fillna(samples["sample_id"]).astype(object) for samples in (before, now)]
    return (~keys[0].isin(keys[1])).to_numpy(), (~keys[1].isin(keys[0])).to_numpy()


def _too_few(context: AuditContext, compared: str) -> str:
    """Why nothing is compared."""
    base = context.baseline
    if base is None:
        raise ValueError("baseline: expected one")
    gone, added = _alone(base.samples, context.samples)
    shared = int((~added).sum())
    if not shared:
        return f"{compared}: {_FEWEST} on each side are needed"
    reason = (
        f"drift is measured on samples that only one side has: {int(added.sum()):,} are not in {base.name}, "
        f"{int(gone.sum()):,} of its samples are not here, and {_FEWEST} of either are needed"
    )
    # a version's name is a word; that of a folder or table ends with a digest in brackets
    hint = "" if base.name.endswith(")") else f"; what changed in the {shared:,} that both have: dsops diff {base.name}"
    return reason + hint


def _side(
    name: str, samples: pd.DataFrame, annotations: pd.DataFrame, embeddings: Callable[[], Vectors], rows: Ints
) -> Side:
    if len(rows) < len(samples):
        chosen = samples.iloc[rows].reset_index(drop=True)
        annotations = annotations[annotations["sample_id"].astype(object).isin(set(chosen["sample_id"]))]
    else:
        chosen = samples.reset_index(drop=True)
    blocks = np.unique(grouped_with_copies(chosen).to_numpy(), return_inverse=True)[1]
    alone = len(blocks) == int(blocks.max(initial=-1)) + 1
    return Side(name, chosen, annotations, None if alone else blocks, embeddings, rows)


def _with_images(side: Side) -> int:
    return int(side.samples["sha256"].notna().sum())


def _blocks(before: Side, now: Side, rows: tuple[Ints, Ints] | None = None) -> Ints | None:
    """Blocks of some rows of both sides, the baseline's first; None where no rows belong together."""
    if before.blocks is None and now.blocks is None:
        return None
    both, start = [], 0
    for place, side in enumerate((before, now)):
        own = np.arange(len(side.samples)) if side.blocks is None else side.blocks
        both.append((own if rows is None else own[rows[place]]) + start)
        start += len(side.samples)
    joined: Ints = np.concatenate(both)
    return joined


def _images(before: Side, now: Side, context: AuditContext) -> tuple[list[Finding], pd.DataFrame, dict[str, Any]]:
    """Compare embeddings: as sets, and those of now that are farthest from the baseline."""
    rng = np.random.default_rng(context.seed)
    vectors, known, unreadable = [], [], 0
    for side in (before, now):
        array = side.embeddings()
        readable = np.flatnonzero(np.isfinite(array[side.rows, 0]))
        unreadable += len(side.rows) - len(readable)
        chosen = np.sort(rng.permutation(readable)[:_NEAREST_AT_MOST])
        vectors.append(unit_rows(projected(array[side.rows[chosen]], context.seed)))
        known.append(chosen)
    if vectors[0].shape[1] != vectors[1].shape[1]:
        raise ValueError("baseline: its embeddings are of another model than the audited version's")
    if min(map(len, known)) < _FEWEST:
        return [], CheckResult([]).scores, {"images": f"not compared: fewer than {_FEWEST} on one side can be read"}
    some = tuple(np.sort(rng.permutation(len(rows))[:_AT_MOST]) for rows in known)
    blocks = _blocks(before, now, (known[0][some[0]], known[1][some[1]]))
    test = kernel_test(vectors[0][some[0]], vectors[1][some[1]], blocks=blocks, seed=context.seed)
    finding = _image_finding(test, before.name, None if blocks is None else len(np.unique(blocks)))
    told: dict[str, Any] = {
        "images compared": f"{len(some[0]):,} and {len(some[1]):,}"
        + ("" if max(map(len, known)) <= _AT_MOST else ", drawn at random"),
        "discrepancy (MMD²)": round(test.mmd2, 6),
        "p of the images": float(f"{test.p_value:.3g}"),
        "told apart": round(test.told_apart, 4),
        "charts": [_cloud(vectors[0], vectors[1], before.name, context.seed)],
    }
    if unreadable:
        told["images that cannot be read"] = unreadable
    own = nearest_distance(vectors[0], vectors[0], itself=True)
    distance = nearest_distance(vectors[1], vectors[0])
    nearer = np.searchsorted(np.sort(own), distance, side="left") / len(own)
    samples = now.samples.iloc[known[1]]
    scores = sample_scores(samples, np.ones(len(samples), dtype=bool), 1 - nearer)
    if finding is None or test.p_value > ALPHA:
        return [] if finding is None else [finding], scores, told
    about = SampleFindings(Drift.name, samples)
    far = [int(i) for i in np.argsort(-distance, kind="stable")[:_FAR] if nearer[i] >= _UNUSUAL]
    text = f"far from all of {before.name}: {{:.2f}} from the nearest image; half of its own are within {np.median(own):.2f}"
    return [finding, *(about.at(i, "low", 1 - nearer[i], text.format(distance[i])) for i in far)], scores, told


def _image_finding(test: KernelTest, name: str, groups: int | None) -> Finding | None:
    apart = (
        f"the images differ from those of {name}: shown one of each, the new one is told in {test.told_apart:.0%} of "
        "cases (50% is chance)"
    )
    score = min(1.0, 2 * (1 - test.told_apart))
    if test.least_p > ALPHA:
        if test.p_value > test.least_p or test.told_apart < _LARGE:
            return None
        text = (
            f"{apart}; {groups} groups are too few to tell that from how any two groups differ (p = {test.p_value:.2g})"
        )
        return Finding(Drift.name, "low", score, text, given="images")
    if test.p_value > ALPHA:
        return None
    severity = "low" if test.told_apart < _SMALL else "medium"
    if test.p_value <= _NEXT_TO_CERTAIN and test.told_apart >= _LARGE:
        severity = "high"
    return Finding(Drift.name, severity, score, f"{apart}, p = {test.p_value:.2g}", given="images")


def _cloud(before: Vectors, now: Vectors, name: str, seed: int) -> dict[str, Any]:
    """Both sides on their first two principal components."""
    rng = np.random.default_rng(seed)
    drawn = [side[np.sort(rng.permutation(len(side))[:_POINTS])] for side in (before, now)]
    plane = Principal(np.concatenate(drawn), 2, seed)
    series = {title: np.round(plane.of(side), 4).tolist() for title, side in zip((name, "now"), drawn, strict=True)}
    return scatter(
        "Images on their first two principal components", series, across="first component", up="second component"
    )


@dataclass(frozen=True)
class _Key:
    """How many samples have each of a key's values, before and now; its stability, that of chance, and its p."""

    name: str
    values: tuple[str, ...]
    before: Ints
    now: Ints
    index: float
    expected: float
    p_value: float


def _slices(before: Side, now: Side, context: AuditContext) -> tuple[list[Finding], dict[str, Any]]:
    """Population stability of each key that both sides have, beside what chance would make of it."""
    keys, absent = _keys(before, now, context.seed)
    told: dict[str, Any] = {"keys compared": ", ".join(key.name for key in keys) or "none"}
    if absent:
        told["keys that one side lacks"] = ", ".join(absent)
    findings = []
    for key, p in zip(keys, holm(np.array([key.p_value for key in keys])), strict=True):
        if key.index < _STABLE or p > ALPHA:
            continue
        old, new = key.before / key.before.sum(), key.now / key.now.sum()
        moved = [at for at in np.argsort(-np.abs(new - old), kind="stable")[:_MOVED] if new[at] != old[at]]
        text = (
            f"{key.name}: population stability index {key.index:.2f} against {before.name}, "
            f"{key.expected:.2f} by chance alone; "
        )
        text += "; ".join(f"{key.values[at]}: {old[at]:.1%} → {new[at]:.1%}" for at in moved)
        severity = "medium" if key.index >= _CHANGED else "low"
        findings.append(Finding(Drift.name, severity, 1 / (1 + key.index / _CHANGED), text, given=key.name))
    shown = sorted(keys, key=lambda key: -key.index)[:_CHARTS]
    return findings, told | {"charts": [_key_chart(key, before.name) for key in shown]}


def _keys(before: Side, now: Side, seed: int) -> tuple[list[_Key], list[str]]:
    """The keys that can be compared, and those that one side has no value of."""
    size = len(before.samples)
    both = pd.concat([before.samples, now.samples], ignore_index=True)
    blocks = _blocks(before, now)
    keys, absent = [], []
    for name, coded in attributes(both, bins=_BINS, learned_from=slice(0, size)).items():
        if name == "split":  # where a sample was put, not what it is
            continue
        values, codes = np.unique(np.where(coded.codes >= 0, coded.codes, len(coded.names)), return_inverse=True)
        old, new = (np.bincount(half, minlength=len(values)) for half in (codes[:size], codes[size:]))
        known = values < len(coded.names)
        if not (old[known].any() and new[known].any()):
            absent.append(name)
            continue
        shares = (old + new) / len(both)
        inflation = (1.0, 1.0)
        if blocks is not None:
            inflation = (
                block_inflation(codes[:size], blocks[:size], shares),
                block_inflation(codes[size:], blocks[size:], shares),
            )
        expected, p = stability_by_chance(old, new, inflation=inflation, seed=seed)
        names = (*coded.names, f"{name} is missing")
        keys.append(
            _Key(name, tuple(names[at] for at in values), old, new, population_stability(old, new), expected, p)
        )
    return keys, absent


def _key_chart(key: _Key, baseline: str) -> dict[str, Any]:
    return bars(
        f"Shares by {key.name}",
        _shares(
            [name.removeprefix(f"{key.name} = ") for name in key.values],
            key.before / key.before.sum(),
            key.now / key.now.sum(),
            baseline,
        ),
        note=f"Population stability index {key.index:.3f}; {key.expected:.3f} is expected by chance.",
        beside=True,
    )


def _shares(names: Sequence[str], before: Floats, now: Floats, baseline: str) -> dict[str, dict[str, float]]:
    """Series of a chart."""
    rows = zip(names, before.tolist(), now.tolist(), strict=True)
    return {name: {baseline: round(old, 4), "now": round(new, 4)} for name, old, new in rows}


def _classes(before: Side, now: Side, context: AuditContext) -> tuple[list[Finding], dict[str, Any]]:
    """Shares of the classes among all labels."""
    names = list(context.schema.class_names)
    codes, blocks = [], []
    for side in (before, now):
        labels = side.annotations[["sample_id", "label"]].dropna()
        code = pd.Categorical(labels["label"], categories=names).codes.astype(np.int64)
        owner = pd.Index(side.samples["sample_id"]).get_indexer(pd.Index(labels["sample_id"]))
        known = (code >= 0) & (owner >= 0)
        codes.append(code[known])
        blocks.append((np.arange(len(side.samples)) if side.blocks is None else side.blocks)[owner[known]])
    if min(map(len, codes)) < _FEWEST:
        return [], {"classes": "not compared: there are too few labels on one side"}
    alone = all(len(np.unique(block)) == len(block) for block in blocks)
    shift = share_shift(codes[0], codes[1], len(names), blocks=None if alone else (blocks[0], blocks[1]))
    p = holm(shift.p_value)
    effect = 2 * np.abs(np.arcsin(np.sqrt(shift.now)) - np.arcsin(np.sqrt(shift.before)))
    findings = []
    for k in np.flatnonzero((p <= ALPHA) & (effect >= _SHIFT[0])):
        text = (
            f"{names[k]} is {shift.now[k]:.1%} of the labels, {shift.before[k]:.1%} in {before.name} (p = {p[k]:.1g})"
        )
        severity = "medium" if effect[k] >= _SHIFT[1] else "low"
        findings.append(Finding(Drift.name, severity, float(1 - effect[k] / np.pi), text, given=names[k]))
    order = np.argsort(-(shift.before + shift.now), kind="stable")
    values = _shares([names[k] for k in order], shift.before[order], shift.now[order], before.name)
    return findings, {"charts": [bars("Shares of the classes", values, beside=True)]}
