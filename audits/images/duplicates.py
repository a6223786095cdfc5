"""Images that are there twice: byte for byte, or as the same shot in another guise; and copies labelled differently."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from datasetops.audits.base import AuditContext, CheckResult, skipped
from datasetops.audits.charts import histogram
from datasetops.audits.images.near import near_pairs
from datasetops.audits.samplewise import SampleFindings, sample_scores
from datasetops.records import Finding

Floats: TypeAlias = npt.NDArray[np.float32]
Ints: TypeAlias = npt.NDArray[np.int64]

SHOWN = 20  # others that a finding names at most
_NO_LABEL = "(none)"
_GEOMETRY = ["x1", "y1", "x2", "y2", "geometry", "text"]


def exact_groups(digests: pd.Series) -> list[Ints]:
    """Row numbers of each set of two or more samples with the same media digest, in the order of their first rows."""
    rows = np.flatnonzero(digests.notna() & digests.duplicated(keep=False))
    codes, _ = pd.factorize(digests.iloc[rows])
    order = np.argsort(codes, kind="stable")
    groups = np.split(rows[order], np.flatnonzero(np.diff(codes[order])) + 1)
    return [group for group in groups if len(group)]


@dataclass(frozen=True)
class Labels:
    """What is annotated on each sample, to compare copies by.

    `texts`: classes by name, other kinds by class and number, the same for samples that are labeled alike; None where
    there is nothing. `digests` (N,): equal where the annotations are equal, whatever their order. What has no
    annotation is waiting for one, and contradicts nothing.
    """

    texts: list[str | None]
    digests: npt.NDArray[np.uint64]

    def compare(self, rows: Ints) -> Comparison:
        labeled = [row for row in rows if self.texts[row] is not None]
        told = Counter(str(self.texts[row]) for row in labeled)
        if len(np.unique(self.digests[labeled])) < 2:
            return Comparison(next(iter(told), None), "")
        (usual, most), *others = told.most_common()
        if not others:
            return Comparison(usual, f"they are labeled {usual}, but not at the same places")
        majority = usual if most > others[0][1] else None
        return Comparison(majority, f"their labels differ: {', '.join(sorted(told))}")


@dataclass(frozen=True)
class Comparison:
    """`majority`: what more of the samples have than anything else; `conflict`: in words, empty where there is none."""

    majority: str | None
    conflict: str


def labels_of(context: AuditContext, rows: Ints, *, regions: bool) -> Labels:
    """Labels of the samples at `rows`; the others have none.

    `regions`: boxes, outlines and texts with their places count too. Without, only classes of whole images do: another
    shot of a scene has other boxes. Of several people's answers to one image the commonest counts, of a tie none.
    """
    annotations = context.annotations
    if not regions:
        annotations = annotations[annotations["kind"] == "classification"]
    place = pd.Index(context.samples["sample_id"].iloc[rows]).get_indexer(pd.Index(annotations["sample_id"]))
    annotations, owner = annotations[place >= 0], rows[place[place >= 0]]
    if not context.schema.multi_label:
        kept = _one_answer_each(annotations, owner)
        annotations, owner = annotations[kept], owner[kept]
    columns = annotations[["kind", "label", *(_GEOMETRY if regions else [])]].astype(object)
    hashes = pd.util.hash_pandas_object(columns, index=False).to_numpy(dtype=np.uint64)
    digests = np.zeros(len(context.samples), dtype=np.uint64)
    np.add.at(digests, owner, hashes)  # a sum does not depend on the order
    label = annotations["label"].astype(object).fillna(_NO_LABEL).astype(str)
    what = label.where(annotations["kind"] == "classification", label + " " + annotations["kind"].astype(str))
    counts = pd.DataFrame({"owner": owner, "what": what}).value_counts(sort=False).reset_index()
    counts = counts.sort_values(["owner", "what"])
    texts: list[str | None] = [None] * len(digests)
    for row, one, count in zip(counts["owner"], counts["what"], counts["count"], strict=True):
        text, so_far = one if count == 1 else f"{count} x {one}", texts[row]
        texts[row] = text if so_far is None else f"{so_far}, {text}"
    return Labels(texts, digests)


def _one_answer_each(annotations: pd.DataFrame, owner: Ints) -> npt.NDArray[np.bool_]:
    """Which annotations (N,) to keep so that no image, numbered in `owner`, has several classes of several people."""
    kept = np.ones(len(annotations), dtype=bool)
    answers = annotations.reset_index(drop=True).assign(owner=owner)[["owner", "kind", "label", "actor"]]
    answers = answers[(answers["kind"] == "classification") & answers["label"].notna()]
    answers = answers[answers.groupby("owner")["actor"].transform("nunique") > 1]
    if not len(answers):
        return kept
    given = answers.value_counts(["owner", "label"], sort=False).reset_index(name="n")
    given["tied"] = given.groupby(["owner", "n"])["label"].transform("size") > 1
    best = given.sort_values(["owner", "n"]).drop_duplicates("owner", keep="last")
    commonest = best[~best["tied"]].set_index("owner")["label"]
    kept[answers.index] = False
    chosen = answers[answers["label"] == answers["owner"].map(commonest)].drop_duplicates("owner")
    kept[chosen.index] = True
    return kept


class ExactDuplicate:
    name = "exact_duplicate"
    title = "byte-identical images, and those of them that are labeled differently"
    needs = "image digests"
    cost = "grows with the samples; seconds for millions"

    def run(self, context: AuditContext) -> CheckResult:
        samples = context.samples
        known = context.at_hand
        if not known.any():
            return skipped("no image was at hand when the version was ingested")
        groups = exact_groups(samples["sha256"])
        copied = np.concatenate([*groups, np.empty(0, np.int64)])
        labels = labels_of(context, copied, regions=True)
        about = SampleFindings(self.name, samples)
        findings = []
        conflicts = 0
        for group in groups:
            compared = labels.compare(group)
            conflicts += bool(compared.conflict)
            for place, row in enumerate(group.tolist()):
                others = np.delete(group[: SHOWN + 1], min(place, SHOWN))
                message = f"the same file as {_named(about, others, len(group) - 1)}"
                findings += _copy(about, row, others, 0.0, message, labels.texts[row], compared)
        score = 1.0 - (samples["sha256"].duplicated().to_numpy() & known)
        summary = {
            "images": int(known.sum()),
            "copies": int((score == 0).sum()),
            "images whose copies are labeled differently": conflicts,
        }
        return CheckResult(findings, sample_scores(samples, known, score), summary)


class NearDuplicate:
    name = "near_duplicate"
    title = "images that show the same shot: recompressed, resized, cropped a little, mirrored or turned"
    needs = "images"
    cost = "decodes every image once, then pairs of look-alikes; about 300 images a second a core"

    def run(self, context: AuditContext) -> CheckResult:
        samples = context.samples
        known = context.at_hand
        if not known.any():
            return skipped("no image is at hand")
        pairs = near_pairs(context)
        labels = labels_of(context, np.unique(pairs.indices), regions=False)
        about = SampleFindings(self.name, samples)
        similarity = np.zeros(len(samples))
        findings = []
        conflicts = 0
        for row, partners, alike in by_row(pairs.indices, pairs.similarity):
            similarity[row] = alike[0]
            compared = labels.compare(np.append(partners, row))
            conflicts += bool(compared.conflict)
            message = f"shows the same as {_named(about, partners, len(partners))}: {alike[0]:.0%} of the detail agrees"
            findings += _copy(about, row, partners, 1 - float(alike[0]), message, labels.texts[row], compared)
        counts = np.histogram(pairs.similarity, bins=20, range=(0.5, 1))[0].tolist()
        summary = {
            "images compared": pairs.compared,
            "pairs": len(pairs.indices),
            "images labeled unlike a near-duplicate": conflicts,
            "threshold": round(pairs.threshold, 3),
            "recall of the search": round(pairs.recall, 3),
            "charts": [histogram("Pairs by the detail that agrees", counts, 0.5, 1)] if len(pairs.indices) else [],
        }
        known[pairs.unreadable] = False
        return CheckResult(findings, sample_scores(samples, known, 1 - similarity), summary)


def by_row(pairs: Ints, similarity: Floats) -> list[tuple[int, Ints, Floats]]:
    """For each row that is in a pair, in order: its partners, the most alike first, and how alike they are."""
    if not len(pairs):
        return []
    rows = np.concatenate([pairs[:, 0], pairs[:, 1]])
    partners = np.concatenate([pairs[:, 1], pairs[:, 0]])
    alike = np.tile(similarity, 2)
    order = np.lexsort((partners, -alike, rows))
    ends = np.flatnonzero(np.diff(rows[order])) + 1
    parts = zip(*(np.split(column[order], ends) for column in (rows, partners, alike)), strict=True)
    return [(int(row[0]), partner, like) for row, partner, like in parts]


def _copy(
    about: SampleFindings, row: int, others: Ints, score: float, message: str, given: str | None, compared: Comparison
) -> list[Finding]:
    """That `row` is a copy of `others`; nothing for the first of its group, unless it is the one labeled unlike most."""
    odd = bool(compared.conflict) and given is not None and compared.majority not in (None, given)
    if others.min() > row and not odd:
        return []
    return [
        about.at(
            row,
            "high" if compared.conflict else "medium",
            score,
            f"{message}; {compared.conflict}" if compared.conflict else message,
            given=given if compared.conflict else None,
            suggested=compared.majority if odd else None,
            related=tuple(about.ids[others[:SHOWN]]),
        )
    ]


def _named(about: SampleFindings, rows: Ints, number: int) -> str:
    first = str(about.uris[rows[0]])
    return first if number == 1 else f"{first} and {number - 1} more"
