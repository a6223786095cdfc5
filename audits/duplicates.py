"""Copies among the images: byte-identical ones, and others that show the same shot."""

from __future__ import annotations

from collections import Counter, defaultdict

import pandas as pd

from datasetops.audits.base import AuditContext, CheckResult
from datasetops.audits.near import near_pairs
from datasetops.records import Finding

_NO_LABEL = "(none)"


class ExactDuplicate:
    name = "exact_duplicate"
    title = "byte-identical images"
    needs = "image digests"

    def run(self, context: AuditContext) -> CheckResult:
        samples = context.samples
        known = samples["sha256"].notna()
        if not known.any():
            return CheckResult([], summary={"skipped": "no image was at hand when the version was ingested"})
        ids, labels = samples["sample_id"], label_texts(context)
        findings = []
        groups = samples.index[known & samples["sha256"].duplicated(keep=False)]
        for rows in samples.loc[groups].groupby("sha256", sort=False).groups.values():
            members = [ids[row] for row in rows]
            usual = Counter(labels[member] for member in members).most_common(1)[0][0]
            conflict = len({labels[member] for member in members}) > 1
            for row in rows[1:]:
                own = ids[row]
                text = f"the same file as {samples['uri'][rows[0]]}"
                if len(rows) > 2:
                    text += f" and {len(rows) - 2} more"
                if conflict:
                    text += f"; their labels differ: {', '.join(sorted({labels[member] for member in members}))}"
                findings.append(
                    Finding(
                        self.name,
                        "high" if conflict else "medium",
                        0.0,
                        text,
                        sample_id=own,
                        uri=samples["uri"][row],
                        split=samples["split"][row],
                        given=labels[own] if conflict else None,
                        suggested=usual if conflict else None,
                        related=tuple(member for member in members if member != own),
                    )
                )
        copied = samples["sha256"].duplicated() & known
        scores = pd.DataFrame(
            {"sample_id": ids[known], "annotation_id": None, "score": 1.0 - copied[known].astype(float)}
        )
        return CheckResult(findings, scores, {"images": int(known.sum()), "copies": int(copied.sum())})


class NearDuplicate:
    name = "near_duplicate"
    title = "images that show the same shot: recompressed, resized, cropped a little, mirrored or turned"
    needs = "images"

    def run(self, context: AuditContext) -> CheckResult:
        samples = context.samples
        if not samples["sha256"].notna().any():
            return CheckResult([], summary={"skipped": "no image is at hand"})
        pairs = near_pairs(context)
        labels = label_texts(context)
        partners: dict[int, list[tuple[float, int]]] = defaultdict(list)
        for (first, second), similarity in zip(pairs.indices.tolist(), pairs.similarity.tolist(), strict=True):
            partners[second].append((similarity, first))
        findings = []
        for row in sorted(partners):
            others = sorted(partners[row], key=lambda item: (-item[0], item[1]))
            similarity, nearest = others[0]
            own, other = labels[samples["sample_id"][row]], labels[samples["sample_id"][nearest]]
            text = f"shows the same as {samples['uri'][nearest]}: {similarity:.0%} of the detail agrees"
            if own != other:
                text += f"; labeled {own}, the other {other}"
            findings.append(
                Finding(
                    self.name,
                    "high" if own != other else "medium",
                    max(0.0, 1.0 - similarity),
                    text,
                    sample_id=samples["sample_id"][row],
                    uri=samples["uri"][row],
                    split=samples["split"][row],
                    given=own if own != other else None,
                    suggested=other if own != other else None,
                    related=tuple(samples["sample_id"][at] for _, at in others),
                )
            )
        score = pd.Series(1.0, index=samples.index)
        for (first, second), similarity in zip(pairs.indices, pairs.similarity, strict=True):
            score[[first, second]] = score[[first, second]].clip(upper=1.0 - float(similarity))
        scores = pd.DataFrame({"sample_id": samples["sample_id"], "annotation_id": None, "score": score})
        summary = {
            "images compared": pairs.compared,
            "pairs": len(pairs.indices),
            "threshold": round(float(pairs.threshold), 3),
            "recall of the search": round(float(pairs.recall), 3),
        }
        return CheckResult(findings, scores[samples["sha256"].notna()], summary)


def label_texts(context: AuditContext) -> dict[str, str]:
    """What each sample's annotations say, in one line that is equal for samples labeled alike.

    Class labels by name; other kinds by class and count, because copies may be cropped or scaled.
    """
    rows = context.annotations
    label = rows["label"].fillna(_NO_LABEL).astype(str)
    text = label.where(rows["kind"] == "classification", label + " " + rows["kind"].astype(str))
    told = text.groupby(rows["sample_id"]).agg(lambda texts: ", ".join(_counted(texts)))
    return {sample: told.get(sample, _NO_LABEL) for sample in context.samples["sample_id"]}


def _counted(texts: pd.Series[str]) -> list[str]:
    counts = Counter(texts)
    return [text if count == 1 else f"{count} x {text}" for text, count in sorted(counts.items())]
