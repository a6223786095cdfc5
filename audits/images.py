"""Images that are hard to label or to learn from: dark, light, blurry, of odd size or shape, empty, unreadable.

Measures, scores and thresholds are cleanvision's. A trait that most of a dataset shares is how the dataset is (all
scans are small, all film is dark), and is told in one line instead of as thousands of findings.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import numpy as np
import pandas as pd

from datasetops.audits.base import AuditContext, CheckResult
from datasetops.errors import DatasetOpsError
from datasetops.records import Finding

_TRAITS: Final = {
    "dark": "very dark",
    "light": "very light",
    "blurry": "blurry",
    "odd_aspect_ratio": "an unusual shape",
    "odd_size": "an unusual size",
    "low_information": "almost nothing to see",
    "grayscale": "grey among coloured images",
}
_SHARED: Final = 0.2  # share of the images from which a trait is the dataset's
_CHUNK: Final = 256
_LARGEST: Final = 1024  # pixels of the longer side on which brightness and the like are measured


class ImageQuality:
    name = "image_quality"
    title = "dark, light, blurry, oddly sized or shaped, empty and unreadable images"
    needs = "images"

    def run(self, context: AuditContext) -> CheckResult:
        samples = context.samples
        rows = samples.index[samples["sha256"].notna()].to_numpy()
        if not len(rows):
            return CheckResult([], summary={"skipped": "no image is at hand"})
        measured = list(context.progress(_measured(context, rows), len(rows), "Measuring images"))
        findings = [
            self._finding(samples, row, "high", 0.0, f"unreadable: {values}")
            for row, values in zip(rows, measured, strict=True)
            if isinstance(values, str)
        ]
        raw = pd.DataFrame(
            {row: values for row, values in zip(rows, measured, strict=True) if isinstance(values, dict)}
        ).T
        score = pd.Series(0.0, index=rows)
        summary: dict[str, Any] = {"images": len(rows), "unreadable": len(findings)}
        if len(raw):
            scores, flagged = judge_images(raw)
            score[raw.index] = scores.drop(columns="grayscale").min(axis=1)
            for trait in flagged.columns:
                share = float(flagged[trait].mean())
                if share > _SHARED:
                    summary[f"all over the dataset: {_TRAITS[trait]}"] = f"{share:.0%} of the images"
                    score[raw.index] = scores.drop(columns=["grayscale", trait], errors="ignore").min(axis=1)
                    continue
                severity = "low" if trait in ("grayscale", "odd_size", "odd_aspect_ratio") else "medium"
                for row in flagged.index[flagged[trait]]:
                    value = float(np.clip(scores[trait][row], 0.0, 1.0))
                    findings.append(self._finding(samples, row, severity, value, _TRAITS[trait]))
        table = pd.DataFrame(
            {"sample_id": samples["sample_id"][rows], "annotation_id": None, "score": score.clip(0, 1)}
        )
        return CheckResult(findings, table, summary)

    def _finding(self, samples: pd.DataFrame, row: int, severity: str, score: float, text: str) -> Finding:
        return Finding(
            self.name,
            severity,
            score,
            text,
            sample_id=samples["sample_id"][row],
            uri=samples["uri"][row],
            split=samples["split"][row],
        )


def judge_images(raw: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(scores in [0, 1], 1 = clean; flags) of each trait, from cleanvision's measures of each image."""
    manager = _manager()
    measures = raw.apply(lambda column: column if column.name == "color_space" else column.astype(float))
    scores, flags = {}, {}
    for trait in _TRAITS:
        prop, parameters = manager.image_properties[trait], dict(manager.params[trait])
        threshold = parameters.pop("threshold", None)
        found = prop.get_scores(raw_scores=measures, issue_type=trait, **parameters)
        marked = prop.mark_issue(found, trait, threshold)
        scores[trait] = found.iloc[:, 0].astype(float).clip(0, 1)
        flags[trait] = marked.iloc[:, 0].astype(bool)
    return pd.DataFrame(scores), pd.DataFrame(flags)


def _measured(context: AuditContext, rows: Any) -> Iterator[dict[str, Any] | str]:
    """Measures of each image, or why it cannot be read."""
    properties = {type(prop).__name__: prop for prop in _manager().image_properties.values()}

    def measure(row: int) -> dict[str, Any] | str:
        try:
            image = context.images.open(int(row))
        except DatasetOpsError as error:
            return error.message
        values: dict[str, Any] = properties["SizeProperty"].calculate(image)
        values |= properties["AspectRatioProperty"].calculate(image)
        image.thumbnail((_LARGEST, _LARGEST))
        for name in ("BrightnessProperty", "EntropyProperty", "BlurrinessProperty", "ColorSpaceProperty"):
            values |= properties[name].calculate(image)
        return values

    with ThreadPoolExecutor(context.jobs) as pool:
        for start in range(0, len(rows), _CHUNK):
            yield from pool.map(measure, rows[start : start + _CHUNK])


def _manager() -> Any:
    from cleanvision.issue_managers.image_property_issue_manager import ImagePropertyIssueManager

    manager = ImagePropertyIssueManager()
    manager.params = manager.get_default_params()
    return manager
