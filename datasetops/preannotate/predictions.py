"""What models said about images, kept by the model's digest and the image's, so that nothing is computed twice.

Derived data: Parquet files `predictions/<model digest>/<any name>.parquet` in the repository's store, a row an image,
never changed once written. Any number of processes may write at once; what a killed one had written stays.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from datasetops.errors import NotFoundError, did_you_mean
from datasetops.labeling.base import ImageSize
from datasetops.manifest import Repository
from datasetops.models.predictor import Prediction
from datasetops.preannotate.runs import newest_run
from datasetops.records import canonical_json
from datasetops.store import KeyExistsError

_FOLDER: Final = "predictions/"
_MODEL: Final = "model.json"
_NAMES: Final = b"names"  # of the columns of `scores`, in a file's metadata
SCORE_PLACES: Final = 5  # decimals: below it scores differ with what else was in the batch
_PLACES: Final = 2  # decimals of a pixel, for the same reason
_ID_DIGITS: Final = 12  # of a model's digest that rows and people are told
_DIGITS: Final = 6  # by so many a model may be named; fewer may fit several by chance

# One row a prediction, best first within an image. `item` is the image's row in `Stored.images`, `rank` its place.
PREDICTIONS: Final = pa.schema(
    [
        ("item", pa.int64()),
        ("rank", pa.int32()),
        ("kind", pa.string()),
        ("name", pa.string()),  # in the model's vocabulary, or the class of its prompts
        ("score", pa.float64()),
        ("x1", pa.float64()),  # pixels of the image as viewers show it
        ("y1", pa.float64()),
        ("x2", pa.float64()),
        ("y2", pa.float64()),
        ("geometry", pa.string()),
        ("text", pa.string()),
    ]
)
IMAGES: Final = pa.schema(
    [
        ("key", pa.string()),  # SHA-256 of the image, or of it and what was asked about it
        ("width", pa.int32()),  # pixels as stored
        ("height", pa.int32()),
        ("orientation", pa.int8()),  # EXIF, 1 to 8
        ("fault", pa.string()),  # why the model says nothing
    ]
)
_EACH: Final = pa.struct(list(PREDICTIONS)[2:])
_PART: Final = pa.schema([*IMAGES, ("predictions", pa.list_(_EACH)), ("scores", pa.list_(pa.float32()))])


@dataclass(frozen=True)
class Outcome:
    """What a model says about one image of this size, or why it says nothing."""

    size: ImageSize
    predictions: tuple[Prediction, ...] = ()
    fault: str | None = None


@dataclass(frozen=True)
class ModelInfo:
    """A model, as its predictions and the rows made of them name it. `vocabulary` is None where it was given prompts."""

    name: str
    revision: str | None
    digest: str
    kinds: tuple[str, ...]
    vocabulary: tuple[str, ...] | None

    @property
    def label(self) -> str:
        """What stands in `annotations.model`: NAME@REVISION#DIGEST, twelve digits of it."""
        return f"{self.name}{f'@{self.revision}' if self.revision else ''}#{self.digest[:_ID_DIGITS]}"


@dataclass(frozen=True)
class Stored:
    """Predictions about some images: `images` (N rows of IMAGES), `predictions` (rows of PREDICTIONS, by image and rank).

    `scores` (N, len(names)) has the scores of all names, NaN where the model gave none.
    """

    images: pa.Table
    predictions: pa.Table
    names: tuple[str, ...]
    scores: npt.NDArray[np.float32]


class PredictionStore:
    """The predictions of one model."""

    def __init__(self, repository: Repository, digest: str) -> None:
        self._store = repository.store
        self._folder = f"{_FOLDER}{digest}/"

    def describe(self, model: ModelInfo) -> None:
        """Note once whose predictions these are."""
        key = self._folder + _MODEL
        if not self._store.exists(key):
            plain = {name: getattr(model, name) for name in ("name", "revision", "digest", "kinds", "vocabulary")}
            with suppress(KeyExistsError):
                self._store.put_new(key, canonical_json(plain))

    def known(self, keys: Iterable[str]) -> set[str]:
        """Those of the keys about which something is kept."""
        wanted = sorted_keys(keys)
        found: set[str] = set()
        for table in self._parts(["key"]):
            found.update(table["key"].take(pa.array(_places(table, wanted)[0])).to_pylist())
        return found

    def read(self, keys: Iterable[str]) -> Iterator[Stored]:
        """What is kept about images, each once, a file at a time and in its order."""
        wanted = sorted_keys(keys)
        taken = np.zeros(len(wanted), bool)
        for table in self._parts():
            rows, places = _places(table, wanted)
            fresh = ~taken[places]
            first = np.sort(np.unique(places[fresh], return_index=True)[1])  # one file may hold a key twice
            rows, places = rows[fresh][first], places[fresh][first]
            if len(rows):
                taken[places] = True
                yield _stored(table.take(pa.array(rows)))

    def add(self, keys: Sequence[str], outcomes: Sequence[Outcome]) -> None:
        """Keep what a model said about some images, in a file of their own."""
        if not len(keys):
            return
        sink = BytesIO()
        table = _part(keys, outcomes)
        pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
        self._store.put_new(f"{self._folder}{uuid.uuid4().hex}.parquet", sink.getvalue())

    def _parts(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """The files that can be read; what stood in others is computed again."""
        for key in self._store.list(self._folder):
            if key.endswith(".parquet"):
                with suppress(pa.ArrowInvalid, OSError, NotFoundError, ValueError):
                    file = pq.ParquetFile(self._store.path(key), page_checksum_verification=True)
                    if file.schema_arrow.names != _PART.names:
                        continue
                    table = file.read(columns)
                    yield table.replace_schema_metadata(file.schema_arrow.metadata)


def stored_models(repository: Repository) -> list[ModelInfo]:
    """Models whose predictions are kept, by name."""
    models = []
    for key in repository.store.list(_FOLDER):
        if key.endswith(f"/{_MODEL}"):
            with suppress(ValueError, KeyError, TypeError):
                models.append(_model(json.loads(repository.store.get(key))))
    return sorted(models, key=lambda model: (model.name, model.digest))


def newest_models(repository: Repository, first: Collection[str] = ()) -> list[ModelInfo]:
    """Of the models of each name the one that ran last, or of which `first` has the digest; by name."""
    by_name: dict[str, list[ModelInfo]] = {}
    for model in stored_models(repository):
        by_name.setdefault(model.name, []).append(model)
    newest = []
    for models in by_name.values():
        named = [model for model in models if model.digest in first] or models
        last = newest_run(repository, [model.digest for model in named]) if len(named) > 1 else None
        newest.append(next((model for model in named if model.digest == last), named[0]))
    return newest


def find_model(repository: Repository, text: str) -> ModelInfo:
    """The one whose name, NAME@REVISION or digest (or its beginning) this is; of several of a name the one that ran last.

    Raises NotFoundError that lists them.
    """
    models = stored_models(repository)
    wanted = text.rpartition("#")[2] or text
    named = [model for model in models if text in (model.name, f"{model.name}@{model.revision}")]
    if len(named) > 1:
        last = newest_run(repository, [model.digest for model in named])
        named = [model for model in named if model.digest == last] or named
    for found in (
        [model for model in models if model.label == text],
        named,
        [model for model in models if len(wanted) >= _DIGITS and model.digest.startswith(wanted)],
    ):
        if len(found) == 1:
            return found[0]
        if found:
            labels = ", ".join(model.label for model in found)
            raise NotFoundError(f"{text!r} may be any of {len(found)} models.", remedy=f"Name one of: {labels}.")
    remedy = did_you_mean(text, [model.label for model in models], noun="models with predictions")
    remedy += f" Of a digest at least {_DIGITS} digits are needed." * (len(wanted) < _DIGITS)
    raise NotFoundError(f"No predictions of a model {text!r} are kept.", remedy=remedy)


def sorted_keys(keys: Iterable[str]) -> npt.NDArray[np.bytes_]:
    """The distinct keys, in an order to search in."""
    found: npt.NDArray[np.bytes_] = np.unique(np.array(list(keys) or [""], dtype=np.bytes_))
    return found


def _places(table: pa.Table, wanted: npt.NDArray[np.bytes_]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rows of a file whose keys are wanted, and their places among those."""
    own = np.array(table["key"].to_pylist(), dtype=np.bytes_)
    place = np.minimum(np.searchsorted(wanted, own), len(wanted) - 1)
    rows = np.flatnonzero(wanted[place] == own)
    return rows, place[rows]


def _part(keys: Sequence[str], outcomes: Sequence[Outcome]) -> pa.Table:
    tables = [next((p.scores for p in item.predictions if p.scores is not None), None) for item in outcomes]
    names = list(dict.fromkeys(name for table in tables if table for name in table))
    images = {
        "key": list(keys),
        "width": [item.size.width for item in outcomes],
        "height": [item.size.height for item in outcomes],
        "orientation": [item.size.orientation for item in outcomes],
        "fault": [item.fault for item in outcomes],
        "predictions": [[_plain(prediction) for prediction in item.predictions] for item in outcomes],
        "scores": [None if table is None else [table.get(name, np.nan) for name in names] for table in tables],
    }
    return pa.table(images, schema=_PART.with_metadata({_NAMES: canonical_json(names)}))


def _plain(prediction: Prediction) -> Mapping[str, Any]:
    box = [None if value is None else round(float(value), _PLACES) for value in prediction.box or (None,) * 4]
    geometry = None if prediction.geometry is None else canonical_json(dict(prediction.geometry)).decode()
    score = round(float(prediction.score), SCORE_PLACES)
    own = {"kind": prediction.kind, "name": prediction.name, "score": score, "text": prediction.text}
    return own | dict(zip(("x1", "y1", "x2", "y2"), box, strict=True)) | {"geometry": geometry}


def _stored(table: pa.Table) -> Stored:
    lists = table["predictions"].combine_chunks()
    flat, item = lists.flatten(), pc.list_parent_indices(lists)
    counts = pc.list_value_length(lists).to_numpy(zero_copy_only=False)
    starts = np.cumsum(counts) - counts
    rank = np.arange(len(flat)) - np.repeat(starts, counts)
    columns = [item, pa.array(rank), *(pc.struct_field(flat, name) for name in PREDICTIONS.names[2:])]
    rows = pa.table([column.cast(field.type) for column, field in zip(columns, PREDICTIONS, strict=True)], PREDICTIONS)
    names = tuple(json.loads((table.schema.metadata or {}).get(_NAMES, b"[]")))
    scores = np.full((len(table), len(names)), np.nan, np.float32)
    given = table["scores"].combine_chunks()
    if names:
        there = given.is_valid().to_numpy(zero_copy_only=False)
        scores[there] = given.flatten().to_numpy(zero_copy_only=False).reshape(-1, len(names))
    return Stored(table.select(IMAGES.names), rows, names, scores)


def _model(raw: Mapping[str, Any]) -> ModelInfo:
    vocabulary = None if raw["vocabulary"] is None else tuple(raw["vocabulary"])
    return ModelInfo(raw["name"], raw["revision"], raw["digest"], tuple(raw["kinds"]), vocabulary)
