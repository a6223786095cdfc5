"""Errors put together by how their images look and by what they have in common, with pictures."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

from datasetops.audits.coverage import Coded
from datasetops.audits.slices import k_means, traits
from datasetops.errors import DatasetOpsError
from datasetops.evaluation.regions import Floats, Ints
from datasetops.evaluation.slices import slice_values
from datasetops.images import ImageError, decode_rgb
from datasetops.manifest import Repository, Version
from datasetops.models import EmbeddingCache, embed_images, open_embedder
from datasetops.progress import Progress, no_progress
from datasetops.store.media import Media

MOST: Final = 500  # errors looked at: some seconds of embedding
_A_GROUP: Final = 25  # errors in the mean: as many as can be looked through at once …
_GROUPS: Final = 8  # … in no more groups than a reader keeps apart
_SHOWN: Final = 12  # pictures of a group
_SIDE: Final = 144  # pixels of a picture's longer side
_CORNERS: Final = ("x1", "y1", "x2", "y2")
_GIVEN, _FOUND = (64, 200, 90), (255, 64, 64)


@dataclass(frozen=True)
class Group:
    """Errors in images that look alike. `traits`: what is commoner among them than among all errors; `rows` of the list."""

    size: int
    traits: tuple[str, ...]
    rows: tuple[dict[str, Any], ...]


def failure_groups(
    repository: Repository,
    version: Version,
    failures: pd.DataFrame,
    *,
    pictures: bool = True,
    progress: Progress = no_progress,
) -> list[Group]:
    """The first errors of each kind in a list (see `judged.FAILURES`), in groups that look alike, the largest first.

    Each row of a group also has `uri` and `picture`, a data URL with the model's box red and the true one green, None
    where the image cannot be read. Rows nearest to the middle of their group come first.
    """
    turn = failures.groupby("error").cumcount()  # of each kind as many, while there are some
    chosen = failures.iloc[np.argsort(turn.to_numpy(), kind="stable")[:MOST]].reset_index(drop=True)
    if not len(chosen):
        return []
    samples = version.table("samples").to_pandas().set_index("sample_id", drop=False)
    own = samples.loc[chosen["sample_id"]].reset_index(drop=True)
    media = Media(repository.store, repository.root)
    codes, distance = _clusters(repository, own, media, progress)
    # What divides the samples is asked of each once: a number of its own for each is a name, and divides nothing.
    once = own.drop_duplicates("sample_id", ignore_index=True)
    place = pd.Index(once["sample_id"]).get_indexer(own["sample_id"])
    slices = slice_values(once, version.schema).values()
    values = [*_words(chosen), *(replace(one, codes=one.codes[place]) for one in slices)]
    groups = []
    for code in np.argsort(-np.bincount(codes), kind="stable").tolist():
        items = np.flatnonzero(codes == code)
        items = items[np.argsort(distance[items], kind="stable")]
        rows = [_row(chosen.iloc[row], own.iloc[row], media if pictures else None) for row in items[:_SHOWN].tolist()]
        common = traits(items, values) if len(items) < len(chosen) else []
        groups.append(Group(len(items), tuple(common), tuple(rows)))
    return groups


def _clusters(repository: Repository, samples: pd.DataFrame, media: Media, progress: Progress) -> tuple[Ints, Floats]:
    """The group of each row and its distance from the middle; images that cannot be read are a group of their own."""
    settings = repository.settings
    codes, distance = np.zeros(len(samples), np.int64), np.zeros(len(samples))
    readable = np.flatnonzero(samples["sha256"].notna().to_numpy())
    number = min(_GROUPS, len(readable) // _A_GROUP)
    if number < 2:
        return codes, distance
    embedder = open_embedder(settings.model, cache=settings.cache)
    uris = samples["uri"].to_numpy(object)[readable]
    vectors = embed_images(
        embedder,
        samples["sha256"].to_numpy(object)[readable].tolist(),
        lambda row: media.read(uris[row]),
        cache=EmbeddingCache(settings.cache / "embeddings", embedder.digest),
        jobs=settings.jobs,
        progress=progress,
    )
    known = np.isfinite(vectors[:, 0])
    if int(known.sum()) < number * 2:
        return codes, distance
    points = vectors[known] / np.maximum(np.linalg.norm(vectors[known], axis=1, keepdims=True), 1e-12)
    rows = readable[known]
    codes[:] = number
    codes[rows], distance[rows] = k_means(points, points, number, 0, settings.jobs)
    return codes, distance


def _words(failures: pd.DataFrame) -> list[Coded]:
    """The kinds of error and the classes, as values that a group may have more of than others."""
    found = []
    for name in ("error", "truth", "predicted"):
        codes, distinct = pd.factorize(failures[name])
        if len(distinct) > 1:
            found.append(Coded(codes.astype(np.int64), tuple(f"{name} = {value}" for value in distinct)))
    return found


def _row(failure: pd.Series[Any], sample: pd.Series[Any], media: Media | None) -> dict[str, Any]:
    told = {name: None if value is None or value != value else value for name, value in failure.items()}
    box = None if told["x1"] is None else tuple(float(failure[name]) for name in _CORNERS)
    shown = None if media is None else picture(media, str(sample["uri"]), box, told["predicted"] is not None)
    return {str(name): value for name, value in told.items()} | {"uri": sample["uri"], "picture": shown}


def picture(media: Media, uri: str, box: tuple[float, ...] | None = None, found: bool = False) -> str | None:
    """A small one as a data URL, with a box on it that the model found or missed; None where it cannot be read."""
    try:
        image = decode_rgb(media.read(uri))
    except (DatasetOpsError, ImageError):
        return None
    scale = _SIDE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    small = image.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)
    if box is not None:
        x1, y1, x2, y2 = (value * scale for value in box)
        corners = (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))
        ImageDraw.Draw(small).rectangle(corners, outline=_FOUND if found else _GIVEN, width=2)
    sink = io.BytesIO()
    small.save(sink, "JPEG", quality=82)
    return f"data:image/jpeg;base64,{base64.b64encode(sink.getvalue()).decode()}"
