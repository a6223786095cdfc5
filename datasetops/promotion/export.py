"""A trained model as an ONNX file with its description, and what is known of the file: parity, speed, size, memory."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from PIL import Image

from datasetops.audits.record import plain
from datasetops.errors import DamagedError, ModelError, NotFoundError, StoreError, did_you_mean
from datasetops.evaluation.answers import ask, kind_of, open_source
from datasetops.evaluation.judging import judge
from datasetops.images import ImageError, decode_rgb
from datasetops.ledger import Event
from datasetops.manifest import Repository, Version
from datasetops.manifest.erasing import was_replaced
from datasetops.models.onnx_model import EXPORTED_FROM
from datasetops.models.predictor import open_predictor
from datasetops.preannotate.rows import DEFAULT_THRESHOLDS
from datasetops.progress import Progress, no_progress
from datasetops.promotion.description import description_of
from datasetops.promotion.graph import Graph
from datasetops.promotion.graphs import graph_of
from datasetops.promotion.parity import parity
from datasetops.promotion.quantise import quantise
from datasetops.promotion.timing import BATCHES, timed
from datasetops.records import canonical_json, sha256_hex
from datasetops.store.media import Media
from datasetops.training.record import TRAIN, VALIDATION, ModelRecord, keep_file, model_samples

EVENT: Final = "export_model"
FLOAT: Final = "float32"
INT8: Final = "int8"
IMAGES: Final = 64  # images that parity is checked on, and as many that int8 is calibrated by
_TIMED: Final = 16  # images that latency is measured with, over and over
_JUDGED: Final = 500  # items at most that the metric is worked out on
_FOLDER: Final = "exports/"


@dataclass(frozen=True)
class Export:
    """What an export made and found. `info` has plain values: model, digest, version, commit, time, environment, items,
    `variants` by precision (files, bytes, parity, timing, metric), torchscript and notes."""

    export_id: str
    info: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        return dict(self.info)


class _Images:
    """Images of some samples, those that can be read; decoded anew whenever they are gone through."""

    def __init__(self, repository: Repository, samples: pd.DataFrame) -> None:
        self._read = Media(repository.store, repository.root).read
        self._uris = [str(uri) for uri in samples["uri"] if self._decoded(str(uri)) is not None]

    def __len__(self) -> int:
        return len(self._uris)

    def __iter__(self) -> Iterator[Image.Image]:
        for uri in self._uris:
            image = self._decoded(uri)
            if image is not None:
                yield image

    def _decoded(self, uri: str) -> Image.Image | None:
        try:
            return decode_rgb(self._read(uri))
        except (ImageError, NotFoundError):
            return None


@dataclass(frozen=True)
class _Work:
    """What all steps of an export need. `images`: real ones, of the part of the samples that is named."""

    repository: Repository
    version: Version
    record: ModelRecord
    part: str
    images: _Images
    calibration: _Images
    threads: int
    batches: Sequence[int]
    progress: Progress


def export_model(
    repository: Repository,
    record: ModelRecord,
    folder: Path,
    *,
    int8: bool = False,
    images: int = IMAGES,
    threads: int = 1,
    batches: Sequence[int] = BATCHES,
    progress: Progress = no_progress,
) -> Export:
    """Write NAME.onnx and NAME.yaml (and NAME-int8.…, NAME.torchscript.pt) to a folder, and keep them with what was found.

    Parity is checked on images that the model was validated on, or trained on where there are none; int8 is calibrated by
    images that it was trained on. Raises ModelError for a model that cannot be one graph, NotFoundError where none of its
    images can be read, StoreError where the folder cannot be written.
    """
    version = repository.version(record.version)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _not_written(folder, error) from None
    graph = graph_of(repository, record, repository.settings.cache)
    ids = model_samples(repository, record)
    part = VALIDATION if ids[VALIDATION] else TRAIN
    shown, taught = (_samples(version, _spread(own, images)) for own in (ids[part], ids[TRAIN] if int8 else []))
    work = _Work(
        repository, version, record, part, _Images(repository, shown), _Images(repository, taught), threads, batches,
        progress,
    )  # fmt: skip
    if not len(work.images):
        raise NotFoundError(
            f"None of the images of {record.name} can be read, so that nothing can be compared.",
            remedy="Check that they are where they were: dsops verify",
        )
    try:
        found = _write(work, graph, folder, int8)
    except OSError as error:
        raise _not_written(folder, error) from None
    return _kept(repository, record, found)


def _write(work: _Work, graph: Graph, folder: Path, int8: bool) -> dict[str, Any]:
    import onnx

    record = work.record
    about = dict(zip(EXPORTED_FROM, (record.name, record.digest), strict=True)) | {"dsops.version": record.version}
    onnx.helper.set_model_props(graph.model, about | {"dsops.commit": record.commit})
    onnx.checker.check_model(graph.model)
    file = folder / f"{record.name}.onnx"
    try:
        _put(file, graph.model.SerializeToString())
    except ValueError:
        raise ModelError(
            f"{record.name} is larger than 2 GB, which one ONNX file cannot be.", remedy="Export a smaller model."
        ) from None
    description = description_of(graph)
    _put(file.with_suffix(".yaml"), description)
    notes: list[str] = []
    variants = {FLOAT: _variant(work, file, description)}
    if int8:
        small = folder / f"{record.name}-int8.onnx"
        variants[INT8] = _int8(work, file, small, description, notes)
    _judge(work, {name: folder / variant["name"] for name, variant in variants.items()}, variants, notes)
    if not variants[FLOAT]["parity"]["answers"]:
        notes.append("The model says nothing of these images: parity shows nothing.")
    if graph.model.graph.input[0].type.tensor_type.shape.dim[0].dim_value:
        notes.append("torch.onnx cannot leave the number of images of a call open for this model: it takes one.")
    if len(work.images) < IMAGES:
        notes.append(f"Parity was checked on {len(work.images)} images.")
    if work.part == TRAIN:
        notes.append(
            "Nothing was set apart to validate on: parity was checked on images that the model was trained on."
        )
    return {
        "items": {"part": work.part, "parity": len(work.images), "calibration": len(work.calibration)},
        "variants": variants,
        "torchscript": _script(work, graph, folder / f"{record.name}.torchscript.pt"),
        "notes": notes,
    }


def _variant(work: _Work, file: Path, description: bytes) -> dict[str, Any]:
    """Files, size, parity and speed of an ONNX file."""
    cache = work.repository.settings.cache
    home = _home(work.repository)
    own = open_predictor(f"model:{work.record.name}", cache=cache, device="cpu", repository=home)
    other = open_predictor(f"onnx:{file}", cache=cache, device="cpu")
    told = parity(own, other, work.progress(iter(work.images), len(work.images), f"Comparing {file.name}"))
    try:
        timing = timed(file, _stacked(other, work.images), batches=work.batches, threads=work.threads)
    except RuntimeError as error:
        raise ModelError(
            f"{file} could not be timed: {error}", remedy="Run the command again with more memory."
        ) from None
    data = file.read_bytes()
    kept = {"onnx": data, "yaml": description}
    files = {suffix: vars(keep_file(work.repository, content, suffix)) for suffix, content in kept.items()}
    return {"name": file.name, "files": files, "bytes": len(data), "parity": told.as_dict(), "timing": timing}


def _int8(work: _Work, file: Path, small: Path, description: bytes, notes: list[str]) -> dict[str, Any]:
    cache = work.repository.settings.cache
    opened: Any = open_predictor(f"onnx:{file}", cache=cache, device="cpu")
    inputs = [opened.prepare(image).pixels for image in work.calibration]
    temporary = small.with_name(f"{uuid.uuid4().hex}.part")
    try:
        how, reason = quantise(file, temporary, inputs)
        temporary.replace(small)
    finally:
        temporary.unlink(missing_ok=True)
    if reason:
        notes.append(f"int8 is {how}, since static quantisation failed: {reason}")
    _put(small.with_suffix(".yaml"), description)
    return _variant(work, small, description) | {"quantisation": how}


def _judge(work: _Work, files: Mapping[str, Path], variants: dict[str, Any], notes: list[str]) -> None:
    """The metric of the model itself and of each file, on at most so many items of the validation part."""
    ids = model_samples(work.repository, work.record)[VALIDATION]
    if not ids:
        notes.append("Nothing was set apart to validate on: what the export costs in the metric was not measured.")
        return
    samples = _samples(work.version, _spread(ids, _JUDGED))
    references = {"": f"model:{work.record.name}"} | {name: f"onnx:{file}" for name, file in files.items()}
    values = {}
    for name, reference in references.items():
        source = open_source(work.repository, work.version, reference, device="cpu")
        kind = kind_of(source, work.version, work.record.task)
        answers = ask(work.repository, work.version, source, samples, kind, progress=work.progress)
        least = DEFAULT_THRESHOLDS.get(kind, 0.0)
        alone = np.arange(len(samples), dtype=np.int64)
        judged = judge(answers, samples, work.version.labels(), work.version.schema, alone, score=least)
        metric = work.record.metric if work.record.metric in judged.numbers else judged.headline
        values[name] = judged.numbers[metric]
    for name in files:
        own, value = values[""], values[name]
        told = {"name": metric, "items": len(samples), "model": own, "exported": value, "difference": value - own}
        variants[name]["metric"] = plain(told)


def _script(work: _Work, graph: Graph, file: Path) -> dict[str, Any]:
    if graph.module is None:
        reason = "the network that it stands on exists as ONNX only, not as a torch module"
        return {"works": False, "note": reason}
    from datasetops.promotion.torch_graphs import traced

    data, note = traced(*graph.module)
    if data is None:
        return {"works": False, "note": note}
    _put(file, data)
    return {
        "works": True,
        "note": note,
        "name": file.name,
        "bytes": len(data),
        "file": vars(keep_file(work.repository, data, "pt")),
    }


def _kept(repository: Repository, record: ModelRecord, found: Mapping[str, Any]) -> Export:
    """Written once, and named in the ledger."""
    import onnx
    import onnxruntime

    info = plain(
        {
            "model": record.name,
            "digest": record.digest,
            "version": record.version,
            "commit": record.commit,
            "time": datetime.now(UTC).isoformat(timespec="microseconds"),
            "environment": {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__},
            **found,
        }
    )
    data = canonical_json(info)
    export_id = sha256_hex(data)[:16]
    key = f"{_FOLDER}{record.name}/{export_id}.json"
    repository.store.put(key, data)
    files = [file for variant in info["variants"].values() for file in variant["files"].values()]
    files += [info["torchscript"]["file"]] if info["torchscript"]["works"] else []
    event = Event(
        EVENT,
        repository.settings.actor,
        inputs={"model": record.name, "digest": record.digest, "version": record.version, "commit": record.commit},
        outputs={
            "export": export_id,
            "files": {file["key"]: file["sha256"] for file in files} | {key: sha256_hex(data)},
        },
        parameters={"variants": list(info["variants"])},
    )
    repository.ledger.record(event)
    return Export(export_id, {"export": export_id} | info)


def load_export(repository: Repository, record: ModelRecord, export_id: str | None = None) -> Export:
    """An export of a model by its id, or what the id begins with; the newest unless told.

    Raises NotFoundError where the model has none, DamagedError.
    """
    events = [entry.event for entry in repository.ledger.backwards() if entry.event.kind == EVENT]
    known = {
        str(event.outputs["export"]): event.outputs["files"]
        for event in events
        if event.inputs["digest"] == record.digest
    }
    if not known:
        raise NotFoundError(
            f"{record.name} has not been exported.", remedy=f"Run: dsops export-model {record.name} --to DIR"
        )
    chosen = next((one for one in known if one.startswith(export_id or "")), None)
    if chosen is None:
        raise NotFoundError(
            f"{record.name} has no export {export_id!r}.", remedy=did_you_mean(str(export_id), known, noun="exports")
        )
    key = f"{_FOLDER}{record.name}/{chosen}.json"
    try:
        data = repository.store.get(key)
    except NotFoundError:
        data = b""
    now = sha256_hex(data)
    if now != known[chosen][key] and not was_replaced(repository.store, key, known[chosen][key], now):
        raise DamagedError(
            f"{key} is missing or damaged.", remedy=f"Export again: dsops export-model {record.name} --to DIR"
        )
    return Export(chosen, {"export": chosen} | json.loads(data))


def _samples(version: Version, ids: Sequence[str]) -> pd.DataFrame:
    samples = version.table("samples").to_pandas()
    chosen: pd.DataFrame = samples[samples["sample_id"].isin(set(ids))].reset_index(drop=True)
    return chosen


def _spread(ids: Sequence[str], most: int) -> list[str]:
    places = np.unique(np.linspace(0, len(ids) - 1, min(most, len(ids))).round().astype(int)) if ids else []
    return [ids[place] for place in places]


def _stacked(opened: Any, images: Iterable[Image.Image]) -> Any:
    """Some prepared images of the most frequent shape."""
    prepared = [opened.prepare(image).pixels for image in islice(images, _TIMED)]
    shape = Counter(item.shape for item in prepared).most_common(1)[0][0]
    return np.stack([item for item in prepared if item.shape == shape])


def _put(file: Path, data: bytes) -> None:
    temporary = file.with_name(f"{uuid.uuid4().hex}.part")
    try:
        temporary.write_bytes(data)
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def _not_written(folder: Path, error: OSError) -> StoreError:
    return StoreError(
        f"{folder} cannot be written: {error.strerror or error}.", remedy="Name a folder that can be written to."
    )


def _home(repository: Repository) -> str:
    return repository.store.url if repository.root is None else str(repository.root.absolute())
