"""Choose the samples that are worth labeling next, and record the round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from datasetops.active_learning.auto import AUTO, choice
from datasetops.active_learning.candidates import Candidates, find_candidates
from datasetops.active_learning.minutes import Minutes, fill_budget, predict_minutes
from datasetops.active_learning.pool import Ints, Picks, Pool, Strategy
from datasetops.active_learning.quotas import CLASS, Quota, balanced, check_quotas, parse_quota, rows_with, slice_texts
from datasetops.active_learning.rounds import Round, record_round
from datasetops.active_learning.scores import least_confidence
from datasetops.active_learning.signals import gather
from datasetops.active_learning.spread import Spread, near_in
from datasetops.active_learning.strategies import STRATEGIES, find_strategy
from datasetops.errors import DatasetOpsError, did_you_mean
from datasetops.manifest import Repository, Version
from datasetops.progress import Progress, no_progress

DEFAULT_N: Final = 100
_NO_CLASSES: Final = "class: nothing says which class the items may be; give --predictions, or label a few first"
_ROOM: Final = 1.25  # times as many items as a budget should hold: some take less than they usually do


def select(
    repository: Repository,
    version: Version,
    *,
    n: int | None = None,
    strategy: str = "auto",
    probabilities: pd.DataFrame | None = None,
    predictions: Sequence[str] = (),
    mapping: Path | None = None,
    scores: pd.Series[float] | None = None,
    detector: str | None = None,
    model: str | None = None,
    where: str | None = None,
    quotas: Sequence[str] = (),
    balance: str | None = None,
    random_share: float = 0.0,
    budget: float | None = None,
    spread: bool = True,
    seed: int = 0,
    dry_run: bool = False,
    progress: Progress = no_progress,
) -> Round:
    """Choose `n` samples (100 unless told; with a `budget` in minutes as many as fit) and record them as a round.

    The pool is what nobody has labeled yet, or what fulfils the SQL condition `where`, without items that are out for
    labeling. What is known of it: `probabilities` of a model (index sample_id, a column a class); `predictions`, models
    whose predictions are kept, of which several are a committee; `scores` of your own; or a `detector` (a model
    reference) that is asked about changed views of each image. Without any a learner on embeddings of `model` knows the
    labels so far. `quotas` (KEY=VALUE:COUNT or :SHARE%) and `balance` (a slice, or
    "class") are fulfilled as far as the pool goes. A `random_share` is drawn from the whole pool before the strategy
    chooses. With `spread` no two near-duplicates are chosen, and no group takes more than twice its even share. What
    comes out as a round of before is that round. With `dry_run` it gets no name and nothing is recorded.

    Raises NotFoundError for an unknown strategy, ValueError for arguments that cannot be, DatasetOpsError where nothing
    is left to choose from or where the strategy lacks what it needs.
    """
    chosen_by = find_strategy(strategy)
    if n is not None and n < 1:
        raise ValueError(f"n: expected at least 1; got {n}")
    if not 0 <= random_share <= 1:
        raise ValueError(f"random share: expected a share from 0 to 1; got {random_share}")
    found = find_candidates(repository, version, where, labeled_too="votes" in chosen_by.uses)
    notes = list(found.notes)
    by_class = balance == CLASS or any(text.strip().startswith(f"{CLASS}=") for text in quotas)
    if by_class and probabilities is None and not predictions and len(np.unique(found.pool.labels)) < 3:
        raise ValueError(_NO_CLASSES)
    known = gather(
        repository, version, found, chosen_by,
        probabilities=probabilities, predictions=predictions, mapping=mapping, scores=scores, detector=detector,
        model=model, seed=seed, progress=progress,
    )  # fmt: skip
    pool = known.pool
    notes += known.notes
    if chosen_by is AUTO:
        notes.append("auto took {}: {}.".format(*choice(pool)))
    chances = None if pool.probabilities is None else np.asarray(pool.probabilities[pool.candidates], np.float64)
    minutes = predict_minutes(version, found.samples["sample_id"].to_numpy()[pool.candidates], chances)
    wanted = n or DEFAULT_N
    if budget is not None:
        if minutes.each is None:
            remedy = "Say how many with --n." if n is None else "Leave --budget out until more answers are back."
            raise DatasetOpsError(f"No budget can be filled: {minutes.reason}", remedy=remedy)
        if n is None:
            wanted = int(_ROOM * budget / float(minutes.each.mean())) + 1
    asked = min(wanted, len(pool.candidates))
    if asked < wanted and budget is None:
        notes.append(f"{wanted:,} were asked for, and the pool has {asked:,}.")
    limits = [parse_quota(text, asked) for text in quotas]
    check_quotas(limits, asked)
    rng = np.random.default_rng(seed)
    spreader = _spreader(repository, version, found) if spread else Spread()
    drawn = STRATEGIES["random"].pick(pool, round(random_share * asked), rng)  # nothing refused: it stands for the pool
    picks = _by_strategy(found, pool, chosen_by, asked, drawn, limits, balance, rng, spreader, notes)
    picks = _mixed(drawn, picks, rng)
    picks, total = _within(budget, picks, minutes, pool)
    notes += [f"Passed over: {number:,} {reason}." for reason, number in spreader.refused.items()]
    if len(picks.rows) < asked and budget is None:
        notes.append(f"{asked:,} were asked for, and {len(picks.rows):,} are left that may stand together.")
    names = found.samples["sample_id"].to_numpy()
    at_random = set(names[drawn.rows].tolist())
    ids = names[picks.rows].tolist()
    made = Round(
        name="",
        version=version.name,
        commit=version.digest,
        strategy=strategy,
        seed=seed,
        asked=len(ids) if budget is not None and n is None else wanted,
        pool=len(pool.candidates),
        samples=tuple(ids),
        scores=tuple(None if np.isnan(score) else round(float(score), 6) for score in picks.scores),
        reasons=picks.reasons,
        **_thought(found, pool, picks.rows),
        random=tuple(name for name in ids if name in at_random),
        model=known.model,
        embedder=known.embedder,
        minutes=total[0] if total else None,
        minutes_between=total[1:],
        notes=tuple(notes),
        parameters={
            "where": where,
            "quotas": list(quotas),
            "balance": balance,
            "random_share": random_share,
            "budget": budget,
            "spread": spread,
        },
    )
    return made if dry_run else record_round(repository, made)


def _within(budget: float | None, picks: Picks, minutes: Minutes, pool: Pool) -> tuple[Picks, tuple[float, ...]]:
    """The first of the picks, as many as the budget holds; how many minutes they take with its interval, or nothing."""
    if minutes.each is None:
        return picks, ()
    each = minutes.each[np.searchsorted(pool.candidates, picks.rows)]
    if budget is not None:
        fits = fill_budget(each, budget)
        if fits == 0:
            raise DatasetOpsError(
                f"Not one item fits in {budget:g} minutes: the first takes {each[0]:.1f}.",
                remedy="Give a larger --budget.",
            )
        picks = Picks(picks.rows[:fits], picks.scores[:fits], picks.reasons[:fits])
        each = each[:fits]
    return picks, tuple(round(part, 1) for part in minutes.total(each))


def _spreader(repository: Repository, version: Version, found: Candidates) -> Spread:
    has_images = bool(found.samples["sha256"].notna().any())
    near = near_in(repository, found.samples, version.schema) if has_images else None
    return Spread(found.groups, near)


def _by_strategy(
    found: Candidates,
    pool: Pool,
    strategy: Strategy,
    n: int,
    drawn: Picks,
    quotas: Sequence[Quota],
    balance: str | None,
    rng: np.random.Generator,
    spreader: Spread,
    notes: list[str],
) -> Picks:
    """What the strategy chooses beside the random arm: quotas first, then whatever it likes best."""
    left = n - len(drawn.rows)
    pool = pool.without(drawn.rows)
    parts: list[Picks] = []
    batch = drawn.rows
    values: dict[str, pd.Series[str]] = {}

    def take(among: Pool, count: int, why: str = "") -> None:
        nonlocal pool, left, batch
        picks = spreader.choose(among, strategy, min(count, left), rng, batch)
        parts.append(replace(picks, reasons=tuple(f"{reason}{why}" for reason in picks.reasons)))
        pool = pool.without(picks.rows)
        batch = np.concatenate([batch, picks.rows])
        left -= len(picks.rows)

    every = list(quotas)
    for key in dict.fromkeys([*(quota.key for quota in quotas), *([balance] if balance else [])]):
        values[key] = _values(found, pool, key)
    if balance is not None:
        inside = values[balance].iloc[np.concatenate([pool.candidates, drawn.rows])]
        every += balanced(inside, balance, n)
    for quota in every:
        rows = rows_with(values[quota.key], quota.value)
        if not len(rows) and (quota.key != CLASS or quota.value not in found.classes):
            remedy = did_you_mean(quota.value, values[quota.key][values[quota.key] != ""].unique(), noun="values")
            raise ValueError(f"--quota: no sample has {quota}. {remedy}")
        have = int(np.isin(batch, rows).sum())
        missing = quota.count - have
        if missing > 0 and left > 0:
            take(pool.only(rows), missing, f"; for the quota {quota}")
        have = int(np.isin(batch, rows).sum())
        if have < quota.count:
            notes.append(f"The quota {quota} asks for {quota.count:,}, and {have:,} could be had.")
    if left > 0:
        take(pool, left)
    return Picks(
        np.concatenate([part.rows for part in parts]) if parts else np.empty(0, np.int64),
        np.concatenate([part.scores for part in parts]) if parts else np.empty(0),
        tuple(reason for part in parts for reason in part.reasons),
    )


def _values(found: Candidates, pool: Pool, key: str) -> pd.Series[str]:
    if key != CLASS:
        return slice_texts(found.samples, key)
    if pool.probabilities is None:
        raise ValueError(_NO_CLASSES)
    likeliest = np.nan_to_num(pool.probabilities).argmax(axis=1)
    return pd.Series(np.asarray(found.classes, dtype=object)[likeliest])


def _thought(found: Candidates, pool: Pool, rows: Ints) -> dict[str, Any]:
    """What a model thought of the picks before anybody labeled them."""
    if pool.probabilities is None or not len(rows):
        return {}
    chances = np.asarray(pool.probabilities[rows], np.float64)
    return {
        "predicted": tuple(found.classes[code] for code in chances.argmax(axis=1).tolist()),
        "doubts": tuple(round(float(doubt), 6) for doubt in least_confidence(chances)),
    }


def _mixed(drawn: Picks, picks: Picks, rng: np.random.Generator) -> Picks:
    """Both arms in one order, so that annotators cannot tell them apart: each in its own, at places drawn at random."""
    n = len(drawn.rows) + len(picks.rows)
    places: Ints = np.sort(rng.choice(n, len(drawn.rows), replace=False)).astype(np.int64)
    others = np.setdiff1d(np.arange(n), places)
    rows, scores = np.empty(n, np.int64), np.empty(n)
    reasons: list[Any] = [""] * n
    for part, where in ((drawn, places), (picks, others)):
        rows[where], scores[where] = part.rows, part.scores
        for place, reason in zip(where.tolist(), part.reasons, strict=True):
            reasons[place] = reason
    return Picks(rows, scores, tuple(reasons))
