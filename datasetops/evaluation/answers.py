"""What a model says of the samples that it is judged on: kept predictions first, the rest computed and kept."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from datasetops.engine import Item
from datasetops.errors import ModelError, NotFoundError
from datasetops.evaluation.regions import Flags, Floats
from datasetops.manifest import Repository, Version
from datasetops.models.predictor import open_predictor, with_scheme
from datasetops.plugins import plugin_names
from datasetops.preannotate.compute import compute
from datasetops.preannotate.few_shot_labeler import SCHEME
from datasetops.preannotate.labelers import Labeler
from datasetops.preannotate.mapping import ClassMapping
from datasetops.preannotate.opening import open_labeler
from datasetops.preannotate.predictions import ModelInfo, PredictionStore, find_model
from datasetops.preannotate.rows import Owners, RowRules, rows_of
from datasetops.preannotate.stored import mapping_of, probabilities_of
from datasetops.progress import Progress, no_progress
from datasetops.records import ANNOTATIONS, Finding

KINDS: Final = ("classification", "box", "mask", "polygon", "text")  # that can be evaluated


@dataclass(frozen=True)
class Source:
    """A model to ask, or one whose kept predictions are all there is (`labeler` is None).

    `trained_on`: ids of the samples that it learned from, `version` the one that they are of, and `recipe` the name of what
    it was trained by, as far as it tells.
    """

    kinds: tuple[str, ...]
    labeler: Labeler | None = None
    kept: ModelInfo | None = None
    trained_on: Collection[str] = ()
    version: str | None = None
    recipe: str | None = None

    def info(self, items: Sequence[Item]) -> ModelInfo:
        if self.labeler is not None:
            return self.labeler.info(items)
        if self.kept is None:
            raise ValueError("source: expected a labeler or a model whose predictions are kept")
        return self.kept


@dataclass(frozen=True)
class Answers:
    """What a model says of N samples. `answered` (N,): it said something, be it that nothing is there.

    `probabilities` (N, K) of the schema's classes, NaN where it said nothing; `rows`: regions and texts as rows of
    ANNOTATIONS, with scores. `faults` are about samples of which it could say nothing.
    """

    model: ModelInfo
    mapping: ClassMapping
    kind: str
    answered: Flags
    faults: tuple[Finding, ...]
    computed: int
    probabilities: Floats | None = None
    rows: pa.Table = field(default_factory=ANNOTATIONS.empty_table)


def open_source(repository: Repository, version: Version, model: str | Labeler, **options: Any) -> Source:
    """A model by reference, or kept predictions by the name or digest of their model.

    `options` are those of `open_labeler`. Raises what that raises, and NotFoundError where nothing goes by the name.
    """
    if not isinstance(model, str):
        return _asked(repository, model)
    model = with_scheme(model)
    if model.partition(":")[0] in {*plugin_names("predictors"), SCHEME}:
        labeler, _ = open_labeler(repository, version, model, **options)
        return _asked(repository, labeler)
    kept = find_model(repository, model)
    return Source(kept.kinds, kept=kept)


def kind_of(source: Source, version: Version, task: str | None) -> str:
    """The kind to judge: the task asked for, else the first of the model's that the schema asks for.

    Polygons and masks are the same thing, drawn otherwise. Raises ModelError where there is none.
    """
    asked = version.schema.kinds
    wanted = [kind for kind in source.kinds if kind in KINDS and task in (None, kind)]
    shapes = {"mask", "polygon"}
    for kind in wanted:
        if kind in asked or (kind in shapes and shapes & set(asked)) or (kind == "box" and shapes & set(asked)):
            return kind
    raise ModelError(
        f"The model gives {' and '.join(source.kinds)}, and the schema {version.schema.name!r} asks for "
        f"{' and '.join(asked)}" + (f", of which {task} is wanted." if task else "."),
        remedy=f"Take another model or --task; {', '.join(KINDS)} can be evaluated.",
    )


def ask(
    repository: Repository,
    version: Version,
    source: Source,
    samples: pd.DataFrame,
    kind: str,
    *,
    mapping: Path | None = None,
    progress: Progress = no_progress,
) -> Answers:
    """Answers about samples (sample_id, uri, sha256), each distinct image asked about once in all runs.

    Samples whose image is not at hand, cannot be read, or of which no prediction is kept are faults, by name.
    """
    there = samples["sha256"].notna().to_numpy()
    first = samples[there].drop_duplicates("sha256")
    items = [Item(key, uri) for key, uri in zip(first["sha256"], first["uri"], strict=True)]
    model = source.info(items)
    store = PredictionStore(repository, model.digest)
    known = store.known(item.key for item in items)
    missing = [place for place, item in enumerate(items) if item.key not in known]
    reasons: dict[str, str] = {}
    if source.labeler is None:
        reasons = {items[place].key: "no prediction is kept" for place in missing}
    else:
        reasons = compute(store, source.labeler, model, items, missing, progress)
    owners = pa.table({"sample_id": samples["sample_id"][there].tolist(), "key": samples["sha256"][there].tolist()})
    names = mapping_of(repository, version, model, mapping)
    rules = RowRules(model, names, version.schema, (kind,), 0.0, "")
    said, rows, refused = _said(store, owners, rules)
    reasons |= refused
    ids = pa.array(samples["sample_id"].tolist(), pa.string())
    answered: Flags = pc.is_in(ids, said).to_numpy(zero_copy_only=False)
    probabilities = None
    if kind == "classification":
        probabilities = np.full((len(samples), len(version.schema.class_names)), np.nan)
        own, table = probabilities_of(store, owners, rules)
        probabilities[pc.index_in(own, ids).to_numpy()] = table
        answered = answered & ~np.isnan(probabilities).any(axis=1)
    return Answers(
        model, names, kind, answered, _faults(samples[~answered], reasons), len(missing) - len(reasons), probabilities, rows
    )  # fmt: skip


def _said(store: PredictionStore, owners: pa.Table, rules: RowRules) -> tuple[pa.Array, pa.Table, dict[str, str]]:
    """(samples about whose image the model said something, its rows, by key why it did not)."""
    said, tables = [pa.array([], pa.string())], [ANNOTATIONS.empty_table()]
    refused: dict[str, str] = {}
    of_images = Owners(owners)
    for stored in store.read(owners["key"].to_pylist()):
        if rules.kinds != ("classification",):
            tables.append(rows_of(stored, of_images, rules))
        keys, fault = stored.images["key"], stored.images["fault"]
        said.append(of_images.of(keys.filter(fault.is_null()))[0])
        faulty = fault.is_valid()
        refused |= dict(zip(keys.filter(faulty).to_pylist(), fault.filter(faulty).to_pylist(), strict=True))
    return pa.concat_arrays(said), pa.concat_tables(tables), refused


def _faults(samples: pd.DataFrame, reasons: dict[str, str]) -> tuple[Finding, ...]:
    faults = []
    for row in samples.itertuples():
        if not isinstance(row.sha256, str):
            reason = "its image is not at hand"
        else:
            reason = reasons.get(row.sha256, "the model named no class of the schema")
        faults.append(Finding("image_quality", "high", 0.0, reason, str(row.sample_id), str(row.uri)))
    return tuple(faults)


def _asked(repository: Repository, labeler: Labeler) -> Source:
    predictor = getattr(labeler, "predictor", labeler)
    taught: Collection[str] = getattr(predictor, "trained_on", ())
    version, recipe = getattr(predictor, "version", None), getattr(predictor, "recipe", None)
    if exported := getattr(
        predictor, "exported_from", None
    ):  # a file of a model of this repository learned as that did
        name, digest = exported
        with suppress(NotFoundError):
            home = repository.store.url if repository.root is None else str(repository.root.absolute())
            own: Any = open_predictor(f"model:{name}", cache=repository.settings.cache, repository=home)
            if own.record_digest == digest:
                taught, version, recipe = own.trained_on, own.version, own.recipe
    return Source(labeler.kinds, labeler, trained_on=taught, version=version, recipe=recipe)
