"""What a training leaves behind: the model's files, and a record of everything that it was made from.

Records are written once, under the next free name (m1, m2, …), and named in the ledger. A model is put into production by
an event `promote` with the parameter `model`; an event `rollback` takes the newest promotion that stands back.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib import resources
from importlib.metadata import version
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from datasetops.audits.record import plain
from datasetops.errors import DamagedError, NotFoundError
from datasetops.ledger import Event
from datasetops.manifest import Repository, Version
from datasetops.manifest.erasing import was_replaced
from datasetops.records import canonical_json, sha256_hex
from datasetops.store.numbered import Numbered

EVENT: Final = "train"
PROMOTE: Final = "promote"
ROLLBACK: Final = "rollback"
WEIGHTS: Final = "weights"  # roles of files
DESCRIPTION: Final = "description"
SAMPLES: Final = "samples"
TRAIN: Final = "train"  # parts of the samples
VALIDATION: Final = "validation"
_MODELS: Final = Numbered("models", "m", "model", "dsops train VERSION")
_FILES: Final = "model-files"
_SUFFIXES: Final = {WEIGHTS: "safetensors", DESCRIPTION: "json", SAMPLES: "parquet"}
_FORMAT: Final = 1


@dataclass(frozen=True)
class ModelFile:
    """An object of the store, and the SHA-256 of its bytes."""

    key: str
    sha256: str


@dataclass(frozen=True)
class ModelRecord:
    """A trained model and what it was made from.

    `task` is the kind of annotation that it gives; `recipe` holds all fields, defaults included; `code` the release and a
    digest of the code that trains; `metrics` are those on the validation part, and `metric` names the one that stands for
    all. `files` by role: weights, description (how they are used), samples (ids by part). `samples`: their numbers by
    part. `notes`: what a reader has to know before believing a number. `experiment`: the version was not accepted.
    """

    name: str
    task: str
    classes: tuple[str, ...]
    version: str
    commit: str
    schema: str
    split: str
    recipe: Mapping[str, Any]
    recipe_digest: str
    code: Mapping[str, str]
    environment: Mapping[str, Any]
    seed: int
    metric: str
    metrics: Mapping[str, Any]
    files: Mapping[str, ModelFile]
    samples: Mapping[str, int]
    samples_digest: str
    notes: tuple[str, ...] = ()
    experiment: bool = False
    skip_unreadable: bool = False
    parent: str | None = None
    event_id: str = ""
    created: str = ""
    actor: str = ""

    @property
    def key(self) -> str:
        return _MODELS.key(self.name)

    @property
    def digest(self) -> str:
        """SHA-256 over all files: two models with one digest say the same of every image."""
        return sha256_hex(canonical_json({role: file.sha256 for role, file in self.files.items() if role != SAMPLES}))

    def as_dict(self) -> dict[str, Any]:
        return dict(plain(asdict(self)))

    def to_bytes(self) -> bytes:
        return canonical_json(self.as_dict() | {"format": _FORMAT})

    @classmethod
    def from_bytes(cls, data: bytes) -> ModelRecord:
        """Raises ValueError where the bytes are not a record."""
        try:
            raw = json.loads(data)
            if raw.pop("format") != _FORMAT:
                raise ValueError("unknown format; a newer dsops may have written it")
            raw["files"] = {role: ModelFile(**file) for role, file in raw["files"].items()}
            raw["classes"], raw["notes"] = tuple(raw["classes"]), tuple(raw["notes"])
            return cls(**raw)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a model record: {error}") from None


@dataclass(frozen=True)
class Trained:
    """What a trainer gives back: weights as safetensors, how to use them, and how good they are on the validation part."""

    task: str
    classes: tuple[str, ...]
    weights: bytes
    description: Mapping[str, Any]
    metric: str
    metrics: Mapping[str, Any]
    environment: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def record_model(repository: Repository, version: Version, trained: Trained, **facts: Any) -> ModelRecord:
    """Keep a model under the next free name, and note it in the ledger.

    `facts` are fields of ModelRecord; `samples` the ids by part. Raises ConflictError.
    """
    parts: Mapping[str, Sequence[str]] = facts.pop("samples")
    contents = {
        WEIGHTS: trained.weights,
        DESCRIPTION: canonical_json(plain(dict(trained.description))),
        SAMPLES: _samples_file(parts),
    }
    event = Event(EVENT, repository.settings.actor)
    record = ModelRecord(
        name="",
        task=trained.task,
        classes=trained.classes,
        version=version.name,
        commit=version.digest,
        schema=version.commit.schema,
        metric=trained.metric,
        metrics=plain(dict(trained.metrics)),
        files={role: keep_file(repository, data, _SUFFIXES[role]) for role, data in contents.items()},
        samples={part: len(ids) for part, ids in parts.items()},
        samples_digest=samples_digest(parts[TRAIN]),
        notes=trained.notes,
        event_id=event.event_id,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        actor=event.actor,
        **facts,
    )
    record = _named(repository, record)
    event = replace(event, event_id=record.event_id)
    files = {file.key: file.sha256 for file in record.files.values()} | {record.key: sha256_hex(record.to_bytes())}
    repository.ledger.record(
        replace(
            event,
            inputs={"version": version.name, "commit": version.digest, "schema": version.commit.schema},
            outputs={
                "model": record.name,
                "digest": record.digest,
                "files": files,
                "metrics": plain(dict(trained.metrics)),
            },
            parameters=plain(
                {
                    "recipe": record.recipe["name"],
                    "recipe_digest": record.recipe_digest,
                    "split": record.split,
                    "seed": record.seed,
                    "experiment": record.experiment,
                    "parent": record.parent,
                }
            ),
        )
    )
    return record


def _named(repository: Repository, record: ModelRecord) -> ModelRecord:
    """Written under the first name that nobody else takes. What the same training wrote before it was killed is taken on."""
    for left in _MODELS.names(repository.store):
        key = _MODELS.key(left)
        with suppress(ValueError):
            known = ModelRecord.from_bytes(repository.store.get(key))
            chance = {name: getattr(record, name) for name in ("name", "event_id", "created", "actor")}
            if replace(known, **chance).to_bytes() == record.to_bytes() and not repository.ledger.names_file(key):
                return known
    return replace(record, name=_MODELS.add(repository.store, lambda name: replace(record, name=name).to_bytes()))


def load_model_record(repository: Repository, name: str) -> ModelRecord:
    """A model by its name; `production` or `promoted` is the one that was promoted last.

    Raises NotFoundError that lists what there is, DamagedError.
    """
    if name in ("production", "promoted"):
        name = promoted(repository)
    data = _MODELS.read(repository.store, name)
    try:
        return ModelRecord.from_bytes(data)
    except ValueError as error:
        raise DamagedError(
            f"{_MODELS.key(name)} is damaged: {error}.", remedy="Put it back from a backup, then run `dsops verify`."
        ) from None


def model_records(repository: Repository) -> list[ModelRecord]:
    """All models, oldest first."""
    return [load_model_record(repository, name) for name in _MODELS.names(repository.store)]


def promoted(repository: Repository) -> str:
    """Name of the model in production. Raises NotFoundError where there is none."""
    taken_back = 0
    for entry in repository.ledger.backwards():
        if entry.event.kind == ROLLBACK:
            taken_back += 1
        elif entry.event.kind == PROMOTE:
            if not taken_back:
                return str(entry.event.parameters["model"])
            taken_back -= 1
    raise NotFoundError(
        "No model is in production.", remedy="Name one (dsops models), or promote one: dsops promote MODEL"
    )


def model_file(repository: Repository, record: ModelRecord, role: str) -> bytes:
    """Bytes of one of its files. Raises DamagedError where they are missing or are not what the record says."""
    file = record.files[role]
    try:
        data = repository.store.get(file.key)
    except NotFoundError:
        data = b""
    now = sha256_hex(data)
    if now != file.sha256 and not was_replaced(repository.store, file.key, file.sha256, now):
        raise DamagedError(
            f"{file.key}, the {role} of the model {record.name}, is missing or damaged.",
            remedy="Put it back from a backup, or train again: dsops train --reproduce " + record.name,
        )
    return data


def model_samples(repository: Repository, record: ModelRecord) -> dict[str, list[str]]:
    """Ids of the samples that a model was trained and validated on, by part."""
    data = model_file(repository, record, SAMPLES)
    table = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True).read(use_threads=False).to_pandas()
    return {part: table["sample_id"][table["part"] == part].tolist() for part in (TRAIN, VALIDATION)}


def samples_digest(ids: Sequence[str]) -> str:
    """SHA-256 over sample ids in their order."""
    digest = hashlib.sha256()
    for one in ids:
        digest.update(one.encode() + b"\n")
    return digest.hexdigest()


def code_identity() -> dict[str, str]:
    """The release, and a digest over the files of this package."""
    folder = resources.files("datasetops.training")
    files = sorted((item for item in folder.iterdir() if item.name.endswith(".py")), key=lambda item: item.name)
    parts = [sha256_hex(item.read_bytes()) for item in files]
    return {"version": version("dsops"), "training": sha256_hex("".join(parts).encode())}


def keep_file(repository: Repository, data: bytes, suffix: str) -> ModelFile:
    """Keep a file of a model, named by its content."""
    digest = sha256_hex(data)
    key = f"{_FILES}/{digest}.{suffix}"
    if not repository.store.exists(key):
        repository.store.put(key, data)
    return ModelFile(key, digest)


def _samples_file(parts: Mapping[str, Sequence[str]]) -> bytes:
    ids = [one for own in parts.values() for one in own]
    part = [name for name, own in parts.items() for _ in own]
    table = pa.table({"sample_id": pa.array(ids, pa.string()), "part": pa.array(part).dictionary_encode()})
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue()
