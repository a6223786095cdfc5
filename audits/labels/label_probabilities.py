"""Which class labels can be judged, and what a model that did not see them gives each class."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from datasetops.audits.base import AuditContext
from datasetops.audits.labels.probe import out_of_sample_probabilities

MIN_ITEMS_PER_CLASS: Final = 2  # with fewer, an item of the class is never seen in training when it is judged
_CLASSES: Final = 2  # with fewer there is nothing to mistake a label for
_SURE: Final = (
    0.98  # probability, and share of the labels: out-of-sample ones hardly ever are so sure of so many, since
)
_NEARLY_ALL: Final = 0.995  # people mislabel more than that
_BETTER: Final = 2.0  # standard errors by which a model has to be better than none
_NAMED: Final = 10  # classes that a sentence names at most


@dataclass(frozen=True)
class LabelProbabilities:
    """Labels that can be judged, in the order of `rows`; without any, `skipped` says why.

    `rows`: their annotations; `at` (N,): row numbers of their samples; `labels` (N,) in [0, K), the place in `names`;
    `probabilities` (N, K), rows sum to one. `summary`: classes, where the probabilities are from, what was left out.
    """

    rows: pd.DataFrame
    at: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    probabilities: npt.NDArray[Any]
    names: tuple[str, ...]
    summary: dict[str, Any] = field(default_factory=dict)
    skipped: str | None = None


def label_probabilities(context: AuditContext) -> LabelProbabilities:
    """Those of samples with exactly one class label: supplied ones, else a probe's. Worked out once for all checks."""
    known = context.memo.get("label_probabilities")
    if known is None:
        known = context.memo["label_probabilities"] = _worked_out(context)
    result: LabelProbabilities = known
    return result


def _worked_out(context: AuditContext) -> LabelProbabilities:
    names = context.schema.class_names
    given = context.annotations[context.annotations["kind"] == "classification"]
    given = given[given["label"].notna()]
    if context.schema.multi_label:
        return _skipped(given, names, "the schema allows several labels an image")
    rows = given[~given["sample_id"].duplicated(keep=False)]
    if not len(rows):
        several = given["actor"].nunique() > 1
        why = "; the check annotators judges several people's answers" if several else ""
        return _skipped(given, names, f"no image has exactly one class label{why}")
    left_out = _LeftOut(len(given))
    left_out.add(len(given) - len(rows), "of images with several class labels")
    in_use = rows["label"].isin(names)
    left_out.of_classes(rows["label"][~in_use], "of classes that the schema no longer uses")
    rows = rows[in_use]
    position = pd.Series(context.samples.index, index=context.samples["sample_id"])
    at = position[rows["sample_id"]].to_numpy()
    labels = pd.Categorical(rows["label"], categories=list(names)).codes.astype(np.int64)
    summary: dict[str, Any] = {"classes": list(names)}
    if context.probabilities is not None:
        probabilities = context.probabilities.to_numpy()[at]
        known = ~np.isnan(probabilities).any(axis=1)
        left_out.add(int((~known).sum()), "without probabilities")
        summary["probabilities"] = "supplied"
    else:
        if len(np.unique(labels)) < _CLASSES:
            return _skipped(given, names, f"fewer than two classes are in use{left_out.because}")
        embeddings = context.embeddings()[at]
        known = np.isfinite(embeddings).all(axis=1)
        left_out.add(int((~known).sum()), "of images that cannot be read")
        groups = grouped_with_copies(context.samples).to_numpy()[at]
        probe = out_of_sample_probabilities(embeddings, labels, groups=groups, n_classes=len(names), seed=context.seed)
        probabilities = probe.probabilities
        summary |= {"probabilities": "probe", "log_loss": round(probe.log_loss, 4)}
    many = np.bincount(labels[known], minlength=len(names))[labels] >= MIN_ITEMS_PER_CLASS
    left_out.of_classes(rows["label"][known & ~many], "of classes with a single item")
    usable = known & many & ~np.isnan(probabilities).any(axis=1)
    left_out.of_classes(rows["label"][known & many & ~usable], "of classes that one group of images or copies holds")
    if len(np.unique(labels[usable])) < _CLASSES:
        return _skipped(given, names, f"fewer than two classes can be judged{left_out.because}")
    if left_out.count:
        summary["left_out"] = left_out.sentence
    probabilities = np.ascontiguousarray(probabilities[usable])
    probabilities = probabilities / probabilities.sum(axis=1, keepdims=True)
    if context.probabilities is not None and tells_nothing(labels[usable], probabilities):
        agreed = int((probabilities.argmax(axis=1) == labels[usable]).sum())
        why = (
            f"the supplied probabilities say the given class of {agreed:,} of {len(probabilities):,} images and tell no "
            "more than how frequent each class is: their model is not to be believed, or its names mean other classes"
        )
        return _skipped(given, names, why)
    if context.probabilities is not None and _seem_learned(labels[usable], probabilities):
        summary["doubt"] = (
            "the supplied probabilities agree with nearly every label and are sure of it, as those of a model do that was "
            "trained on these labels: errors that it learned cannot be found"
        )
    return LabelProbabilities(rows[usable], at[usable], labels[usable], probabilities, names, summary)


def tells_nothing(labels: npt.NDArray[np.int64], probabilities: npt.NDArray[Any]) -> bool:
    """Whether probabilities (N, K) tell no more of labels (N,) in [0, K), N at least 1, than how frequent each class is.

    Their squared error (Brier, "Verification of forecasts expressed in terms of probability", 1950) has to be surely less
    than that of the classes' frequencies.
    """
    usual = np.bincount(labels, minlength=probabilities.shape[1]) / len(labels)
    own = probabilities[np.arange(len(labels)), labels]
    less = (usual**2).sum() - 2 * usual[labels] - (probabilities**2).sum(axis=1) + 2 * own
    return bool(less.mean() <= _BETTER * less.std() / np.sqrt(len(less)))


def _seem_learned(labels: npt.NDArray[np.int64], probabilities: npt.NDArray[Any]) -> bool:
    """Whether probabilities look like those of a model on its own training data."""
    own = probabilities[np.arange(len(labels)), labels]
    return bool((own > _SURE).mean() > _NEARLY_ALL)


def grouped_with_copies(samples: pd.DataFrame) -> pd.Series:
    """A group for every sample: its own group, joined with those of byte-identical copies.

    Items of one group must not be split between training and judging.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n = len(samples)
    keys = pd.concat([samples["group"].map(lambda x: f"g{x}", na_action="ignore"), samples["sha256"]])
    codes, uniques = pd.factorize(keys)
    rows = np.tile(np.arange(n), 2)[codes >= 0]
    columns = codes[codes >= 0] + n
    size = n + len(uniques)
    graph = coo_array((np.ones(len(rows), dtype=np.int8), (rows, columns)), shape=(size, size))
    return pd.Series(connected_components(graph, directed=False)[1][:n], index=samples.index)


class _LeftOut:
    """Labels that are not judged, and why."""

    def __init__(self, labels: int) -> None:
        self.count = 0
        self._labels = labels
        self._reasons: list[str] = []

    def add(self, count: int, reason: str) -> None:
        if count:
            self.count += count
            self._reasons.append(f"{count:,} {reason}")

    def of_classes(self, labels: pd.Series, reason: str) -> None:
        named = sorted(labels.unique())
        more = f" and {len(named) - _NAMED} more" if len(named) > _NAMED else ""
        self.add(len(labels), f"{reason} ({', '.join(named[:_NAMED])}{more})")

    @property
    def because(self) -> str:
        """The same behind another sentence."""
        return f": {self.sentence}" if self.count else ""

    @property
    def sentence(self) -> str:
        return f"{self.count:,} of {self._labels:,} labels were not judged: {'; '.join(self._reasons)}"


def _skipped(given: pd.DataFrame, names: tuple[str, ...], reason: str) -> LabelProbabilities:
    nothing = np.empty(0, dtype=np.int64)
    return LabelProbabilities(given[:0], nothing, nothing, np.empty((0, len(names))), names, skipped=reason)
