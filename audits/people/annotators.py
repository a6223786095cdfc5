"""How far annotators agree, what they say together, and who or what stands apart."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from datasetops.audits.base import AuditContext, CheckResult, skipped
from datasetops.audits.charts import bars, histogram
from datasetops.audits.people.agreement import Estimate, agreement, box_agreement, cohen_kappa, pairwise_agreement
from datasetops.audits.people.crowd import (
    FEW,
    OFTEN,
    ClassAnswers,
    Z,
    accepted,
    accepted_rows,
    alpha_by_class,
    answer_field,
    answered_rows,
    class_answers,
    class_pairs,
    confusions,
    mean_by,
    shared_errors,
    standing,
    tail,
)
from datasetops.audits.people.dawid_skene import crowdlab, dawid_skene
from datasetops.audits.samplewise import SampleFindings, texts
from datasetops.audits.sets.multiple_tests import holm
from datasetops.records import KINDS, Finding

Ints: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float64]

_DOUBTFUL: Final = 2 / 3  # a consensus with less than two to one for it is named
_SURE: Final = 0.95
_MANY: Final = 3  # annotators of whom not one gave the accepted label, for it to be almost surely wrong,
_RELIABLE: Final = (
    0.667  # where alpha is at least so much; Krippendorff, "Content analysis" (2004), draws the line there
)
_ERROR_RATE: Final = 0.05  # chance of naming anyone wrongly, over all who are tested
_WORSE: Final = 0.1  # an annotator is named who is surely so far below the others on the same images
_SLIGHT: Final = 0.2  # kappa up to which agreement is called slight: Landis and Koch, Biometrics 33 (1977)
_ALWAYS: Final = 0.95  # share of one class in an annotator's answers that looks like not looking,
_RARELY: Final = 0.8  # if the others' answers make it at most so much of these images
_UNCLEAR: Final = (
    0.4  # alpha of a class below which agreement is poor, as Fleiss (1981, section 13.1) calls it of kappa
)
_HURRIED: Final = 1 / 3  # of the others' median time
_UNLIKE: Final = 0.5  # F1 of annotators' boxes below which an image is named
_SHOWN: Final = 20  # rows of a table in the summary
_RESAMPLES: Final = 500  # of the interval of a pair's kappa


class Annotators:
    name = "annotators"
    title = "answers that annotators disagree about, annotators who stand apart, classes that people confuse"
    needs = "two people's answers to the same images (votes, or a column annotator)"
    cost = "grows with the answers; half a minute for a million"

    def run(self, context: AuditContext) -> CheckResult:
        rows = answered_rows(context, *KINDS)
        people = rows["actor"].unique()
        if not len(people):
            return skipped("no annotation tells which person made it")
        if len(people) == 1:
            return skipped(f"every answer is {people[0]}'s: there is nobody to compare with")
        about = SampleFindings(self.name, context.samples)
        claims, of_class = accepted_rows(context), rows[rows["kind"] == "classification"]
        names, multi = list(context.schema.class_names), context.schema.multi_label
        answers = class_answers(of_class, claims, names, multi=multi)
        parts = [_Classes(context, about, answers, claims).result()] if len(answers.items) else []
        parts += _boxes(about, rows)
        if not parts:
            return skipped(f"there are {len(people)} annotators, but no image was answered by two of them")
        findings = [finding for part in parts for finding in part.findings] + list(_hurried(rows))
        summary: dict[str, Any] = {"annotators": len(people)}
        for part in parts:
            summary |= part.summary | {"charts": summary.get("charts", []) + part.summary["charts"]}
        return CheckResult(findings, pd.concat([part.scores for part in parts], ignore_index=True), summary)


class _Classes:
    """Answers about the class of an image, their consensus, and what it says of them and of those who gave them."""

    def __init__(
        self, context: AuditContext, about: SampleFindings, answers: ClassAnswers, claims: pd.DataFrame
    ) -> None:
        self.context, self.about, self.answers, self.claims = context, about, answers, claims
        self.model = dawid_skene(
            answers.items,
            answers.who,
            answers.labels,
            n_items=len(answers.at),
            n_annotators=len(answers.actors),
            n_classes=answers.classes,
        )
        self.agreed = agreement(answers.items, answers.labels, seed=context.seed)
        self.consensus, self.beliefs = self.model.consensus, self.model.sober
        self.quality = self._weigh_model()
        self.standing = standing(self.model, answers)
        self.confusions = confusions(self.model, answers)
        self.pairs = class_pairs(self.confusions)

    def result(self) -> CheckResult:
        items, scores = self._items()
        findings = [*items, *self._people(), *self._habits(), *self._copies(), *self._unclear()]
        return CheckResult(findings, scores, self._summary())

    def _weigh_model(self) -> Floats | None:
        """CROWDLAB's consensus in place of Dawid-Skene's where there are probabilities; its annotator quality (A,)."""
        answers, given = self.answers, self.context.probabilities
        if given is None or answers.of is not None or answers.classes < 2:
            return None
        probabilities = given.to_numpy(np.float64)[answers.at]
        known = np.isfinite(probabilities).all(axis=1)
        if not known.any():
            return None
        kept, place = known[answers.items], np.cumsum(known) - 1
        chances = probabilities[known] / probabilities[known].sum(axis=1, keepdims=True)
        found = crowdlab(place[answers.items[kept]], answers.who[kept], answers.labels[kept], chances)
        self.consensus, self.beliefs = self.consensus.copy(), self.beliefs.copy()
        self.consensus[known], self.beliefs[known] = found.consensus, found.posterior
        quality = np.full(len(answers.actors), np.nan)
        quality[: len(found.annotator_quality)] = found.annotator_quality
        return quality

    def _items(self) -> tuple[list[Finding], pd.DataFrame]:
        """Findings about items, and a score for each: how likely the accepted label is, or else the consensus."""
        answers, best, k = self.answers, self.consensus, self.answers.classes
        label, annotation = accepted(self.claims, answers)
        each = np.arange(len(best))
        sure = self.beliefs[each, best]
        score = np.where(label >= 0, self.beliefs[each, label], sure).clip(0, 1)
        size = np.bincount(answers.items, minlength=len(best))
        cells, counts = np.unique(answers.items * k + answers.labels, return_counts=True)
        unlike = (label >= 0) & (label != best)
        reliable = self.agreed.alpha.value >= _RELIABLE
        findings = []
        for i in np.flatnonzero(unlike | (sure < _DOUBTFUL)).tolist():
            start, stop = np.searchsorted(cells, [i * k, i * k + k])
            votes = dict(zip((cells[start:stop] % k).tolist(), counts[start:stop].tolist(), strict=True))
            name, given = answers.name(i, int(best[i])), answers.name(i, int(label[i])) if label[i] >= 0 else None
            if unlike[i]:
                alone = votes.get(int(label[i]), 0) == 0 and size[i] >= _MANY and sure[i] >= _SURE
                severity = "high" if alone and reliable else "medium" if sure[i] >= _DOUBTFUL else "low"
                agree = f"{votes.get(int(best[i]), 0)} of {size[i]} annotators say {name!r}"
                text = f"accepted as {given!r}, but {agree}; the consensus is {name!r}, {_surely(sure[i])}"
            else:
                severity = "low"
                told = ", ".join(
                    f"{n} of {size[i]} say {answers.name(i, c)!r}"
                    for c, n in sorted(votes.items(), key=lambda v: -v[1])
                )
                text = f"its class is not settled: {told}; the consensus is {name!r}, {_surely(sure[i])}"
            more = {"annotation_id": annotation[i], "given": given, "suggested": name if unlike[i] else None}
            findings.append(self.about.at(int(answers.at[i]), severity, score[i], text, **more))
        scores = pd.DataFrame({"sample_id": self.about.ids[answers.at], "annotation_id": annotation, "score": score})
        if answers.of is not None:  # classes that were not accepted have no annotation: the worst of an image's
            worst = scores.groupby(["sample_id", "annotation_id"], dropna=False)["score"].min().reset_index()
            scores = worst.assign(annotation_id=texts(worst["annotation_id"]))
        return findings, scores

    def _people(self) -> Iterator[Finding]:
        """Annotators who always give one class, answer at chance, or surely fall behind the others on the same images."""
        from scipy.stats import binom

        of, n = self.standing, self.standing.answers
        enough = n >= FEW
        chance_of_same = binom.sf(np.round(of.always_share * n) - 1, n, np.nan_to_num(of.always_likely, nan=1.0))
        one_class = (of.always_share >= _ALWAYS) & (of.always_likely <= _RARELY)
        one_class &= holm(np.where(enough, chance_of_same, 1.0)) < _ERROR_RATE
        at_chance = enough & (of.kappa_high < _SLIGHT)
        behind = enough & (of.gap_high < -_WORSE) & (holm(np.where(enough, of.worse, 1.0)) < _ERROR_RATE)
        for a in np.flatnonzero(one_class | at_chance | behind).tolist():
            who, right = self.answers.actors[a], float(of.right[a])
            span = f"{of.right_low[a]:.0%} to {of.right_high[a]:.0%}"
            borne_out = f"{right:.0%} of {n[a]:,} answers are borne out by the others' ({span})"
            if one_class[a]:
                label = self.answers.label(int(of.always[a]))
                times = f"{of.always_share[a]:.0%} of {n[a]:,} times"
                text = f"{who} answers {label!r} {times}; by the others' answers it is {of.always_likely[a]:.0%}"
            elif at_chance[a]:
                how = "worse than" if of.kappa_high[a] < 0 else "little better than"
                text = f"{who} answers {how} by chance, kappa {of.kappa[a]:.2f}: {borne_out}"
            else:
                text = f"{who} falls behind: {borne_out}; the others reach {right - of.gap[a]:.0%} on the same images"
            yield _overall("medium", right, text)

    def _habits(self) -> Iterator[Finding]:
        """Annotators who give a class another name much more often than the others."""
        table: Any = self.confusions
        rate, others = table["n"] / table["of"], table["others_n"] / table["others_of"].clip(1)
        odd = table.assign(rate=rate, others=others)[(table["p"] < _ERROR_RATE) & (rate - others >= OFTEN)]
        for who, rows in odd.sort_values("rate", ascending=False).groupby("who"):
            told = [
                f"{self.answers.label(row.given)!r} for {row.rate:.0%} of {row.of} images of "
                f"{self.answers.label(row.true)!r} (others {row.others:.0%})"
                for row in rows.head(3).itertuples()
            ]
            text = f"{self.answers.actors[int(who)]} answers {'; '.join(told)}"
            yield _overall("low", 1 - float(rows["rate"].iloc[0]), text)

    def _copies(self) -> Iterator[Finding]:
        table: Any = shared_errors(self.model, self.answers)
        for row in table[table["p"] < _ERROR_RATE].itertuples():
            one, other = self.answers.actors[row.first], self.answers.actors[row.second]
            text = (
                f"{one} and {other} depart from the consensus alike in {row.same} of {row.errors} cases, more than their "
                "skill explains: one may copy the other, or both read the guide in the same other way"
            )
            yield _overall("medium", 1 - row.same / row.errors, text)

    def _unclear(self) -> Iterator[Finding]:
        """Classes that many people do not tell apart, or do not see alike."""
        for name, alpha, images in alpha_by_class(self.answers):
            if images >= FEW and alpha < _UNCLEAR:
                text = f"annotators do not agree on where {name!r} holds: alpha {alpha:.2f}, {images:,} images were given it"
                yield _overall("low", alpha, text, given=name)
        for pair in self.pairs if self.answers.of is None else ():
            if pair["many"]:
                true, given = self.answers.label(pair["class"]), self.answers.label(pair["answered"])
                text = (
                    f"{true!r} is called {given!r} in {pair['share']:.0%} of {pair['of']:,} answers, by {pair['by']} of "
                    f"{pair['annotators']} annotators: does the guide tell them apart?"
                )
                severity = "medium" if pair["share"] >= 2 * OFTEN else "low"
                yield _overall(severity, 1 - pair["share"], text, given=true)

    def _summary(self) -> dict[str, Any]:
        answers, agreed, model, of = self.answers, self.agreed, self.model, self.standing
        low, high = agreed.raters
        told: dict[str, Any] = {
            "images": len(np.unique(answers.at)),
            "answers": len(answers.items),
            "answers an image": f"{low}"
            if low == high
            else f"{low} to {high} (each image counts as one in Fleiss' kappa)",
            "agreement": _told(agreed.raw),
            "Krippendorff's alpha": _told(agreed.alpha),
            "Fleiss' kappa": _told(agreed.fleiss),
            "consensus": "Dawid-Skene" if self.quality is None else "CROWDLAB where there are probabilities",
            "Dawid-Skene": f"{model.rounds} rounds, {'' if model.converged else 'not '}converged; log likelihood "
            f"{model.log_likelihood:,.1f}; matrices begin as {model.strength:g} answers a class of the crowd's; an "
            f"answer counts {model.weight:.2f}",
        }
        if answers.of is not None:
            told["images"] = f"{told['images']:,}; the figures are of the classes that anyone gave an image"
            told["alpha_by_class"] = {name: _rounded(alpha) for name, alpha, _ in alpha_by_class(answers)}
        if agreed.raw.value == 1:
            told["note"] = "all annotators gave every image the same answer: nothing tells them apart"
        present = np.flatnonzero(of.answers)
        worst = present[np.argsort(of.right[present], kind="stable")][:_SHOWN].tolist()
        told["by_annotator"] = [
            {
                "annotator": answers.actors[a],
                "answers": int(of.answers[a]),
                "borne_out": _rounded(of.right[a]),
                "interval": [_rounded(of.right_low[a]), _rounded(of.right_high[a])],
                "against_others": _rounded(of.gap[a]),
                "kappa": _rounded(of.kappa[a]),
                "cleanlab_quality": None if self.quality is None else _rounded(self.quality[a]),
                "few_answers": bool(of.answers[a] < FEW),
            }
            for a in worst
        ]
        told["worst_pairs"] = _worst_pairs(answers, self.context.seed)
        shown = {
            f"{answers.label(p['class'])} → {answers.label(p['answered'])}": p["answers"] for p in self.pairs[:_SHOWN]
        }
        sure = self.beliefs[np.arange(len(self.consensus)), self.consensus]
        told["charts"] = [
            bars(
                "How likely an answer is right, by the others' answers to the same images",
                {answers.actors[a]: round(float(of.right[a]), 3) for a in worst},
                note=f"The {len(worst)} lowest of {len(present)} annotators." if len(worst) < len(present) else "",
            ),
            bars("Answers unlike the consensus: class → answer", shown),
            histogram("How sure the consensus is", np.histogram(sure, 20, (0, 1))[0].tolist(), 0, 1),
        ]
        return told


def _worst_pairs(answers: ClassAnswers, seed: int) -> list[dict[str, Any]]:
    """Annotators with the lowest Cohen's kappa on items that both answered."""
    pairs = pairwise_agreement(answers.items, answers.who, answers.labels, least=FEW)
    found = []
    for p in np.argsort(np.nan_to_num(pairs.kappa, nan=1.0), kind="stable")[: _SHOWN // 2].tolist():
        one, other = (answers.who == person[p] for person in (pairs.first, pairs.second))
        _, at, where = np.intersect1d(answers.items[one], answers.items[other], return_indices=True)
        labels = answers.labels[one][at], answers.labels[other][where]
        kappa = cohen_kappa(*labels, resamples=_RESAMPLES, seed=seed)
        found.append(
            {
                "annotators": [answers.actors[pairs.first[p]], answers.actors[pairs.second[p]]],
                "shared": int(pairs.shared[p]),
                "agreement": _rounded(pairs.agreed[p]),
                "kappa": _rounded(kappa.value),
                "interval": [_rounded(kappa.low), _rounded(kappa.high)],
            }
        )
    return found


def _boxes(about: SampleFindings, rows: pd.DataFrame) -> list[CheckResult]:
    """Whatever has a box, by its box; nothing where no image has those of two annotators."""
    boxes = rows[["x1", "y1", "x2", "y2"]].to_numpy(np.float64)
    drawn = np.isfinite(boxes).all(axis=1)
    rows, boxes = rows[drawn], boxes[drawn]
    who, actors = pd.factorize(rows["actor"], sort=True)
    label = pd.factorize(rows["label"])[0]
    image, names = pd.factorize(pd.MultiIndex.from_frame(rows[["at", "kind"]]))
    found = box_agreement(image, who, label, boxes)
    if not len(found.image):
        return []
    at = np.array([name[0] for name in names], dtype=np.int64)[found.image]
    images, of = np.unique(at, return_inverse=True)
    score = mean_by(found.f1, of, len(images))[0]
    findings = [
        about.at(int(images[i]), "low", score[i], f"annotators drew unlike boxes: mean F1 {score[i]:.2f} at IoU 0.5")
        for i in np.flatnonzero(score < _UNLIKE)
    ]
    two = np.tile(found.image, 2) * len(actors) + np.concatenate([found.first, found.second])
    cells, cell = np.unique(two, return_inverse=True)
    own, pairs = np.bincount(cell, np.tile(found.f1, 2)), np.bincount(cell)
    rest = np.bincount(found.image, found.f1)[cells // len(actors)] - own
    left = np.bincount(found.image)[cells // len(actors)] - pairs  # pairs of others in the same image
    mean = own / pairs
    of_people = mean_by(mean, cells % len(actors), len(actors))[0]
    compared, person = left > 0, cells % len(actors)
    n = np.bincount(person[compared], minlength=len(actors))
    gap, error = mean_by(mean[compared] - rest[compared] / left[compared], person[compared], len(actors))
    p = holm(np.where(n >= FEW, tail(gap, error), 1.0))
    for a in np.flatnonzero((n >= FEW) & (gap + Z * error < -_WORSE) & (p < _ERROR_RATE)).tolist():
        text = (
            f"{actors[a]} draws boxes unlike the others': mean F1 {of_people[a]:.2f} at IoU 0.5 on {n[a]:,} images; the "
            f"others among themselves reach {of_people[a] - gap[a]:.2f} there"
        )
        findings.append(_overall("medium", float(of_people[a]), text))
    worst = np.argsort(of_people, kind="stable")
    worst = worst[np.isfinite(of_people[worst])][:_SHOWN]
    summary: dict[str, Any] = {
        "images with boxes": len(images),
        "boxes' F1": round(float(score.mean()), 4),
        "boxes' classes": f"{found.alike.sum() / max(1, found.matched.sum()):.1%} of {found.matched.sum():,} matched "
        "boxes have the same class",
        "charts": [
            bars(
                "Mean F1 of boxes with the other annotators', at IoU 0.5",
                {str(actors[a]): round(float(of_people[a]), 3) for a in worst.tolist()},
            )
        ],
    }
    if not compared.any():
        summary["boxes' annotators"] = "two an image: where they differ, there is no telling who is wrong"
    scores = pd.DataFrame({"sample_id": about.ids[images], "annotation_id": None, "score": score.clip(0, 1)})
    return [CheckResult(findings, scores, summary)]


def _hurried(rows: pd.DataFrame) -> Iterator[Finding]:
    """Annotators who take a third of the others' time or less."""
    once = rows[~rows.duplicated(["at", "actor"])]
    seconds = pd.to_numeric(answer_field(once["answer"], "lead_time"), errors="coerce")
    people: Any = seconds.groupby(once["actor"]).agg(["median", "count"])
    people = people[people["count"] >= FEW]
    for who, median, count in people.itertuples():
        others = float(people["median"].drop(who).median()) if len(people) > 1 else 0.0
        if median <= _HURRIED * others:
            text = f"{who} takes {median:.1f} s an answer, the others {others:.1f} s (medians; {count:,.0f} answers)"
            yield _overall("low", median / others, text)


def _overall(severity: str, score: float, message: str, **more: Any) -> Finding:
    return Finding(Annotators.name, severity, min(1.0, max(0.0, float(score))), message, **more)


def _told(estimate: Estimate) -> str:
    if not np.isfinite(estimate.value):
        return "undefined: all answers are of one class"
    return f"{estimate.value:.3f}" + (
        f" ({estimate.low:.3f} to {estimate.high:.3f})" if np.isfinite(estimate.low) else ""
    )


def _rounded(value: float) -> float | None:
    return round(float(value), 4) if np.isfinite(value) else None


def _surely(chance: float) -> str:
    """The consensus comes from the sharper of two beliefs, the chance from the more sober one: below a half it names none."""
    return f"{chance:.0%} sure" if chance >= 0.5 else "far from sure"
