"""Run checks over a version and leave an audit record."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache, cached_property, partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from datasetops.audits.base import AuditContext, Baseline, Check, CheckResult
from datasetops.audits.images.personal_data import NAME as PERSONAL_DATA
from datasetops.audits.images.stored import StoredImages
from datasetops.audits.labels.probabilities import for_version
from datasetops.audits.outlines.pixel_probabilities import PixelProbabilities
from datasetops.audits.record import AuditRecord, is_noted, scores_table, store_audit, stored_audit, worst_first
from datasetops.audits.sets.ingested import ingest_findings
from datasetops.errors import DatasetOpsError, ModelError, NotFoundError, did_you_mean
from datasetops.manifest import Repository, Version
from datasetops.models import EmbeddingCache, elsewhere, embed_images, faces, open_embedder
from datasetops.models.dense import DenseLite0
from datasetops.models.predictor import Predictor, open_predictor
from datasetops.plugins import load_plugin, plugin_names
from datasetops.progress import Progress, no_progress
from datasetops.records import SEVERITIES, VOTE, canonical_json, findings_table, sha256_hex


def audit(
    repository: Repository,
    version: Version,
    *,
    checks: Sequence[str] = (),
    split: str | None = None,
    where: str | None = None,
    probabilities: pd.DataFrame | None = None,
    detections: pd.DataFrame | None = None,
    pixels: PixelProbabilities | None = None,
    against: Baseline | None = None,
    model: str | None = None,
    seed: int = 0,
    again: bool = False,
    progress: Progress = no_progress,
) -> AuditRecord:
    """Run the named checks (all of them by default) over a version's samples and store the record.

    `split` and `where` (a SQL condition as in `Version.where`) choose samples. `probabilities` are out-of-sample class
    probabilities from any model: index sample_id, one column a class; without them a probe on embeddings of `model`
    makes them. `detections` are a detector's boxes (columns of audits.detections), `pixels` a segmenter's class
    probabilities; `against` is what drift is measured from. The same inputs give the same findings, so a stored record is
    returned unless `again` is set or some image could not be read for it. Raises NotFoundError for an unknown check and
    where not one image can be read, ValueError for probabilities that do not fit.
    """
    names = _check_names(checks)
    table = version.table("samples")
    if split is not None:
        check_split(version, split)
        table = table.filter(pc.equal(table["split"], split))
    if where is not None:
        table = table.filter(pc.is_in(table["sample_id"], pa.array(version.where(where), pa.string())))
    if not len(table):
        raise NotFoundError(f"No sample of {version.name} is chosen.", remedy="Loosen --split and --where.")
    reference = model or repository.settings.model
    detector = _personal_detector(repository, names, asked=PERSONAL_DATA in checks)
    parameters = {
        "checks": names,
        "split": split,
        "where": where,
        "model": reference,
        "probabilities": None if probabilities is None else _frame_digest(probabilities),
        "detections": None if detections is None else _frame_digest(detections),
        "pixels": None if pixels is None else pixels.digest,
        "against": None if against is None else against.name,
        "seed": seed,
    } | ({"personal_model": detector} if detector else {})
    audit_id = sha256_hex(canonical_json([version.digest, parameters, _code_version()]))[:12]
    stored = None if again else stored_audit(repository, version, audit_id)
    if stored is not None and stored.info.get("unreadable") == 0 and is_noted(repository, stored):
        return replace(stored, reused=True)

    rows = version.table("annotations")
    rows = rows.filter(pc.is_in(rows["sample_id"], table["sample_id"].combine_chunks())).to_pandas()
    is_vote = rows["role"] == VOTE
    annotations = rows[~is_vote].reset_index(drop=True)
    samples = table.to_pandas()
    embeddings = Embeddings(repository, reference, samples, progress)
    context = AuditContext(
        samples=samples,
        annotations=annotations,
        votes=rows[is_vote].reset_index(drop=True),
        schema=version.schema,
        images=embeddings.images,
        embeddings=embeddings,
        probabilities=None if probabilities is None else for_version(probabilities, samples, version.schema),
        detections=detections,
        baseline=against,
        ingest_findings=lambda: ingest_findings(repository, version),
        personal_detector=partial(_open_detector, repository, detector) if detector else None,
        seed=seed,
        jobs=repository.settings.jobs,
        progress=progress,
        memo={"model_cache": repository.settings.cache, "dense_features": _dense_features(repository)}
        | ({} if pixels is None else {"pixel_probabilities": pixels}),
    )
    results: dict[str, CheckResult] = {}
    facts: dict[str, dict[str, Any]] = {}
    for name in names:
        check: Check = load_plugin("checks", name)()
        started = time.perf_counter()
        results[name] = check.run(context)
        _refuse_without_images(embeddings.images, version)
        counts = pd.Series([finding.severity for finding in results[name].findings], dtype=object).value_counts()
        facts[name] = {
            "findings": len(results[name].findings),
            "seconds": round(time.perf_counter() - started, 3),
            "severity": {severity: int(counts.get(severity, 0)) for severity in reversed(SEVERITIES)},
        }
        if "skipped" in results[name].summary:
            facts[name]["skipped"] = results[name].summary["skipped"]
    info = {
        "audit": audit_id,
        "version": version.name,
        "commit": version.digest,
        "parameters": parameters,
        "models": embeddings.models,
        "notes": [] if detections is None else list(detections.attrs.get("notes", ())),
        "samples": len(samples),
        "annotations": len(annotations),
        "unreadable": len(embeddings.unreadable()),
        "checks": facts,
    }
    record = AuditRecord(
        audit_id,
        info,
        worst_first(pa.concat_tables([findings_table(result.findings) for result in results.values()])),
        scores_table(results),
        {name: result.summary for name, result in results.items()},
    )
    store_audit(repository, record)
    return record


def _personal_detector(repository: Repository, names: Sequence[str], *, asked: bool) -> str | None:
    """Reference of what looks for faces and plates: the setting's, else where the check is `asked` for what is installed."""
    if PERSONAL_DATA not in names:
        return None
    own = f"faces:{faces.NAME}" if asked and faces.is_installed() else None
    return repository.settings.personal_model or own


def _open_detector(repository: Repository, reference: str) -> Predictor:
    return open_predictor(
        reference, cache=repository.settings.cache, task="box", repository=str(repository.root or repository.store.url)
    )


def check_split(version: Version, split: str) -> None:
    """Raises NotFoundError, with the splits that there are, for one that the version does not have."""
    known = [name for name in pc.unique(version.table("samples", ["split"])["split"]).to_pylist() if name]
    if split not in known:
        raise NotFoundError(
            f"{version.name} has no split {split!r}.",
            remedy=did_you_mean(split, known, noun="splits")
            if known
            else "None of its samples has a split yet. Place them with: dsops split train=0.8,val=0.1,test=0.1",
        )


def _refuse_without_images(images: StoredImages, version: Version) -> None:
    """Not one image can be read: then the images are not where they were, and findings would say nothing."""
    if images.faults and not images.any_read:
        raise NotFoundError(
            f"No image of {version.name} can be read from {images.folder()}: {next(iter(images.faults.values()))}",
            remedy="Put the folder back, or ingest the images from where they are now. Checks that need no image still "
            "run, by --check (dsops audit --list).",
        )


class Embeddings:
    """Computed when a check first asks for them, from the cache where they were computed before."""

    def __init__(self, repository: Repository, reference: str, samples: pd.DataFrame, progress: Progress) -> None:
        self._repository = repository
        self._reference = reference
        self._samples = samples
        self._progress = progress
        self.models: dict[str, str] = {}
        self.images = StoredImages(repository, samples["uri"].tolist())

    def __call__(self) -> npt.NDArray[np.float32]:
        return self._array

    def unreadable(self) -> set[int]:
        """Rows of images that some check could not read or decode."""
        rows = set(self.images.faults)
        if "_array" in self.__dict__:  # it was asked for
            rows |= set(np.flatnonzero(np.isnan(self._array[:, 0]) & self._samples["sha256"].notna()).tolist())
        return rows

    @cached_property
    def _array(self) -> npt.NDArray[np.float32]:
        embedder = open_embedder(self._reference, cache=self._repository.settings.cache)
        self.models[self._reference] = embedder.digest
        readable = np.flatnonzero(self._samples["sha256"].notna())
        array = np.full((len(self._samples), embedder.dim), np.nan, dtype=np.float32)
        if not len(readable):
            raise ModelError(
                "The version's samples have no images at hand.",
                remedy="Ingest it with --images, or run the checks that need none (dsops audit --list).",
            )
        away = elsewhere(self._repository, self._reference, self._samples["uri"].iloc[readable].tolist())
        array[readable] = embed_images(
            embedder,
            self._samples["sha256"].iloc[readable].tolist(),
            lambda row: self.images.read(int(readable[row])),
            cache=EmbeddingCache(self._repository.cache / "embeddings", embedder.digest),
            jobs=self._repository.settings.jobs,
            progress=self._progress,
            away=away,
        )
        if away is not None and np.isnan(array[readable, 0]).all():
            with suppress(DatasetOpsError):
                self.images.open(int(readable[0]))  # what is wrong with all of them
        return array


def _dense_features(repository: Repository) -> Callable[[Image.Image], npt.NDArray[np.float32]]:
    """Features of an image's cells (rows, columns, D), by a network that is opened when they are first asked for."""
    network = cache(lambda: DenseLite0(repository.settings.cache))
    return lambda image: network().cells(image)


def _check_names(checks: Sequence[str]) -> list[str]:
    known = plugin_names("checks")
    for name in checks:
        if name not in known:
            raise NotFoundError(f"There is no check {name!r}.", remedy=did_you_mean(name, known, noun="checks"))
    return [name for name in known if not checks or name in checks]


def _frame_digest(frame: pd.DataFrame) -> str:
    hashes = pd.util.hash_pandas_object(frame, index=True).to_numpy().tobytes()
    return sha256_hex(hashes + canonical_json([str(column) for column in frame.columns]))


def _code_version() -> str:
    from importlib.metadata import version

    return version("dsops")
