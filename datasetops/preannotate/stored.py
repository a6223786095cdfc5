"""Kept predictions of a model as class probabilities and detections, for audits and selection.

They are as the model said them, below every threshold too. Whether it saw the labels that it is held against, only its
user knows; a few-shot labeler judges a labeled image without its label.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from datasetops.errors import NotFoundError
from datasetops.manifest import Repository, Version
from datasetops.preannotate.mapping import ClassMapping, choose_mapping, recorded_mapping
from datasetops.preannotate.plan import labeled_by_people
from datasetops.preannotate.predictions import ModelInfo, PredictionStore, Stored, find_model
from datasetops.preannotate.rows import Owners, RowRules, class_scores, rows_of
from datasetops.preannotate.runs import recorded_names

_CORNERS: Final = ("x1", "y1", "x2", "y2")
_UNASKED: Final = 0.05  # share of the images with boxes: unreadable ones are fewer, and boxes in more of them that no
# detector looked at would pass for boxes that it did not find


def stored_probabilities(
    repository: Repository, version: Version, reference: str, mapping: Path | None = None
) -> tuple[pa.Array, npt.NDArray[np.float64]]:
    """(ids of the version's N samples that a model classified, by id; probabilities (N, K), classes as in the schema).

    `reference` names the model as `find_model` takes it; `mapping` is a YAML file (see `read_mapping`), without which
    its names mean what they meant in its newest run. Rows sum to one unless several classes may hold: scores are divided
    by their sum; where a model told the best class only, the others share the rest. A sample whose scores all are of
    names that mean no class is left out. Raises NotFoundError where nothing is kept.
    """
    model = _model(repository, reference, "classification")
    rules = RowRules(
        model, mapping_of(repository, version, model, mapping), version.schema, ("classification",), 0.0, ""
    )
    found, probabilities = probabilities_of(PredictionStore(repository, model.digest), _with_image(version), rules)
    if not len(found):
        raise _nothing(version, model, "class")
    order = pc.sort_indices(found)
    return found.take(order), probabilities[order.to_numpy()]


def probabilities_of(
    store: PredictionStore, samples: pa.Table, rules: RowRules
) -> tuple[pa.Array, npt.NDArray[np.float64]]:
    """As `stored_probabilities`, of samples (sample_id, key: SHA-256) that need not be in any version; in no order."""
    names, schema = rules.mapping, rules.schema
    reached = np.isin(schema.class_names, rules.classes("classification"))
    ids = [pa.array([], pa.string())]
    tables: list[npt.NDArray[np.float64]] = [np.zeros((0, len(schema.class_names)))]
    owners = Owners(samples)
    for stored in store.read(samples["key"].to_pylist()):
        scores = class_scores(stored, names, schema.class_names, several=schema.multi_label)
        scores[:, ~reached] *= 0.0
        if not schema.multi_label:
            scores = _shares(stored, scores, reached)
        there = np.flatnonzero(~np.isnan(scores).any(axis=1))
        own, item = owners.of(stored.images["key"].take(pa.array(there)))
        ids.append(own)
        tables.append(scores[there[item]])
    return pa.concat_arrays(ids), np.concatenate(tables)


def stored_detections(
    repository: Repository, version: Version, reference: str, mapping: Path | None = None
) -> pd.DataFrame:
    """All boxes that a model gave in the version's images: sample_id, label, x1, y1, x2, y2 and score.

    In pixels of the image as stored, by sample and falling score. Arguments as in `stored_probabilities`. A sentence in
    `attrs["notes"]` tells of images with boxes that the model was not asked about; they have to be few, since it would
    seem to have found nothing there. Raises NotFoundError where they are not, and where nothing is kept.
    """
    model = _model(repository, reference, "box")
    rules = RowRules(model, mapping_of(repository, version, model, mapping), version.schema, ("box",), 0.0, "")
    samples = _with_image(version)
    owners = Owners(samples)
    tables, asked = [], [pa.array([], pa.string())]
    for stored in PredictionStore(repository, model.digest).read(samples["key"].to_pylist()):
        tables.append(rows_of(stored, owners, rules).select(["sample_id", "label", *_CORNERS, "score"]))
        asked.append(owners.of(stored.images["key"].filter(stored.images["fault"].is_null()))[0])
    if not tables:
        raise _nothing(version, model, "box")
    labeled = labeled_by_people(version, ("box",))["box"]
    unasked = len(labeled) - pc.sum(pc.is_in(labeled, pa.concat_arrays(asked))).as_py() if len(labeled) else 0
    if unasked > _UNASKED * len(labeled):
        raise _unasked(version, model, "boxes", unasked, len(labeled))
    order = [
        ("sample_id", "ascending"),
        ("score", "descending"),
        *((name, "ascending") for name in ("label", *_CORNERS)),
    ]
    frame: pd.DataFrame = pa.concat_tables(tables).sort_by(order).to_pandas()
    frame.attrs["notes"] = (f"{unasked:,} images with boxes have no predictions",) if unasked else ()
    return frame


def for_audit(
    repository: Repository, version: Version, reference: str, mapping: Path | None = None
) -> tuple[pd.DataFrame | None, pd.DataFrame | None]:
    """(class probabilities, detections) as `audits.run.audit` takes them; None for a kind that the model does not give
    or the schema does not ask for.

    Raises NotFoundError where both are None, where nothing is kept, and where people labeled, but (for boxes: much) in
    samples that were not predicted.
    """
    model = find_model(repository, reference)
    kinds = [kind for kind in ("classification", "box") if kind in model.kinds and kind in version.schema.kinds]
    probabilities = detections = None
    if "classification" in kinds:
        ids, shares = stored_probabilities(repository, version, model.label, mapping)
        labeled = labeled_by_people(version, ("classification",))["classification"]
        if len(labeled) and not pc.any(pc.is_in(labeled, ids)).as_py():
            raise _unasked(version, model, "classes", len(labeled), len(labeled))
        index = pd.Index(ids.to_pylist(), name="sample_id")
        probabilities = pd.DataFrame(shares, index=index, columns=list(version.schema.class_names))
    if "box" in kinds:
        detections = stored_detections(repository, version, model.label, mapping)
    if not kinds:
        raise NotFoundError(
            f"{model.label} gives {' and '.join(model.kinds)}; an audit of {version.name} takes its classes or boxes.",
            remedy=f"Let another model predict: dsops preannotate {version.name} --model … --also-labeled",
        )
    return probabilities, detections


def mapping_of(repository: Repository, version: Version, model: ModelInfo, file: Path | None = None) -> ClassMapping:
    """Which class of the schema each name of a model means: by a file, else as in its newest run, else by equal names.

    Raises ModelError where it can name none of them, and as `read_mapping` does.
    """
    if file is not None:
        return choose_mapping(model.name, model.vocabulary, version.schema, file=file)
    told = recorded_names(repository, model.digest)
    return recorded_mapping(told, version.schema) or choose_mapping(model.name, model.vocabulary, version.schema)


def _model(repository: Repository, reference: str, kind: str) -> ModelInfo:
    """Raises NotFoundError where no predictions of it are kept, or none of the kind."""
    model = find_model(repository, reference)
    if kind not in model.kinds:
        raise NotFoundError(
            f"{model.label} gives {' and '.join(model.kinds)}, no {kind}.",
            remedy=f"Name a model that gives a {kind}; dsops preannotate keeps what one says."
            + " To choose by boxes take --strategy box_sum." * (kind == "classification" and "box" in model.kinds),
        )
    return model


def _with_image(version: Version) -> pa.Table:
    samples = version.table("samples", ["sample_id", "sha256"])
    return samples.filter(pc.is_valid(samples["sha256"])).rename_columns(["sample_id", "key"])


def _shares(stored: Stored, scores: npt.NDArray[np.float64], reached: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Scores (N, K) as shares of one; NaN where there is none above 0.

    Of an image of which a model told the best classes only, what is left over goes to the others that it can name.
    """
    total = scores.sum(axis=1, keepdims=True)
    best_only = np.isnan(stored.scores).all(axis=1, keepdims=True) if stored.names else np.ones_like(total, np.bool_)
    others = best_only & reached & (scores == 0)
    count = others.sum(axis=1, keepdims=True)
    filled = scores + others * np.maximum(1 - total, 0) / np.maximum(count, 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        shares: npt.NDArray[np.float64] = np.where(total > 0, filled / filled.sum(axis=1, keepdims=True), np.nan)
    return shares


def _unasked(version: Version, model: ModelInfo, noun: str, count: int, of: int) -> NotFoundError:
    return NotFoundError(
        f"{model.label} was not asked about {count:,} of the {of:,} images of {version.name} with {noun} by people.",
        remedy=f"Ask it: dsops preannotate {version.name} --model … --also-labeled",
    )


def _nothing(version: Version, model: ModelInfo, noun: str) -> NotFoundError:
    return NotFoundError(
        f"No {noun} of {model.label} is kept for an image of {version.name}.",
        remedy=f"Let it predict: dsops preannotate {version.name} --model … --also-labeled",
    )
