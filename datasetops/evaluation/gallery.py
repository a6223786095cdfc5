"""Errors put together by how their images look and by what they have in common, with pictures."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import pandas as pd
from PIL import Image

from datasetops.audits.sets.coverage import Coded
from datasetops.audits.sets.slices import k_means, traits
from datasetops.errors import DatasetOpsError
from datasetops.evaluation.marks import FOUND, GIVEN, Mark, draw_marks
from datasetops.evaluation.regions import CORNERS, Floats, Ints
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
_SIDE: Final = 144  # pixels of a picture's longer side, and …
_MARKED: Final = 288  # … of one on which regions have to be told from each other


@dataclass(frozen=True)
class Card:
    """An image, and in `rows` all its errors in the group; `picture` is a data URL, None where it cannot be read."""

    uri: str | None
    picture: str | None
    rows: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Group:
    """`size` errors in `images` that look alike, and `cards` of the first of these, those most like the group first.

    `traits`: what is commoner among the errors than among all.
    """

    size: int
    images: int
    traits: tuple[str, ...]
    cards: tuple[Card, ...]

    @property
    def shown(self) -> int:
        """How many of its errors the cards have."""
        return sum(len(card.rows) for card in self.cards)


def failure_groups(
    repository: Repository,
    version: Version,
    failures: pd.DataFrame,
    *,
    beside: Mapping[str, Sequence[Mark]] = MappingProxyType({}),
    pictures: bool = True,
    progress: Progress = no_progress,
) -> list[Group]:
    """The first errors of each kind in a list (see `judged.FAILURES`), in groups that look alike, the largest first.

    In pictures what the model found is red, what it missed green; `beside` has more to draw, by sample.
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
        owners = place[items]
        images = list(dict.fromkeys(owners.tolist()))
        cards = tuple(
            _card(chosen.iloc[items[owners == image]], once.iloc[image], media if pictures else None, beside)
            for image in images[:_SHOWN]
        )
        common = traits(items, values) if len(items) < len(chosen) else []
        groups.append(Group(len(items), len(images), tuple(common), cards))
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


def _card(
    failures: pd.DataFrame, sample: pd.Series[Any], media: Media | None, beside: Mapping[str, Sequence[Mark]]
) -> Card:
    rows: tuple[dict[str, Any], ...] = tuple(
        {str(name): None if value is None or value != value else value for name, value in row.items()}
        for row in failures.to_dict("records")
    )
    marks = [
        Mark(tuple(float(row[name]) for name in CORNERS), row["geometry"], GIVEN if row["predicted"] is None else FOUND)
        for row in rows
        if row["x1"] is not None
    ]
    marks = [*beside.get(sample["sample_id"], ()), *marks]
    return Card(sample["uri"], None if media is None else picture(media, str(sample["uri"]), marks), rows)


def picture(media: Media, uri: str, marks: Sequence[Mark] = ()) -> str | None:
    """A small one as a data URL, larger where something is marked on it; None where it cannot be read."""
    try:
        image = decode_rgb(media.read(uri))
    except (DatasetOpsError, ImageError):
        return None
    scale = (_MARKED if marks else _SIDE) / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    small = image.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)
    draw_marks(small, marks, scale)
    sink = io.BytesIO()
    small.save(sink, "JPEG", quality=82)
    return f"data:image/jpeg;base64,{base64.b64encode(sink.getvalue()).decode()}"
