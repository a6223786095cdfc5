"""Images that are hard to label or to learn from: dark, light, blurry, of odd size or shape, empty, unreadable.

Measures, scores and thresholds are cleanvision's. A trait that most of a dataset shares is how the dataset is (all
scans are small, all film is dark), and is told in one line instead of as thousands of findings.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from datasetops.audits.base import AuditContext, CheckResult, skipped
from datasetops.audits.charts import bars
from datasetops.audits.images.perceptual import in_threads
from datasetops.audits.samplewise import SampleFindings, sample_scores
from datasetops.errors import DatasetOpsError

_TRAITS: Final = {
    "dark": "very dark",
    "light": "very light",
    "blurry": "blurry",
    "odd_aspect_ratio": "an unusual shape",
    "odd_size": "an unusual size",
    "low_information": "almost nothing to see",
    "grayscale": "without colour",
}
_MINOR: Final = ("grayscale", "odd_size", "odd_aspect_ratio")
_SHARED: Final = 0.2  # share of the images from which a trait is the dataset's
_SAMPLED: Final = 256  # pixels of the longer side that brightness and the like are measured on: enough for percentiles
_GREY: Final = 4  # levels that the channels of a grey image may differ by, from compression
_NUMBERS: Final = (
    "brightness_perc_5",
    "brightness_perc_99",
    "entropy",
    "blurriness",
    "blurriness_grayscale_std",
    "size",
    "aspect_ratio",
)
_COLOUR: Final = "color_space"


class ImageQuality:
    name = "image_quality"
    title = "dark, light, blurry, oddly sized or shaped, empty and unreadable images"
    needs = "images"
    cost = "decodes every image once; about 200 images a second a core"

    def run(self, context: AuditContext) -> CheckResult:
        samples = context.samples
        rows = np.flatnonzero(context.at_hand)
        if not len(rows):
            return skipped("no image is at hand")
        about = SampleFindings(self.name, samples)
        measures, unreadable = _measured(context, rows)
        findings = [about.at(row, "high", 0.0, f"unreadable: {why}") for row, why in unreadable.items()]
        score = np.zeros(len(samples))
        summary: dict[str, Any] = {"images": len(rows), "unreadable": len(unreadable)}
        if len(measures):
            scores, flags = judge_images(measures)
            share = flags.mean()
            own = [trait for trait in _TRAITS if share[trait] <= _SHARED]
            for trait in own:
                severity = "low" if trait in _MINOR else "medium"
                values = scores[trait]
                flagged = flags.index[flags[trait]].tolist()
                findings += [about.at(row, severity, values[row], _TRAITS[trait]) for row in flagged]
            summary |= {
                f"all over the dataset: {_TRAITS[trait]}": f"{share[trait]:.0%} of the images"
                for trait in _TRAITS
                if trait not in own
            }
            score[measures.index] = scores[own].min(axis=1)
            flagged_by_trait = {_TRAITS[trait]: int(flags[trait].sum()) for trait in own if flags[trait].any()}
            if flagged_by_trait:
                summary["charts"] = [bars("Images by problem", flagged_by_trait)]
        return CheckResult(findings, sample_scores(samples, context.at_hand, score), summary)


def judge_images(measures: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Scores in [0, 1], 1 = clean, below 0.5 where flagged; and flags, by trait, from the measures of each image.

    Scores and thresholds are cleanvision's, each score stretched so that its threshold comes to lie at 0.5: so the
    traits of an image can be compared, and the worst of them is the image's.
    """
    manager = _manager()
    scores, flags = {}, {}
    for trait in _TRAITS:
        judge, parameters = manager.image_properties[trait], manager.get_default_params()[trait]
        threshold = parameters.pop("threshold", None)
        found = judge.get_scores(raw_scores=measures, issue_type=trait, **parameters)
        flags[trait] = judge.mark_issue(found, trait, threshold).iloc[:, 0].astype(bool)
        score = found.iloc[:, 0].astype(float).clip(0, 1)
        # The threshold for odd sizes follows from the sizes, and is kept by the judge.
        threshold = threshold or getattr(judge, "threshold", 0.5)
        above = 0.5 + 0.5 * (score - threshold) / max(1 - threshold, 1e-9)
        scores[trait] = above.where(~flags[trait], 0.5 * score / threshold).clip(0, 1)
    return pd.DataFrame(scores), pd.DataFrame(flags)


def _measured(context: AuditContext, rows: npt.NDArray[np.int64]) -> tuple[pd.DataFrame, dict[int, str]]:
    """cleanvision's measures of each image, and why the others cannot be read, both by row."""
    judges = {type(judge).__name__: judge for judge in _manager().image_properties.values()}

    def measure(row: int) -> tuple[list[float], bool] | str:
        try:
            image = context.images.open(row)
        except DatasetOpsError as error:
            return error.message
        found: dict[str, float] = {}
        for name in ("SizeProperty", "AspectRatioProperty", "BlurrinessProperty"):  # the last shrinks the image itself
            found |= judges[name].calculate(image)
        shrink = min(1.0, _SAMPLED / max(image.size))
        # Nearest pixels are a sample of the image's; means of pixels would hide its darkest and lightest.
        sampled = image.resize([max(1, round(n * shrink)) for n in image.size], Image.Resampling.NEAREST)
        for name in ("BrightnessProperty", "EntropyProperty"):
            found |= judges[name].calculate(sampled)
        grey = np.ptp(np.asarray(sampled), axis=2).max() <= _GREY
        return [found[name] for name in _NUMBERS], bool(grey)

    numbers = np.full((len(rows), len(_NUMBERS)), np.nan)
    colour = np.full(len(rows), "RGB", dtype=object)
    unreadable = {}
    made = in_threads(measure, rows.tolist(), context.jobs)
    for at, result in enumerate(context.progress(made, len(rows), "Measuring images")):
        if isinstance(result, str):
            unreadable[int(rows[at])] = result
        else:
            numbers[at] = result[0]
            colour[at] = "L" if result[1] else "RGB"
    frame = pd.DataFrame(numbers, columns=_NUMBERS, index=rows).assign(**{_COLOUR: colour})
    return frame.dropna(), unreadable


def _manager() -> Any:
    from cleanvision.issue_managers.image_property_issue_manager import ImagePropertyIssueManager

    return ImagePropertyIssueManager()
