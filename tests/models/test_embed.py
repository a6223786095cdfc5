from __future__ import annotations

import io
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import photos
from PIL import Image

from datasetops.errors import DatasetOpsError
from datasetops.images import decode_rgb
from datasetops.models import EmbeddingCache, embed_images
from datasetops.models.efficientnet_lite import EfficientNetLite


class MeanColour:
    """An embedder whose answers can be worked out by hand; remembers the batches it was given."""

    digest = "mean colour"
    dim = 3
    side = 1

    def __init__(self) -> None:
        self.images = 0
        self._lock = threading.Lock()

    def prepare(self, image: Image.Image) -> npt.NDArray[np.uint8]:
        return np.asarray(image.resize((1, 1)))

    def embed(self, batch: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        with self._lock:
            self.images += len(np.unique(batch.reshape(len(batch), -1), axis=0))  # short batches hold copies
        return batch.reshape(len(batch), 3).astype(np.float32)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


def plain(value: int) -> bytes:
    return encoded(Image.new("RGB", (2, 2), (value, value // 2, 255 - value)))


@settings(max_examples=25)
@given(values=st.lists(st.integers(0, 40), max_size=40), jobs=st.integers(1, 4), cached=st.booleans())
def test_every_row_is_its_image_and_each_image_is_embedded_once(
    values: list[int], jobs: int, cached: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    model = MeanColour()
    cache = EmbeddingCache(tmp_path_factory.mktemp("cache"), model.digest) if cached else None
    for _ in range(2):
        vectors = embed_images(model, [str(v) for v in values], lambda row: plain(values[row]), cache=cache, jobs=jobs)
        expected = np.array([[v, v // 2, 255 - v] for v in values], dtype=np.float32).reshape(-1, 3)
        np.testing.assert_array_equal(vectors, expected)
    assert model.images == len(set(values)) * (1 if cached else 2)


def test_images_that_cannot_be_read_or_decoded_are_nan(tmp_path: Path) -> None:
    whole = encoded(photos()[0], "JPEG")
    contents = [plain(7), b"", b"no image", whole[: len(whole) // 2], plain(9)]

    def read(row: int) -> bytes:
        if row == 4:
            raise DatasetOpsError("gone")
        return contents[row]

    cache, keys = EmbeddingCache(tmp_path, "m"), list("abcde")
    vectors = embed_images(MeanColour(), keys, read, cache=cache, jobs=2)
    assert np.isnan(vectors).all(axis=1).tolist() == [False, True, True, True, True]
    again = embed_images(MeanColour(), keys, contents.__getitem__, cache=cache, jobs=2)
    assert np.isnan(again).all(axis=1).tolist() == [False, True, True, True, False], "failures are tried again"


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    def interrupted(items: Iterable[Any], total: int, label: str) -> Iterator[Any]:
        for done, item in enumerate(items):
            if done == 10:
                raise KeyboardInterrupt
            yield item

    cache, keys = EmbeddingCache(tmp_path, "m"), [str(i) for i in range(40)]
    with pytest.raises(KeyboardInterrupt):
        embed_images(MeanColour(), keys, plain, cache=cache, progress=interrupted)
    model = MeanColour()
    vectors = embed_images(model, keys, plain, cache=cache)
    assert model.images == 30
    assert vectors[:, 0].tolist() == list(range(40))


def test_an_error_in_the_code_that_reads_is_not_swallowed() -> None:
    def read(row: int) -> bytes:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        embed_images(MeanColour(), ["a"], read)


def test_reading_is_ahead_of_the_model() -> None:
    """Four reads wait for each other: with fewer at once none would return."""
    together = threading.Barrier(4, timeout=20)

    def read(row: int) -> bytes:
        if row % 4 == 0:
            together.wait()
        return plain(row)

    vectors = embed_images(MeanColour(), [str(i) for i in range(16)], read, jobs=1)
    assert vectors[:, 0].tolist() == list(range(16))


def test_real_vectors_do_not_depend_on_the_cache_or_the_threads(lite: EfficientNetLite, tmp_path: Path) -> None:
    files = [encoded(photo, "JPEG", quality=90) for photo in photos()]
    files += [encoded(Image.open(io.BytesIO(file)).rotate(20)) for file in files]
    keys = [str(i) for i in range(len(files))]
    cache = EmbeddingCache(tmp_path, lite.digest)
    first = embed_images(lite, keys, files.__getitem__, cache=cache, jobs=2)
    np.testing.assert_array_equal(embed_images(lite, keys, files.__getitem__, cache=cache), first)
    np.testing.assert_array_equal(embed_images(lite, keys, files.__getitem__), first)
    direct = lite.embed(np.stack([lite.prepare(decode_rgb(file, at_least=lite.side)) for file in files]))
    np.testing.assert_allclose(first, direct, rtol=1e-3, atol=1e-4)


def test_a_jpeg_decoded_at_reduced_size_has_nearly_the_same_vector(lite: EfficientNetLite) -> None:
    for photo in photos():
        data = encoded(photo.resize((1280, 854)), "JPEG", quality=95)
        full, reduced = (lite.embed(lite.prepare(decode_rgb(data, at_least=at))[None])[0] for at in (None, lite.side))
        other = lite.embed(lite.prepare(photo.rotate(90))[None])[0]
        assert np.linalg.norm(full - reduced) < 0.4 * np.linalg.norm(full - other)
