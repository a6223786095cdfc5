"""Which classes of an image are probably missing or wrong, where several may hold: each class against the rest.

Out-of-sample probabilities are the log odds of two views, between their mean and their sum: least squares on the image's
embedding, as in `probe`; and the same score together with the other classes that the image was given, since classes
come together, or keep apart. Both by one closed-form solution a fold with a right-hand side a class, and a sigmoid
(Platt, "Probabilistic outputs for support vector machines", 1999). What is chosen is chosen by log loss on the given labels.

Labels are flagged, the worst first, as long as at most half as many would be there without a single error. Probabilities
that were fitted to wrong labels foretell too many of them; medians of the scores, and their spread, hardly feel a few.
What cleanlab's rule flags besides stays a finding of severity low: where classes are hard to tell, one in seven is right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from datasetops.audits.base import AuditContext, CheckResult
from datasetops.audits.charts import bars, histogram
from datasetops.audits.labels.confident import find_label_issues
from datasetops.audits.labels.label_probabilities import grouped_with_copies
from datasetops.audits.labels.probe import FOLDS, assign_folds, kernel_features, landmark_count, principal_components
from datasetops.audits.samplewise import SampleFindings, sample_scores
from datasetops.errors import FormatError

Floats: TypeAlias = npt.NDArray[np.float32]
Bools: TypeAlias = npt.NDArray[np.bool_]
Ints: TypeAlias = npt.NDArray[np.int64]
_Real: TypeAlias = npt.NDArray[Any]  # of either precision
# (rows of one fold, ridges) → for each ridge their scores (rows, K), learned from all other rows
_Solver: TypeAlias = Callable[[Ints, Sequence[float]], list[Floats]]

_CHECK: Final = "label_noise"
_LEAST: Final = 2  # images with a class, and without it: one is never seen in training when it is judged
_LANDMARKS: Final = 2_000  # with more the time grows with their cube, and little is gained
_RIDGES: Final = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
_FLAT_RIDGES: Final = (30.0, 100.0, 300.0, 1000.0, 3000.0)  # on principal components, whose variances are near 1
_COMPANY_RIDGES: Final = (10.0, 30.0, 100.0, 300.0)  # in images, on columns of variance 1
_COMPANY: Final = 100  # classes, the commonest, that tell something of the others
_TRIAL_ROWS: Final = 2_000  # a ridge is chosen on the first folds that hold so many images together
_SIGMOID_ROWS: Final = 50_000
_FORGET: Final = 0.8  # cleanlab's weight of an image's worse scores over its better ones
_ANYWAY: Final = 0.5  # share of the flags that may be expected without a single error
_ROBUST_ANYWAY: Final = 0.1  # by bell curves, whose tails are too short; also added, so that a few errors suffice
_SURE, _SURE_ANYWAY = 0.05, 0.25  # score up to which a flag may be of severity high, and their share
_TELLING: Final = 10  # images with a class, and without it: of fewer the median and the spread are chance
_DOUBTFUL: Final = 0.25
_SHOWN: Final = 20


@dataclass(frozen=True)
class MultilabelJudgement:
    """`score` (N, K) of each class of each image, whether it was given or not; `image` (N,) of them all; both in [0, 1],
    1 = clean. `flagged` (N, K); all with a score up to `sure` are, and they may be of severity high. `doubtful` (N, K) are
    others that may be worth a look."""

    score: Floats
    image: Floats
    flagged: Bools
    doubtful: Bools
    sure: float


def judge_multilabel(held: Bools, probabilities: Floats, *, jobs: int = 1) -> MultilabelJudgement:
    """Score given and missing classes as cleanlab's multi-label functions do, and flag those that chance does not bring;
    doubtful are the others that its prune-by-class rule names, each class taken as a problem of two.

    held (N, K): whether an image was given a class; probabilities (N, K) in [0, 1], out of sample, rows of any sum. The
    score is the probability of what was said; an image's is the exponential moving average of its own, best first
    (Thyagarajan et al., "Identifying incorrect annotations in multi-label classification data", 2023).
    """
    score = np.where(held, probabilities, 1 - probabilities)
    ordered = -np.sort(-score, axis=1)
    image = ordered[:, 0].copy() if held.shape[1] else np.ones(len(held), dtype=np.float32)
    for column in ordered.T[1:]:
        image = _FORGET * column + (1 - _FORGET) * image
    flagged = score <= _up_to(score, 0.5, _ANYWAY)
    count = held.sum(axis=0)
    telling = np.flatnonzero((count >= _TELLING) & (len(held) - count >= _TELLING))
    if len(telling):
        robust = _robust_score(held[:, telling], probabilities[:, telling])
        flagged[:, telling] |= robust <= _up_to(robust, 0.5, _ROBUST_ANYWAY, added=_ROBUST_ANYWAY)
    pruned = np.zeros(held.shape, dtype=bool)
    for k in np.flatnonzero((count > 0) & (count < len(held))):
        pair = np.stack([1 - probabilities[:, k], probabilities[:, k]], axis=1)
        pruned[:, k] = find_label_issues(held[:, k].astype(np.int64), pair, filter_by="prune_by_class", jobs=jobs)
    doubtful = pruned & (score < 0.5) & ~flagged
    return MultilabelJudgement(score, image, flagged, doubtful, _up_to(score, _SURE, _SURE_ANYWAY))


def _up_to(score: Floats, limit: float, anyway: float, added: float = 1.0) -> float:
    """The largest score, at most `limit`, up to which what the scores foretell, and `added`, is at most the share
    `anyway` of the labels that are there; −1 for none.

    Of a thousand labels that are 99 % probable ten are others, and none of these need be wrong. One is added so that
    the share holds of few labels too (Barber and Candès, Annals of Statistics 43, 2015).
    """
    found = np.sort(score, axis=None).astype(np.float64)
    unlikely = np.sort(np.minimum(score, 1 - score), axis=None).astype(np.float64)
    foretold = np.append(0.0, np.cumsum(unlikely))[np.searchsorted(unlikely, found, side="right")]
    good = (foretold + added <= anyway * np.arange(1, len(found) + 1)) & (found <= limit)
    return float(found[np.flatnonzero(good)[-1]]) if good.any() else -1.0


def _robust_score(held: Bools, probabilities: Floats) -> Floats:
    """The probability of what was said (N, K), by two bell curves a class that a few wrong labels hardly move.

    They lie over the log odds of the images that were given the class and of those that were not, each around its
    median; both have one width, by the median deviation of the given or of the others, whichever is wider, and never
    less than that of all classes.
    """
    p = np.clip(probabilities, 1e-6, 1 - 1e-6)
    odds = np.log(p / (1 - p))
    count = held.sum(axis=0)
    middles, width = [], np.full(held.shape[1], 1e-3)
    for side, number in ((held, count), (~held, len(held) - count)):
        alone = np.where(side, odds, np.nan)
        middle = np.nanmedian(alone, axis=0)
        # A median lies nearer to its own images than to others: as for a variance, one of them does not count.
        deviation = np.abs(alone - middle) * np.sqrt(number / (number - 1))
        width = np.maximum(width, np.maximum(np.nanmedian(deviation, axis=0), np.nanmedian(deviation)))
        middles.append(middle)
    width *= 1.4826  # from a median deviation to a standard deviation
    slope = np.maximum(middles[0] - middles[1], 0) / width**2
    robust = slope * (odds - (middles[0] + middles[1]) / 2) + np.log((count + 1) / (len(held) - count + 1))
    score: Floats = 1 / (1 + np.exp(np.clip(np.where(held, -robust, robust), -80, 80)))
    return score


def multilabel_probabilities(
    embeddings: Floats, held: Bools, *, groups: npt.NDArray[Any] | None = None, seed: int = 0, folds: int = FOLDS
) -> Floats:
    """How likely each class is of each image (N, K), by classifiers that saw neither its labels nor its group's.

    embeddings (N, D), finite; held (N, K); groups (N,) of any sortable kind. A column is NaN where fewer than two images
    have the class, or lack it. The other classes of the image itself are taken as given. Raises ValueError where the
    lengths differ or there are fewer than two groups.
    """
    if len(embeddings) != len(held) or (groups is not None and len(groups) != len(held)):
        raise ValueError("embeddings, held and groups must have the same length")
    count = held.sum(axis=0)
    judged = np.flatnonzero((count >= _LEAST) & (len(held) - count >= _LEAST))
    result = np.full(held.shape, np.nan, dtype=np.float32)
    if not len(judged):
        return result
    fold = assign_folds(held.argmax(axis=1).astype(np.int64), groups, folds, seed)
    if not fold.any():
        raise ValueError("groups: expected at least two")
    target = held[:, judged].astype(np.float32)
    z = principal_components(embeddings, seed)
    landmarks = min(_LANDMARKS, landmark_count(len(z)))
    features, ridges = (kernel_features(z, landmarks, seed), _RIDGES) if landmarks else (z, _FLAT_RIDGES)
    scores = _out_of_fold(_least_squares(features, target), ridges, target, fold)
    company = _out_of_fold(_with_company(scores, target), _COMPANY_RIDGES, target, fold)
    odds = _between_mean_and_sum(_log_odds(scores, target), _log_odds(company, target), target)
    result[:, judged] = 1 / (1 + np.exp(-odds))
    return result


def _between_mean_and_sum(first: Floats, second: Floats, target: Floats) -> Floats:
    """Log odds of two views together: their mean where they know the same, their sum where each knows something else."""
    from scipy.optimize import minimize_scalar

    mean = (first + second) / 2
    some = slice(None, None, -(-len(mean) // _SIGMOID_ROWS))
    against = np.where(target[some] > 0, -mean[some], mean[some])
    found = minimize_scalar(
        lambda factor: float(np.logaddexp(0, factor * against).mean()), bounds=(1, 2), method="bounded"
    )
    result: Floats = (mean * np.float32(found.x)).astype(np.float32)
    return result


def _least_squares(x: Floats, target: Floats) -> _Solver:
    from scipy.linalg import cho_factor, cho_solve

    without = _normal_equations(x, target)

    def solve(rows: Ints, ridges: Sequence[float]) -> list[Floats]:
        test, share, matrix, right = without(rows)
        answers = []
        for ridge in ridges:
            regular = matrix + ridge * np.eye(len(matrix), dtype=np.float32)
            weights = cho_solve(cho_factor(regular, overwrite_a=True, check_finite=False), right, check_finite=False)
            answers.append((test @ weights + share).astype(np.float32))
        return answers

    return solve


def _with_company(scores: Floats, target: Floats) -> _Solver:
    """A class's own score and the other classes that were given, never the class itself."""
    k = target.shape[1]
    others = np.sort(np.argsort(-target.sum(axis=0), kind="stable")[:_COMPANY])
    x = np.concatenate([scores, target[:, others]], axis=1).astype(np.float64)
    x = (x - x.mean(axis=0)) / np.maximum(x.std(axis=0), 1e-6)
    without = _normal_equations(x, target.astype(np.float64))

    def solve(rows: Ints, ridges: Sequence[float]) -> list[Floats]:
        test, share, matrix, right = without(rows)
        answers: list[Floats] = [np.empty((len(rows), k), dtype=np.float32) for _ in ridges]
        for c in range(k):
            used = np.append(c, k + np.flatnonzero(others != c))
            part, side = matrix[np.ix_(used, used)], right[used, c]
            for answer, ridge in zip(answers, ridges, strict=True):
                answer[:, c] = test[:, used] @ np.linalg.solve(part + ridge * np.eye(len(used)), side) + share[c]
        return answers

    return solve


def _normal_equations(x: _Real, target: _Real) -> Callable[[Ints], tuple[_Real, _Real, _Real, _Real]]:
    """Rows → their features, less the mean of the others; and of those others the share of each class, the scatter of
    the features, and their products with the classes."""
    gram, product, sums, counts = x.T @ x, x.T @ target, x.sum(axis=0), target.sum(axis=0)

    def without(rows: Ints) -> tuple[_Real, _Real, _Real, _Real]:
        test, own = x[rows], target[rows]
        n = len(x) - len(rows)
        mean, share = (sums - test.sum(axis=0)) / n, (counts - own.sum(axis=0)) / n
        matrix = gram - test.T @ test - n * np.outer(mean, mean)
        return test - mean, share, matrix, product - test.T @ own - n * np.outer(mean, share)

    return without


def _out_of_fold(solve: _Solver, ridges: Sequence[float], target: Floats, fold: Ints) -> Floats:
    """Scores (N, K) of the ridge with the lowest log loss, calibrated, on the given labels."""
    folds = [np.flatnonzero(fold == number) for number in np.unique(fold)]
    trial = 1 + int(np.searchsorted(np.cumsum([len(rows) for rows in folds]), _TRIAL_ROWS))
    tried = [solve(rows, ridges) for rows in folds[:trial]]
    given = target[np.concatenate(folds[:trial])]
    losses = []
    for i in range(len(ridges)):
        odds = _log_odds(np.concatenate([answers[i] for answers in tried]), given)
        losses.append(float((np.logaddexp(0, odds) - given * odds).mean()))
    best = int(np.argmin(losses))
    scores = np.empty(target.shape, dtype=np.float32)
    for rows, answers in zip(folds, tried, strict=False):
        scores[rows] = answers[best]
    for rows in folds[trial:]:
        scores[rows] = solve(rows, ridges[best : best + 1])[0]
    return scores


def _log_odds(scores: Floats, target: Floats) -> Floats:
    """(N, K): slope and offset of each class by Newton's method, with Platt's targets, so that neither is infinite."""
    some = slice(None, None, -(-len(scores) // _SIGMOID_ROWS))
    s, y = scores[some].astype(np.float64), target[some]
    yes = y.sum(axis=0)
    goal = np.where(y > 0, (yes + 1) / (yes + 2), 1 / (len(y) - yes + 2))
    mean, deviation = s.mean(axis=0), np.maximum(s.std(axis=0), 1e-9)
    z = (s - mean) / deviation
    slope, offset = np.zeros(s.shape[1]), np.log((yes + 1) / (len(y) - yes + 1))
    for _ in range(30):
        p = 1 / (1 + np.exp(-(slope * z + offset)))
        w, d = p * (1 - p) + 1e-9, p - goal
        a, b, c = (w * z * z).sum(axis=0) + 1e-3, (w * z).sum(axis=0), w.sum(axis=0) + 1e-3
        g, h = (d * z).sum(axis=0), d.sum(axis=0)
        determinant = a * c - b * b
        step = np.clip([(c * g - b * h) / determinant, (a * h - b * g) / determinant], -2, 2)
        slope, offset = slope - step[0], offset - step[1]
        if np.abs(step).max(initial=0) < 1e-6:
            break
    result: Floats = ((scores - mean) / deviation * slope + offset).astype(np.float32)
    return result


def multilabel_result(context: AuditContext) -> CheckResult:
    """The check `label_noise` where the schema allows several classes an image.

    Images without any class are left out: they may wait for their labels. Supplied probabilities need not sum to one.
    Raises FormatError where they are not in [0, 1].
    """
    known = _known(context)
    if isinstance(known, str):
        return CheckResult([], summary={"skipped": known})
    found = judge_multilabel(known.held, known.probabilities, jobs=context.jobs)
    about = SampleFindings(_CHECK, context.samples)
    findings = []
    confusions: dict[str, int] = {}
    for i, c in np.argwhere(found.flagged | found.doubtful).tolist():
        name, score, given = known.names[c], float(found.score[i, c]), bool(known.held[i, c])
        severity = "high" if score <= found.sure else "medium" if score <= _DOUBTFUL else "low"
        if found.doubtful[i, c]:
            severity = "low"
        text = f"labeled {name}, does not look like it: {score:.0%}"
        if not given:
            text = f"not labeled {name}, looks like it: {1 - score:.0%}"
        sides = {"given": name, "annotation_id": known.keys[i, c]} if given else {"suggested": name}
        findings.append(about.at(int(known.at[i]), severity, score, text, **sides))
        side = f"{'wrong' if given else 'missing'}: {name}"
        confusions[side] = confusions.get(side, 0) + 1
    commonest = dict(sorted(confusions.items(), key=lambda item: -item[1])[:_SHOWN])
    counts = np.histogram(found.image, bins=20, range=(0, 1))[0].tolist()
    summary: dict[str, Any] = {
        "classes": list(known.names),
        "probabilities": known.source,
        "items": len(known.at),
        "flagged": int(found.flagged.sum()),
        "flagged images": int(found.flagged.any(axis=1).sum()),
        "doubtful": int(found.doubtful.sum()),
        "charts": [bars("Flagged classes", commonest), histogram("Score of the images", counts, 0, 1)],
    }
    if known.left_out:
        summary["left_out"] = known.left_out
    return CheckResult(findings, sample_scores(context.samples, *known.scattered(found.image, len(about.ids))), summary)


@dataclass(frozen=True)
class _Known:
    """Images that can be judged: `at` (N,) their rows; `held` and `probabilities` (N, K) of the classes `names`; `keys`
    annotation_ids by image and class."""

    at: Ints
    held: Bools
    probabilities: Floats
    names: list[str]
    keys: dict[tuple[int, int], str]
    source: str
    left_out: str

    def scattered(self, score: Floats, n: int) -> tuple[Bools, Floats]:
        """Which of n samples have a score, and the scores."""
        known, scores = np.zeros(n, dtype=bool), np.zeros(n, dtype=np.float32)
        known[self.at], scores[self.at] = True, score
        return known, scores


def _known(context: AuditContext) -> _Known | str:
    """Or why there is nothing to judge."""
    names = list(context.schema.class_names)
    rows = context.annotations[context.annotations["kind"] == "classification"]
    place = pd.Index(context.samples["sample_id"]).get_indexer(pd.Index(rows["sample_id"]))
    label = pd.Index(names, dtype=object).get_indexer(pd.Index(rows["label"], dtype=object))
    usable = (place >= 0) & (label >= 0)
    rows, place, label = rows[usable], place[usable], label[usable]
    if not len(rows):
        return "no image has a class label"
    at, image = np.unique(place, return_inverse=True)
    held = np.zeros((len(at), len(names)), dtype=bool)
    held[image, label] = True
    supplied = context.probabilities is not None
    probabilities = _supplied(context, at) if supplied else _probed(context, at, held)
    if isinstance(probabilities, str):
        return probabilities
    judged = np.asarray(np.isfinite(probabilities).any(axis=0))
    known = np.asarray(np.isfinite(probabilities[:, judged]).all(axis=1))
    if not judged.any() or not known.any():
        return "no class has two images with it and two without"
    left_out = {
        "images without a class": len(context.samples) - len(at),
        f"images {'without probabilities' if supplied else 'that cannot be read'}": int((~known).sum()),
        "classes with fewer than two images with or without them": int((~judged).sum()),
    }
    place_of, column = np.cumsum(known) - 1, np.cumsum(judged) - 1
    kept = known[image] & judged[label]
    cells = zip(place_of[image[kept]].tolist(), column[label[kept]].tolist(), strict=True)
    return _Known(
        at[known],
        held[np.ix_(known, judged)],
        np.ascontiguousarray(probabilities[np.ix_(known, judged)]),
        [name for name, is_judged in zip(names, judged, strict=True) if is_judged],
        dict(zip(cells, rows["annotation_id"].to_numpy()[kept].tolist(), strict=True)),
        "supplied" if supplied else "probe",
        "; ".join(f"{count:,} {what}" for what, count in left_out.items() if count),
    )


def _supplied(context: AuditContext, at: Ints) -> Floats:
    frame = context.probabilities
    values: Floats = np.empty(0, dtype=np.float32) if frame is None else frame.to_numpy(np.float32)[at]
    wrong = ((values < 0) | (values > 1)).any(axis=1)
    if wrong.any():
        first = context.samples["sample_id"].iloc[int(at[np.flatnonzero(wrong)[0]])]
        raise FormatError(
            f"probabilities: {int(wrong.sum())} rows have values outside [0, 1]; the first is of sample {first!r}.",
            remedy="Give each class's own probability; where several classes may hold, rows need not sum to one.",
        )
    return values


def _probed(context: AuditContext, at: Ints, held: Bools) -> Floats | str:
    embeddings = context.embeddings()[at]
    readable = np.isfinite(embeddings).all(axis=1)
    groups = grouped_with_copies(context.samples).to_numpy()[at][readable]
    if len(np.unique(groups)) < _LEAST:
        return "fewer than two groups of images can be read"
    result = np.full(held.shape, np.nan, dtype=np.float32)
    result[readable] = multilabel_probabilities(embeddings[readable], held[readable], groups=groups, seed=context.seed)
    return result
