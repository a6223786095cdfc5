"""Which class each given box shows, by a probe on embeddings of what is in the box, learned from the other images."""

from __future__ import annotations

import threading
from collections import OrderedDict
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from datasetops.audits.base import AuditContext
from datasetops.audits.boxes.rows import BoxRows, box_rows
from datasetops.audits.images.stored_images import stored_image
from datasetops.audits.labels.label_probabilities import grouped_with_copies
from datasetops.audits.labels.probe import out_of_sample_probabilities
from datasetops.errors import FormatError
from datasetops.models import Embedder, EmbeddingCache, embed_images, open_embedder
from datasetops.records import sha256_hex
from datasetops.settings import load_settings

FEWEST: Final = 20  # boxes, and
_CLASSES: Final = 2  # classes with at least two boxes, below which there is nothing to compare
_AROUND: Final = 1.2  # of a box's longer side is cut out, square: objects keep their shape, and a little around them
_LARGE: Final = 2  # times the side that the model sees, above which a cut-out is made smaller at once
_DIMENSIONS: Final = 1_024  # of a random projection of the embeddings, so that 100,000 boxes take 0.4 GB


def crop_probabilities(
    context: AuditContext, *, embedder: Embedder | None = None, cache: EmbeddingCache | None = None
) -> pd.DataFrame | None:
    """Out-of-sample class probabilities of the given boxes: index annotation_id, one column a class of the schema.

    Judged are boxes of any kind of annotation that have an area and a class of the schema, crowds left out; a row is NaN
    where the image cannot be read, or its class is seen in no other image. No box of the same image, its copies or its
    group has a part in a box's probabilities. The built-in model, which is the default, takes a core a second for 150
    boxes, the probe another 20 s for 2,400; `cache` keeps what the model computed, under the digest of
    `projected(embedder)`.

    None where there is nothing to compare; the reason is then in `context.memo["crops"]`.
    """
    given = box_rows(context)
    if not len(given.rows):
        context.memo["crops"] = given.lack
        return None
    names = list(context.schema.class_names)
    readable = context.at_hand
    chosen = (given.boxes.label >= 0) & (given.boxes.label < len(names)) & ~given.crowd & readable[given.boxes.image]
    rows = np.flatnonzero(chosen)
    often = np.bincount(given.boxes.label[rows], minlength=1)
    if len(rows) < FEWEST or (often > 1).sum() < _CLASSES:
        context.memo["crops"] = (
            f"{len(rows):,} boxes, of {int((often > 1).sum()):,} classes, are in images at hand; "
            f"{FEWEST} of {_CLASSES} classes are needed"
        )
        return None
    if embedder is None:
        embedder = open_embedder("builtin:efficientnet-lite0", cache=_model_cache(context))
    model = projected(embedder)
    crops = _Crops(context, given, rows, model.side)
    embeddings = embed_images(
        model, crops.keys(), crops.read, cache=cache, jobs=context.jobs, progress=context.progress
    )
    probe = out_of_sample_probabilities(
        embeddings,
        given.boxes.label[rows],
        groups=grouped_with_copies(context.samples).to_numpy()[given.boxes.image[rows]],
        n_classes=len(names),
        seed=context.seed,
    )
    index = pd.Index(given.rows["annotation_id"].iloc[rows], name="annotation_id")
    return pd.DataFrame(probe.probabilities, index=index, columns=names)


def projected(embedder: Embedder) -> Embedder:
    """The embedder, its vectors mapped to 1,024 numbers at random where they are longer."""
    return _Projected(embedder) if embedder.dim > _DIMENSIONS else embedder


def _model_cache(context: AuditContext) -> Path:
    folder: Path = context.memo.get("model_cache") or load_settings(None).cache
    return folder


class _Projected:
    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self.digest = sha256_hex(f"{embedder.digest} {_DIMENSIONS} at random".encode())
        self.dim, self.side = _DIMENSIONS, embedder.side
        numbers = np.random.default_rng(0).standard_normal((embedder.dim, _DIMENSIONS), dtype=np.float32)
        self._axes = numbers / np.float32(np.sqrt(_DIMENSIONS))

    def prepare(self, image: Image.Image) -> npt.NDArray[Any]:
        return self._embedder.prepare(image)

    def embed(self, batch: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        vectors: npt.NDArray[np.float32] = self._embedder.embed(batch) @ self._axes
        return vectors


class _Crops:
    """Cut-outs of the boxes `rows` of `given`, those of one image one after another, as files in memory."""

    def __init__(self, context: AuditContext, given: BoxRows, rows: npt.NDArray[np.int64], side: int) -> None:
        self._context = context
        self._images = given.boxes.image[rows]
        corners = given.boxes.corners[rows]
        middle, half = (corners[:, :2] + corners[:, 2:]) / 2, given.boxes.sides[rows].max(axis=1)[:, None] * _AROUND / 2
        low, high = np.floor(middle - half), np.ceil(middle + half)
        self._corners = np.clip(np.concatenate([low, high], axis=1), -(2**31), 2**31).astype(np.int64)
        self._most = _LARGE * side
        self._recent: OrderedDict[int, Future[Image.Image | None]] = OrderedDict()
        self._kept = 4 * max(1, context.jobs) + 2  # as many images as are read from at once
        self._lock = threading.Lock()

    def keys(self) -> list[str]:
        digests = self._context.samples["sha256"].to_numpy()[self._images]
        return [
            sha256_hex(f"{digest} {corners}".encode())
            for digest, corners in zip(digests, self._corners.tolist(), strict=True)
        ]

    def read(self, number: int) -> bytes:
        """An image file. Raises FormatError where the image cannot be read, or has nothing at the box's place."""
        image = self._image(int(self._images[number]))
        if image is None:
            raise FormatError("The image cannot be read, or is turned by viewers.", remedy="Put the file back.")
        left, top, right, bottom = self._corners[number].tolist()
        left, top, right, bottom = max(0, left), max(0, top), min(image.width, right), min(image.height, bottom)
        if left >= right or top >= bottom:
            raise FormatError("The box lies outside its image.", remedy="Correct the box.")
        cut = image.crop((left, top, right, bottom))
        cut.thumbnail((self._most, self._most))
        header = f"P6 {cut.width} {cut.height} 255\n"
        return header.encode() + cut.tobytes()

    def _image(self, row: int) -> Image.Image | None:
        """Decoded once for all boxes in it, by whichever thread asks first."""
        with self._lock:
            waiting = self._recent.get(row)
            first = waiting is None
            if waiting is None:
                waiting = self._recent[row] = Future()
                while len(self._recent) > self._kept:
                    self._recent.popitem(last=False)
        if first:
            try:
                waiting.set_result(stored_image(self._context, row))
            except BaseException as error:
                waiting.set_exception(error)
                raise
        return waiting.result()
