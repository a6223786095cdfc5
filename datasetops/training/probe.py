"""A linear classifier on frozen embeddings: minutes on a processor, no network, the same numbers every time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from datasetops.errors import ModelError, NotFoundError
from datasetops.evaluation.calibration import calibration
from datasetops.evaluation.classification import Classification, classify, classify_several
from datasetops.manifest import Repository, Version
from datasetops.models import EmbeddingCache, elsewhere, embed_images, open_embedder
from datasetops.progress import Progress, no_progress
from datasetops.store.media import Media
from datasetops.training.data import (
    Flags,
    Parts,
    balance,
    class_names,
    label_weights,
    labels_that_count,
    refuse_unlearnable,
    refuse_unreadable,
)
from datasetops.training.linear import Floats, Ints, Linear, best_temperature, fit_linear, sigmoid, softmax
from datasetops.training.recipe import ProbeRecipe, Recipe
from datasetops.training.record import Trained

KIND: Final = "classification"
_FEWEST: Final = 20  # items that a temperature is chosen on
_FORMAT: Final = 1


@dataclass(frozen=True)
class Labeled:
    """Samples with their labels: class numbers (N,), or (N, K) where several hold; `weight` (N,)."""

    samples: pd.DataFrame
    labels: Ints | Flags
    weight: Any
    notes: tuple[str, ...] = ()


def train_probe(
    repository: Repository,
    version: Version,
    parts: Parts,
    recipe: ProbeRecipe,
    *,
    skip_unreadable: bool = False,
    progress: Progress = no_progress,
) -> tuple[Trained, Parts]:
    """Train, and say on which samples. Raises what `refuse_unlearnable`, `label_weights` and `open_embedder` raise."""
    if KIND not in version.schema.kinds:
        raise ModelError(
            f"A probe gives classes of whole images, which the schema {version.schema.name!r} does not ask for.",
            remedy="Take a recipe for detection: head.",
        )
    names, train, validation = learnable(repository, version, parts, recipe)
    reference = recipe.model or repository.settings.model
    embedder = open_embedder(reference, cache=repository.settings.cache)
    both = pd.concat([train.samples, validation.samples], ignore_index=True)
    x, faults = _embedded(repository, reference, embedder, both, progress)
    told = refuse_unreadable(faults, skip_unreadable)
    usable = np.isfinite(x[:, 0])
    own, other = usable.copy(), usable.copy()
    own[len(train.samples) :], other[: len(train.samples)] = False, False
    own[: len(train.samples)] &= train.weight > 0
    labels = np.concatenate([train.labels, validation.labels])
    weight = np.concatenate([train.weight, validation.weight])
    counts = class_counts(labels[own], len(names))
    refuse_unlearnable(version, dict(zip(names, counts.tolist(), strict=True)), recipe, "class label")
    weight[own] *= row_weights(labels[own], counts, recipe)
    groups = both["home"].to_numpy(np.int64)
    fitted = fit_linear(
        x[own], labels[own], len(names), weight[own], groups[own], method=recipe.method, seed=recipe.seed
    )
    scores = fitted.scores(x[other])
    factor = 1.0
    if recipe.calibrate and other.sum() >= _FEWEST:
        factor = best_temperature(scores, labels[other], np.ones(int(other.sum())))[0]
    metric, metrics = judged(scores * np.float32(factor), labels[other], names)
    description = {
        "format": _FORMAT,
        "kind": "probe",
        "task": KIND,
        "classes": list(names),
        "several": version.schema.multi_label,
        "activation": "sigmoid" if version.schema.multi_label else "softmax",
        "temperature": 1 / factor,
        "embedder": {"reference": reference, "digest": embedder.digest, "dim": embedder.dim},
        "chosen": fitted.chosen,
    }
    notes = (*parts.notes, *train.notes, *told, *_doubts(recipe, int(other.sum())))
    trained = Trained(KIND, names, weights_of(fitted), description, metric, metrics, notes=notes)
    kept = Parts(both[own], both[other])
    return trained, kept


def learnable(
    repository: Repository, version: Version, parts: Parts, recipe: Recipe
) -> tuple[tuple[str, ...], Labeled, Labeled]:
    """The classes that can be learned, and what is labeled with them to train on and to validate on.

    Raises NotFoundError where one class alone is there, and what `refuse_unlearnable` raises.
    """
    names = class_names(version, [KIND])
    train = labeled(repository, version, parts.train, names, recipe)
    counts = class_counts(train.labels[train.weight > 0], len(names))
    names = refuse_unlearnable(version, dict(zip(names, counts.tolist(), strict=True)), recipe, "class label")
    if len(names) < 2 and not version.schema.multi_label:
        raise NotFoundError(
            f"All {int(counts.sum()):,} examples to train on are of one class, {names[0]!r}.",
            remedy="Label images of other classes too: one class cannot be told from nothing.",
        )
    train = labeled(repository, version, parts.train, names, recipe)
    return names, train, labeled(repository, version, parts.validation, names, recipe)


def labeled(
    repository: Repository, version: Version, samples: pd.DataFrame, names: tuple[str, ...], recipe: Recipe
) -> Labeled:
    """Of some samples those with a usable label: one of `names`, and the only one where one class holds an image."""
    rows = labels_that_count(version, [KIND])
    rows = rows[rows["sample_id"].isin(samples["sample_id"]) & rows["label"].isin(names)]
    rows = rows.sort_values("annotation_id", kind="stable").reset_index(drop=True)
    weight, notes = label_weights(repository, version, rows, recipe)
    codes = rows["label"].map({name: code for code, name in enumerate(names)}).to_numpy(np.int64)
    place = pd.Index(samples["sample_id"]).get_indexer(rows["sample_id"])
    several = np.zeros((len(samples), len(names)), dtype=bool)
    several[place, codes] = True
    least = np.ones(len(samples))
    np.minimum.at(least, place, weight)
    count = several.sum(axis=1)
    if version.schema.multi_label:
        chosen = np.flatnonzero(count > 0)
        return Labeled(samples.iloc[chosen].reset_index(drop=True), several[chosen], least[chosen], notes)
    if (count > 1).any():
        notes += (f"{int((count > 1).sum()):,} samples have several classes where one is allowed, and are left out.",)
    chosen = np.flatnonzero(count == 1)
    return Labeled(samples.iloc[chosen].reset_index(drop=True), several[chosen].argmax(axis=1), least[chosen], notes)


def judged(scores: Floats, labels: npt.NDArray[Any], names: tuple[str, ...]) -> tuple[str, dict[str, Any]]:
    """(name of the headline metric, metrics) of scores (N, K); an empty part has none."""
    if not len(scores):
        return "accuracy", {"items": 0}
    found: Classification
    more: dict[str, Any] = {}
    if labels.ndim == 2:
        found = classify_several(sigmoid(scores).astype(np.float64), labels, names)
        metric = "mean_average_precision"
    else:
        probabilities = softmax(scores).astype(np.float64)
        found = classify(probabilities, labels, names)
        measured = calibration(probabilities, labels)
        more = {"ece": measured.ece, "nll": measured.nll}
        metric = "accuracy"
    means = {"macro_f1": found.means.macro_f1, "mean_average_precision": found.means.mean_average_precision}
    by_class = {item.name: {"examples": item.examples, "f1": item.f1} for item in found.classes}
    return metric, {"items": len(scores), "accuracy": found.accuracy, **means, **more, "classes": by_class}


def weights_of(fitted: Linear) -> bytes:
    from safetensors.numpy import save

    return bytes(save({"weight": np.ascontiguousarray(fitted.weight), "bias": np.ascontiguousarray(fitted.bias)}))


def _embedded(
    repository: Repository, reference: str, embedder: Any, samples: pd.DataFrame, progress: Progress
) -> tuple[Floats, dict[str, str]]:
    """Embeddings (N, D), and why there is none of some, by uri."""
    media = Media(repository.store, repository.root)
    uris, keys = samples["uri"].tolist(), samples["sha256"].tolist()
    there = samples["sha256"].notna().to_numpy()
    x = np.full((len(samples), embedder.dim), np.nan, dtype=np.float32)
    rows = np.flatnonzero(there)
    own = [uris[row] for row in rows]
    x[rows] = embed_images(
        embedder, [keys[row] for row in rows], lambda row: media.read(own[row]),
        cache=EmbeddingCache(repository.cache / "embeddings", embedder.digest), jobs=repository.settings.jobs,
        progress=progress, away=elsewhere(repository, reference, own),
    )  # fmt: skip
    bad = np.flatnonzero(~np.isfinite(x[:, 0]))
    reasons = {True: "it is missing, cannot be read or decoded", False: "it was not at hand when it was ingested"}
    return x, {uris[row]: reasons[bool(there[row])] for row in bad}


def class_counts(labels: Ints | Flags, k: int) -> Any:
    return labels.sum(axis=0) if labels.ndim == 2 else np.bincount(labels, minlength=k)


def row_weights(labels: Ints | Flags, counts: Any, recipe: Recipe) -> Any:
    """Of each row; where several classes hold the largest of theirs."""
    by_class = balance(counts, recipe)
    return by_class[labels] if labels.ndim == 1 else (labels * by_class).max(axis=1)


def _doubts(recipe: ProbeRecipe, items: int) -> tuple[str, ...]:
    if items == 0:
        return ("Nothing was set apart to validate on: how good the model is was not measured.",)
    if recipe.calibrate and items < _FEWEST:
        return (f"Only {items} items to validate on: probabilities are not calibrated.",)
    return ()
